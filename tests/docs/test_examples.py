"""Every example runs as its manifest says, answers, and stops clean."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from pywatt_host.manifest import load_manifest
from tests.docs.running_host import command_environment, running
from tests.processes import ROOT, Host
from tests.servers import Server

MANIFESTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("pywatt.yaml"))


def admin(host: Host) -> str:
    """Where its health and metrics are."""
    return str(host.ready["admin"][0])


def _socket(url: str, path: str) -> str:
    return url.replace("http://", "ws://") + path


@pytest.mark.parametrize("path", MANIFESTS)
def test_the_manifest_is_valid_and_its_editor_line_finds_the_schema(path: str) -> None:
    load_manifest(ROOT / path, environ={})
    first = (ROOT / path).read_text().splitlines()[0]
    schema = (ROOT / path).parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.resolve() == ROOT / "schemas" / "pywatt.schema.json"


def test_every_example_is_in_the_list_of_examples() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    folders = [Path(path).parent.relative_to("examples").as_posix() for path in MANIFESTS]
    assert [folder for folder in [*folders, "container"] if f"({folder})" not in listed] == []


def test_quickstart(tmp_path: Path) -> None:
    with running("examples/quickstart", tmp_path, "--set", "app.args.capacity=2") as host:
        assert any("try: curl" in line for line in host.lines)
        with httpx.Client(base_url=host.address) as client:
            assert client.post("/notes", content="buy milk").headers["location"] == "/notes/1"
            assert client.get("/notes/1").json() == {"id": 1, "text": "buy milk"}
            assert client.get("/notes/9").status_code == 404
            assert client.get("/notes/one").status_code == 404
            assert client.put("/notes/1").headers["allow"] == "DELETE, GET, HEAD"
            assert client.get("/elsewhere").headers["content-type"] == "application/problem+json"
            assert client.post("/notes", content="x" * 20_000).status_code == 413
            assert client.get("/countdown/0").text == "data: lift-off\n\n"
            metrics = httpx.get(f"{admin(host)}/metrics").text
            assert "notes_written_total 1.0" in metrics
            assert 'http_route="/notes/{id}"' in metrics
            health = httpx.get(f"{admin(host)}/health").json()
            assert (health["module"]["id"], health["module"]["version"]) == ("notes", "1.0.0")
            assert "board" in health["checks"]
            assert client.delete("/notes/1").status_code == 204
            assert client.get("/notes").json() == []
        with connect(_socket(host.address, "/echo")) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"


def test_quickstart_goes_unhealthy_when_its_board_is_full(tmp_path: Path) -> None:
    more = ("--set", "app.args.capacity=0", "--set", "health.start_period=1ms", "--set", "health.interval=10ms")
    with running("examples/quickstart", tmp_path, *more) as host:
        host.wait_for("check board fails: RuntimeError: the board is full (0 notes)")
        assert httpx.get(f"{admin(host)}/health").status_code == 503
        assert httpx.get(f"{admin(host)}/livez").status_code == 200
        assert httpx.post(f"{host.address}/notes", content="one more").status_code == 409


def test_fastapi(tmp_path: Path) -> None:
    with running("examples/fastapi", tmp_path) as host, httpx.Client(base_url=host.address) as client:
        assert client.get("/items/tea").json() == {"name": "Tea", "price": 3.5}
        assert client.put("/items/cup", json={"name": "Cup", "price": "free"}).status_code == 422
        assert client.put("/items/cup", json={"name": "Cup", "price": 8}).status_code == 200
        assert client.put("/items/cup", content=b"x" * 5000).status_code == 413
        assert set(client.get("/items").json()) == {"tea", "cup"}
        assert 'http_response_status_code="413",http_route="/items/{sku}"' in httpx.get(f"{admin(host)}/metrics").text


def test_flask(tmp_path: Path) -> None:
    with running("examples/flask", tmp_path) as host, httpx.Client(base_url=host.address) as client:
        assert client.post("/guests/Ada").status_code == 201
        assert client.get("/").json() == {"title": "Our guests", "module": "flask", "guests": ["Ada"]}


@pytest.mark.parametrize(("interface", "options"), [("asgi", ()), ("wsgi", ("--profile", "wsgi"))])
def test_django(interface: str, options: tuple[str, ...], tmp_path: Path) -> None:
    with running("examples/django", tmp_path, *options) as host, httpx.Client(base_url=host.address) as client:
        assert client.get("/").json() == {"bulletins": ["welcome"], "interface": interface}
        assert client.get("/bulletins/welcome/").json()["text"] == "Hello from Django."
        assert client.get("/bulletins/other/").status_code == 404


def test_mounts(tmp_path: Path) -> None:
    with running("examples/mounts", tmp_path) as host:
        with httpx.Client(base_url=host.address) as client:
            assert "The old report" in client.get("/").text
            assert client.get("/legacy/report").text == "mounted at /legacy, asked for /report\n"
            assert client.get("/legacyreport").status_code == 404
            style = client.get("/static/style.css")
            assert style.headers["cache-control"] == "public, max-age=3600"
            assert client.get("/static/style.css", headers={"if-none-match": style.headers["etag"]}).status_code == 304
            assert client.get("/static/").status_code == 404
            assert client.get("/metrics").status_code == 404
        assert "http_server_request_duration_seconds" in httpx.get(f"{admin(host)}/metrics").text
        assert httpx.get(f"{admin(host)}/readyz").status_code == 200


def test_live(tmp_path: Path) -> None:
    """What is said on the WebSocket is heard on the stream while the stream is open."""
    with (
        running("examples/live", tmp_path) as host,
        httpx.stream("GET", f"{host.address}/rooms/blue/events", timeout=30) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        with connect(_socket(host.address, "/rooms/blue")) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "heard by 1"
            assert [next(lines), next(lines)] == ["", "data: hello"]
            websocket.send("END")
            assert websocket.recv() == "heard by 1"
        assert list(lines) == [""]


def test_raw(tmp_path: Path) -> None:
    with running("examples/raw", tmp_path, "--set", "config.greeting=Hello") as host:
        assert httpx.get(f"{host.address}/here").text == "Hello! You asked for /here\n"


@pytest.mark.slow
def test_datasette_as_it_comes_from_the_registry(tmp_path: Path) -> None:
    pytest.importorskip("datasette", reason="datasette is not installed; .ci/run installs it")
    with running("examples/third_party/datasette", tmp_path) as host, httpx.Client(base_url=host.address) as client:
        assert "Trees of the town" in client.get("/").text
        rows = client.get("/town/trees.json", params={"_sort": "height", "_shape": "array", "_nl": "on"})
        assert [json.loads(row)["species"] for row in rows.text.splitlines()] == ["ash", "oak"]
        assert 'http_route="unmatched"' in httpx.get(f"{admin(host)}/metrics").text


@pytest.mark.slow
def test_radicale_as_it_comes_from_the_registry(tmp_path: Path) -> None:
    pytest.importorskip("radicale", reason="radicale is not installed; .ci/run installs it")
    with (
        running("examples/third_party/radicale", tmp_path) as host,
        httpx.Client(base_url=host.address, auth=("ada", "any")) as client,
    ):
        assert client.request("MKCALENDAR", "/ada/work/").status_code == 201
        event = "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\nBEGIN:VEVENT\nUID:1\nDTSTAMP:20260101T000000Z\n"
        event += "DTSTART:20260101T100000Z\nSUMMARY:Standup\nEND:VEVENT\nEND:VCALENDAR\n"
        assert client.put("/ada/work/1.ics", content=event).status_code == 201
        assert "SUMMARY:Standup" in client.get("/ada/work/1.ics").text
        found = client.request("PROPFIND", "/ada/work/", headers={"depth": "1"})
        assert found.status_code == 207


def test_chat_in_one_process_and_over_nats_in_two(tmp_path: Path, nats_server: Server) -> None:
    with running("examples/chat", tmp_path) as host:
        assert "WebSocket" in httpx.get(host.address).text
        with connect(_socket(host.address, "/ws/ada")) as ada, connect(_socket(host.address, "/ws/bob")) as bob:
            ada.send("hello")
            assert (ada.recv(), bob.recv()) == ("ada: hello", "ada: hello")
    cluster = ["--profile", "cluster", "--set", f"channels.nats.servers={nats_server.url}"]
    with (
        running("examples/chat", tmp_path, *cluster) as one,
        running("examples/chat", tmp_path, *cluster) as other,
        connect(_socket(one.address, "/ws/ada")) as ada,
        connect(_socket(other.address, "/ws/bob")) as bob,
    ):
        for number in range(20):
            ada.send(str(number))
            assert (ada.recv(), bob.recv()) == (f"ada: {number}", f"ada: {number}")
        bob.send("there you are")
        assert ada.recv() == "bob: there you are"


def test_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(ROOT / "examples" / "workspace", folder)
    workspace = folder / "wattson.yaml"
    workspace.write_text(workspace.read_text().replace("127.0.0.1:9900", "127.0.0.1:0"))
    command = [sys.executable, "-m", "pywatt_host", "up", "--log-format", "json", str(folder)]
    up = Host(command, ROOT, command_environment(tmp_path))
    try:
        ready = json.loads(up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line))
        with httpx.Client(base_url=ready["listen"][0]) as client:
            assert client.get("/till/total/apple/10").json() == {"total": 4.0}
            assert client.get("/till/total/apple/10?code=ten-percent-off").json() == {"total": 3.6}
            assert client.get("/till/total/pear/1").json() == {"error": "there is no pear here"}
            (folder / "demo.env").write_text("DISCOUNT_CODE=another-code\n")
            up.wait_for("rotated DISCOUNT_CODE")
            up.wait_for(lambda line: "acknowledged" in line)
            assert client.get("/till/total/apple/10?code=another-code").json() == {"total": 3.6}
            assert client.get("/till/total/apple/10?code=ten-percent-off").json() == {"total": 4.0}
        assert up.stop() == 0
        assert up.stdout == b""
    finally:
        up.end()
