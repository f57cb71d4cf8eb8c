"""Folders of static files: cached, in parts, and with no way out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.hosting import hosted, run, websocket


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
