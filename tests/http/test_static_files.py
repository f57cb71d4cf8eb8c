"""Folders of static files: cached, in parts, and with no way out."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from email import message_from_bytes
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pywatt_host.http.static import StaticDirectory
from pywatt_host.types import Message
from tests.hosting import hosted, http_scope, run, websocket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    static = tmp_path / "static"
    (static / "sub").mkdir(parents=True)
    (static / "a.txt").write_text("0123456789")
    (static / "sub" / "index.html").write_text("<h1>sub</h1>")
    (static / "404.html").write_text("<h1>nothing</h1>")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "static-too").mkdir()
    (tmp_path / "static-too" / "b.txt").write_text("secret")
    return tmp_path


def manifest(**more: Any) -> dict[str, Any]:
    return {"mounts": [{"route_prefix": "/static", "directory": "./static", **more}]}


def test_a_file_is_served_with_its_type_tag_and_cache_time(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(cache="1h"), directory=folder) as host:
            answer = await host.get("/static/a.txt")
            assert (answer.status, answer.body) == (200, b"0123456789")
            assert answer.header("content-type").startswith("text/plain")
            assert answer.header("cache-control") == "public, max-age=3600"
            head = await host.request("HEAD", "/static/a.txt")
            assert (head.status, head.body, head.header("content-length")) == (200, b"", "10")
            again = await host.get("/static/a.txt", headers={"If-None-Match": answer.header("etag")})
            assert (again.status, again.body) == (304, b"")
            since = await host.get("/static/a.txt", headers={"If-Modified-Since": answer.header("last-modified")})
            assert since.status == 304
        async with hosted(manifest(), directory=folder) as host:
            assert (await host.get("/static/a.txt")).header("cache-control") == ""

    run(main)


def test_a_part_of_a_file_is_206(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            part = await host.get("/static/a.txt", headers={"Range": "bytes=2-4"})
            assert (part.status, part.body, part.header("content-range")) == (206, b"234", "bytes 2-4/10")
            assert (await host.get("/static/a.txt", headers={"Range": "bytes=-3"})).body == b"789"
            beyond = await host.get("/static/a.txt", headers={"Range": "bytes=100-"})
            assert beyond.status == 416

    run(main)


def test_nothing_is_listed_and_what_is_not_there_is_a_404_problem(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            for path in ("/static", "/static/", "/static/sub", "/static/sub/", "/static/none", "/static/a.txt/x"):
                answer = await host.get(path)
                assert (answer.status, answer.header("content-type")) == (404, "application/problem+json"), path
            answer = await host.request("POST", "/static/a.txt")
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
            assert (await websocket(host.app, "/static/a.txt"))[0]["type"] == "websocket.close"

    run(main)


def test_with_html_folders_have_an_index_and_there_is_a_page_for_nothing(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(html=True, cache="1m"), directory=folder) as host:
            index = await host.get("/static/sub/")
            assert (index.status, index.body) == (200, b"<h1>sub</h1>")
            assert (await host.get("/static/sub")).status == 307
            nothing = await host.get("/static/none")
            assert (nothing.status, nothing.body, nothing.header("cache-control")) == (404, b"<h1>nothing</h1>", "")

    run(main)


@pytest.mark.parametrize("paths", ["strict", "lenient"])
def test_no_path_leads_out_of_the_folder(folder: Path, paths: str) -> None:
    (folder / "static" / "link").symlink_to(folder / "secret.txt")
    (folder / "static" / "dir").symlink_to(folder)
    hostile = [
        ("/static/../secret.txt", b"/static/../secret.txt"),
        ("/static/../secret.txt", b"/static/%2e%2e/secret.txt"),
        ("/static/../secret.txt", b"/static/..%2fsecret.txt"),
        ("/static/../static-too/b.txt", b"/static/%2e%2e/static-too/b.txt"),
        ("/static//etc/passwd", b"/static//etc/passwd"),
        (f"/static/{folder}/secret.txt", f"/static/{folder}/secret.txt".encode()),
        ("/static/..\\secret.txt", b"/static/..%5csecret.txt"),
        ("/static/a.txt\0.png", b"/static/a.txt%00.png"),
        ("/static/link", b"/static/link"),
        ("/static/dir/secret.txt", b"/static/dir/secret.txt"),
        ("/static/sub/../../secret.txt", b"/static/sub/../../secret.txt"),
        ("/static/" + "x" * 5000, b"/static/" + b"x" * 5000),
    ]

    async def main() -> None:
        async with hosted(manifest(paths=paths), directory=folder) as host:
            for path, raw in hostile:
                answer = await host.get(path, raw_path=raw)
                assert answer.status in (400, 404), (path, answer.status)
                assert b"secret" not in answer.body.replace(b"secret.txt", b"")

    run(main)


def test_a_folder_that_goes_away_is_a_404_and_no_crash(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            assert (await host.get("/static/a.txt")).status == 200
            os.rename(folder / "static", folder / "gone")
            assert (await host.get("/static/a.txt")).status == 404

    run(main)


# Files that cannot be served ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("html", [False, True])
def test_what_is_no_regular_file_is_404(folder: Path, method: str, html: bool) -> None:
    static = folder / "static"
    (static / "404.html").unlink()
    (static / "circle").symlink_to("circle")
    (static / "there").symlink_to("back")
    (static / "back").symlink_to("there")
    (static / "nowhere").symlink_to("missing")
    os.mkfifo(static / "pipe")
    (static / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(static / "s"))

        async def main() -> None:
            async with hosted(manifest(html=html, paths="lenient"), directory=folder) as host:
                names = ["circle", "circle/x", "there", "nowhere", "pipe", "device", "s", "x" * 300, "a\0b", "a.txt/b"]
                for name in names:
                    answer = await host.request(method, f"/static/{name}", raw_path=b"/static/x")
                    assert (answer.status, answer.header("content-type")) == (404, "application/problem+json"), name
                assert host.logs("pywatt.app") == []

        run(main)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "function"),
    [("a.txt", "open"), ("sub/", "open"), ("sub", "open"), ("sub/index.html", "stat"), ("sub/none", "stat")],
)
def test_what_may_not_be_read_is_403(
    folder: Path, method: str, path: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may read everything. So `os.open` and `os.stat` refuse files here, as they do for
    other users."""
    original = getattr(os, function)

    def refuses(path: Any, *more: Any, **named: Any) -> Any:
        if os.fspath(path).endswith((".txt", "index.html", "none")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, *more, **named)

    async def main() -> None:
        async with hosted(manifest(html=True), directory=folder) as host:
            with monkeypatch.context() as patched:
                patched.setattr(os, function, refuses)
                answer = await host.request(method, f"/static/{path}")
            assert (answer.status, answer.header("content-type")) == (403, "application/problem+json")
            assert host.logs("pywatt.app") == []

    run(main)


@pytest.mark.parametrize(("code", "status"), [(errno.EMFILE, 503), (errno.EIO, 500)])
def test_a_fault_of_the_machine_is_an_error_without_a_traceback(
    folder: Path, code: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def fails(path: Any, *more: Any, **named: Any) -> int:
        if os.fspath(path).endswith("a.txt"):
            raise OSError(code, os.strerror(code), path)
        return opened(path, *more, **named)

    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            with monkeypatch.context() as patched:
                patched.setattr(os, "open", fails)
                assert (await host.get("/static/a.txt")).status == status
            (line,) = host.logs("pywatt.static")
            assert os.strerror(code) in line["message"]
            assert "exception" not in line
            assert host.logs("pywatt.app") == []

    run(main)


async def sent(folder: Path, path: str, then: Callable[[], None], left: asyncio.Event | None = None) -> list[Message]:
    """What is sent for a path; `then` is called once the first bytes of the body have been sent. The client leaves when
    `left` is set."""
    messages: list[Message] = []

    async def receive() -> Message:
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)
        if len(messages) == 2:
            then()

    await StaticDirectory(folder / "static", html=False, cache=None)(http_scope("GET", path), receive, send)
    return messages


def test_a_file_that_vanishes_once_it_is_open_is_sent_to_its_end(folder: Path) -> None:
    path = folder / "static" / "big"
    path.write_bytes(os.urandom(300_000))
    expected = path.read_bytes()

    async def main() -> None:
        messages = await sent(folder, "/big", path.unlink)
        assert b"".join(message["body"] for message in messages[1:]) == expected
        assert not messages[-1]["more_body"]

    run(main)


def test_a_file_that_shrinks_is_an_incomplete_response(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "static" / "big"
    path.write_bytes(b"x" * 300_000)

    async def main() -> None:
        messages = await sent(folder, "/big", lambda: os.truncate(path, 70_000))
        assert (b"content-length", b"300000") in messages[0]["headers"]
        assert sum(len(message["body"]) for message in messages[1:]) == 70_000
        assert messages[-1]["more_body"]
        assert caplog.messages == [f"{path} could not be sent to its end: it is shorter than it was"]

    run(main)


def test_a_client_that_leaves_ends_the_reading(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "static" / "big").write_bytes(b"x" * 20_000_000)

    async def main() -> None:
        left = asyncio.Event()
        messages = await sent(folder, "/big", left.set, left)
        assert len(messages) < 20
        assert caplog.messages == []

    run(main)


def test_a_server_that_raises_because_the_client_has_left_is_no_fault(folder: Path) -> None:
    (folder / "static" / "big").write_bytes(b"x" * 300_000)

    def raises() -> None:
        raise OSError("the client has left")

    async def main() -> None:
        assert len(await sent(folder, "/big", raises)) == 2

    run(main)


def test_no_descriptor_stays_open(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(html=True), directory=folder) as host:
            before = len(os.listdir("/dev/fd"))
            for path in ("a.txt", "sub", "sub/", "none", "sub/none"):
                for method in ("GET", "HEAD"):
                    await host.request(method, f"/static/{path}")
            assert len(os.listdir("/dev/fd")) <= before

    run(main)


def test_a_folder_is_redirected_to_a_path_of_this_host(folder: Path) -> None:
    (folder / "static" / "a b?").mkdir()
    (folder / "static" / "a b?" / "index.html").write_text("x")

    async def main() -> None:
        async with hosted(manifest(html=True), directory=folder) as host:
            answer = await host.get("/static/a b?", raw_path=b"/static/a%20b%3f", query_string=b"q=1")
            assert (answer.status, answer.header("location")) == (307, "/static/a%20b%3F/?q=1")
        site = {"mounts": [{"route_prefix": "/", "directory": "./static", "html": True, "paths": "lenient"}]}
        async with hosted(site, directory=folder) as host:
            answer = await host.get("//sub", raw_path=b"//sub")
            assert (answer.status, answer.header("location")) == (307, "/sub/")

    run(main)


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status", "body"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=0-0,", 206, b"0"),
        ("BYTES=8-", 206, b"89"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=-100", 206, b"0123456789"),
        ("bytes=2-3, 4-5", 206, b"2345"),
        ("bytes=2-5,100-200", 206, b"2345"),
        (f"bytes=0-{'9' * 5000}", 206, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=10-11,-0", 416, None),
        (f"bytes={'9' * 5000}-", 416, None),
        ("lines=0-1", 200, b"0123456789"),
        ("bytes", 200, b"0123456789"),
        ("bytes=", 200, b"0123456789"),
        ("bytes=-", 200, b"0123456789"),
        ("bytes=5-2", 200, b"0123456789"),
        ("bytes=a-b", 200, b"0123456789"),
        ("bytes=0-1,x", 200, b"0123456789"),
        ("bytes=+1-2", 200, b"0123456789"),
        ("bytes=" + ",".join(["0-0"] * 101), 200, b"0123456789"),
    ],
)
def test_a_range_is_served_refused_or_ignored(folder: Path, header: str, status: int, body: bytes | None) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            answer = await host.get("/static/a.txt", headers={"Range": header})
            assert answer.status == status
            if status == 416:
                assert answer.header("content-range") == "bytes */10"
            else:
                assert (answer.body, answer.header("content-length")) == (body, str(len(answer.body)))
            head = await host.request("HEAD", "/static/a.txt", headers={"Range": header})
            assert (head.status, head.header("content-length"), head.header("content-range")) == (200, "10", "")

    run(main)


def test_several_ranges_are_parts_of_one_body(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(cache="1h"), directory=folder) as host:
            answer = await host.get("/static/a.txt", headers={"Range": "bytes=7-, 0-1 ,3-3"})
            assert (answer.status, answer.header("content-length")) == (206, str(len(answer.body)))
            kind = f"Content-Type: {answer.header('content-type')}\r\n\r\n".encode()
            parts: Any = message_from_bytes(kind + answer.body).get_payload()
            found = [(part["content-range"], part["content-type"], part.get_payload()) for part in parts]
            text = "text/plain; charset=utf-8"
            assert found == [
                ("bytes 0-1/10", text, "01"),
                ("bytes 3-3/10", text, "3"),
                ("bytes 7-9/10", text, "789"),
            ]

    run(main)


def test_a_range_counts_only_for_the_file_that_the_client_knows(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            first = await host.get("/static/a.txt")
            for known in ("etag", "last-modified"):
                headers = {"Range": "bytes=0-1", "If-Range": first.header(known)}
                assert (await host.get("/static/a.txt", headers=headers)).status == 206
            for unknown in ('"other"', f"W/{first.header('etag')}", "Thu, 01 Jan 1970 00:00:00 GMT"):
                headers = {"Range": "bytes=0-1", "If-Range": unknown}
                assert (await host.get("/static/a.txt", headers=headers)).status == 200

    run(main)


def test_an_empty_file_has_no_parts(folder: Path) -> None:
    (folder / "static" / "empty").write_bytes(b"")

    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            for header, status in (("bytes=0-", 416), ("bytes=-5", 200), ("bytes=-0", 416)):
                answer = await host.get("/static/empty", headers={"Range": header})
                assert (answer.status, answer.whole) == (status, True)

    run(main)


@pytest.mark.parametrize("date", ["yesterday", "Mon, 99 Feb 2025 10:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", ""])
def test_a_date_that_is_early_or_no_date_sends_the_file(folder: Path, date: str) -> None:
    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            assert (await host.get("/static/a.txt", headers={"If-Modified-Since": date})).status == 200

    run(main)


def test_a_file_of_the_far_future_is_served(folder: Path) -> None:
    os.utime(folder / "static" / "a.txt", (1e11, 1e11))

    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            assert (await host.get("/static/a.txt")).body == b"0123456789"

    run(main)


# Hidden names ---------------------------------------------------------------------------------------------------------

HIDDEN = [
    ("/static/.env", b"/static/.env"),
    ("/static/.env", b"/static/%2eenv"),
    ("/static/.env", b"/static/%2Eenv"),
    ("/static/.git/config", b"/static/.git/config"),
    ("/static/.git/config", b"/static/%2egit/config"),
    ("/static/.git/config", b"/static/%2egit%2fconfig"),
    ("/static/.git/", b"/static/.git/"),
    ("/static/.git", b"/static/.git"),
    ("/static//.env", b"/static//.env"),
    ("/static/./.env", b"/static/./.env"),
    ("/static/sub/../.env", b"/static/sub/../.env"),
    ("/static/sub/.env", b"/static/sub/.env"),
    ("/static/.well-known/../.env", b"/static/.well-known/../.env"),
    ("/static/.well-known/.key", b"/static/.well-known/.key"),
    ("/static/...", b"/static/..."),
    ("/static/.well-known2", b"/static/.well-known2"),
]


def with_hidden_files(folder: Path) -> None:
    static = folder / "static"
    (static / ".git").mkdir()
    (static / ".well-known").mkdir()
    for name in (".env", ".git/config", ".git/index.html", "sub/.env", ".well-known/.key", "...", ".well-known2"):
        (static / name).write_text("hidden")
    (static / ".well-known" / "security.txt").write_text("Contact: us")


@pytest.mark.parametrize("html", [False, True])
@pytest.mark.parametrize("paths", ["strict", "lenient"])
def test_a_name_that_begins_with_a_dot_is_404(folder: Path, paths: str, html: bool) -> None:
    with_hidden_files(folder)

    async def main() -> None:
        async with hosted(manifest(paths=paths, html=html), directory=folder) as host:
            for path, raw in HIDDEN:
                for method in ("GET", "HEAD"):
                    answer = await host.request(method, path, raw_path=raw)
                    assert answer.status in ((404,) if paths == "lenient" else (400, 404)), (raw, answer.status)
                    assert b"hidden" not in answer.body, raw
            assert (await host.get("/static/.well-known/security.txt")).body == b"Contact: us"
            assert (await host.get("/static/a.txt")).status == 200
            assert host.logs("pywatt.static") == []

    run(main)


def test_with_hidden_they_are_served(folder: Path) -> None:
    with_hidden_files(folder)

    async def main() -> None:
        async with hosted(manifest(hidden=True), directory=folder) as host:
            for path in ("/static/.env", "/static/.git/config", "/static/sub/.env", "/static/.well-known/.key"):
                assert (await host.get(path)).body == b"hidden", path

    run(main)


def test_a_link_to_a_hidden_file_of_the_folder_is_served(folder: Path) -> None:
    """Kubernetes mounts files as links to `..data/NAME`, and `..data` is a link itself."""
    static = folder / "static"
    (static / "..2026_11").mkdir()
    (static / "..2026_11" / "page.txt").write_text("from a volume")
    (static / "..data").symlink_to("..2026_11")
    (static / "page.txt").symlink_to("..data/page.txt")

    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            assert (await host.get("/static/page.txt")).body == b"from a volume"
            assert (await host.get("/static/..data/page.txt")).status in (400, 404)

    run(main)


def test_what_cannot_be_read_is_one_line_in_the_log_a_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "static" / "circle").symlink_to("circle")
    (folder / "static" / "shut.txt").write_text("x")
    opened = os.open
    now = 1000.0

    def refuses(path: Any, *more: Any, **named: Any) -> int:
        if os.fspath(path).endswith("shut.txt"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *more, **named)

    async def main() -> None:
        nonlocal now
        async with hosted(manifest(), directory=folder) as host:
            with monkeypatch.context() as patched:
                patched.setattr(os, "open", refuses)
                clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
                patched.setattr("pywatt_host.http.static.time", clock)
                for path, status in (("circle", 404), ("shut.txt", 403)):
                    for _ in range(3):
                        assert (await host.get(f"/static/{path}")).status == status
                    now += 1.0
                assert (await host.get("/static/none")).status == 404
            lines = [(line["level"], line["message"]) for line in host.logs("pywatt.static")]
        circle, shut = folder / "static" / "circle", folder / "static" / "shut.txt"
        assert lines == [
            ("warning", f"a file cannot be read: {circle}: {os.strerror(errno.ELOOP)}"),
            ("warning", f"a file cannot be read: {shut}: {os.strerror(errno.EACCES)}"),
        ]

    run(main)


# Conditions -----------------------------------------------------------------------------------------------------------

MODIFIED = 1_700_000_000
SAME, EARLIER, LATER = (formatdate(MODIFIED + seconds, usegmt=True) for seconds in (0, -1, 1))
RFC850, ASCTIME = "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"
TAG, OTHER = "{tag}", '"other"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": TAG}, 200),
        ({"If-Match": f"{OTHER}, {TAG}"}, 200),
        ({"If-Match": f'"a,b" ,, {TAG}'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": OTHER}, 412),
        ({"If-Match": f"W/{TAG}"}, 412),  # a strong comparison
        ({"If-Match": "no tag"}, 412),
        ({"If-Match": f"no tag, {TAG}"}, 412),
        ({"If-Match": ""}, 412),
        ({"If-Unmodified-Since": SAME}, 200),
        ({"If-Unmodified-Since": LATER}, 200),
        ({"If-Unmodified-Since": EARLIER}, 412),
        ({"If-Unmodified-Since": "yesterday"}, 200),
        ({"If-Unmodified-Since": RFC850}, 200),
        ({"If-Match": TAG, "If-Unmodified-Since": EARLIER}, 200),  # If-Match takes its place
        ({"If-Match": OTHER, "If-Unmodified-Since": LATER}, 412),
        ({"If-None-Match": TAG}, 304),
        ({"If-None-Match": f"W/{TAG}"}, 304),  # a weak comparison
        ({"If-None-Match": f"{OTHER},{TAG}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": OTHER}, 200),
        ({"If-None-Match": "1-2"}, 200),
        ({"If-Modified-Since": SAME}, 304),
        ({"If-Modified-Since": RFC850}, 304),
        ({"If-Modified-Since": ASCTIME}, 304),
        ({"If-Modified-Since": LATER}, 304),
        ({"If-Modified-Since": EARLIER}, 200),
        ({"If-Modified-Since": f"{SAME}, {SAME}"}, 200),  # not one date
        ({"If-Modified-Since": SAME.replace("GMT", "+0000")}, 200),
        ({"If-None-Match": OTHER, "If-Modified-Since": SAME}, 200),  # If-None-Match takes its place
        ({"If-None-Match": TAG, "If-Modified-Since": EARLIER}, 304),
        ({"If-Match": OTHER, "If-None-Match": TAG}, 412),
        ({"If-Match": TAG, "If-None-Match": TAG}, 304),
        ({"If-Unmodified-Since": EARLIER, "If-None-Match": TAG}, 412),
        ({"If-Unmodified-Since": SAME, "If-Modified-Since": SAME}, 304),
        ({"If-Match": OTHER, "Range": "bytes=0-1"}, 412),
        ({"If-Match": TAG, "Range": "bytes=0-1"}, 206),
        ({"If-None-Match": TAG, "Range": "bytes=0-1"}, 304),
        ({"If-Range": SAME, "Range": "bytes=0-1"}, 206),
        ({"If-Range": LATER, "Range": "bytes=0-1"}, 200),  # exactly this date
        ({"If-Range": OTHER, "Range": "bytes=100-"}, 200),
        ({"If-Range": TAG, "Range": "bytes=100-"}, 416),
        ({"If-Range": TAG}, 200),
    ],
)
def test_conditions_have_the_precedence_of_rfc_9110(folder: Path, headers: dict[str, str], status: int) -> None:
    os.utime(folder / "static" / "a.txt", (MODIFIED, MODIFIED))

    async def main() -> None:
        async with hosted(manifest(cache="1h"), directory=folder) as host:
            tag = (await host.get("/static/a.txt")).header("etag")
            sent = {name: value.replace(TAG, tag) for name, value in headers.items()}
            answer = await host.get("/static/a.txt", headers=sent)
            assert answer.status == status
            if status in (304, 412):
                assert answer.header("etag") == tag
                assert b"0123456789" not in answer.body
            if status == 304:
                assert (answer.body, answer.header("cache-control")) == (b"", "public, max-age=3600")
            head = await host.request("HEAD", "/static/a.txt", headers=sent)
            assert head.status == (status if status in (304, 412) else 200)

    run(main)


def test_conditions_do_not_count_for_what_does_not_exist(folder: Path) -> None:
    async def main() -> None:
        async with hosted(manifest(html=True), directory=folder) as host:
            for headers in ({"If-Match": OTHER}, {"If-None-Match": "*"}, {"If-Unmodified-Since": EARLIER}):
                assert (await host.get("/static/none", headers=headers)).status == 404

    run(main)


# Compressed files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "coding"),
    [
        ("notes.txt.gz", "application/gzip", ""),
        ("site.tar.gz", "application/gzip", ""),
        ("site.tgz", "application/gzip", ""),
        ("site.tar.bz2", "application/x-bzip2", ""),
        ("notes.txt.xz", "application/x-xz", ""),
        ("style.css.br", "application/octet-stream", ""),
        ("picture.svgz", "image/svg+xml", "gzip"),
        ("picture.svg.gz", "application/gzip", ""),
        ("picture.svg", "image/svg+xml", ""),
    ],
)
def test_a_compressed_file_is_served_as_the_file_that_it_is(folder: Path, name: str, kind: str, coding: str) -> None:
    (folder / "static" / name).write_bytes(b"\x1f\x8b0123456789")

    async def main() -> None:
        async with hosted(manifest(), directory=folder) as host:
            for headers in ({}, {"Range": "bytes=0-1"}):
                answer = await host.get(f"/static/{name}", headers=headers)
                assert (answer.header("content-type"), answer.header("content-encoding")) == (kind, coding)

    run(main)
