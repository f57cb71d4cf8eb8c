"""What a hostile client or module may try under `up`, and what comes of it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from pywatt_host.channels.records import BadRecords
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.orchestrator.headers import framed, names_one_host, response_headers
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.upstream import Address, BrokenError, UpstreamPool
from pywatt_host.protocol.messages import Announce, AnnouncedEndpoint, Register
from pywatt_host.secrets import Masker
from pywatt_host.supervision.output import TAIL_CHARACTERS, TAIL_LINES, Output
from tests.hosting import run
from tests.orchestrator.conversing import Around, Peer, content_of, route
from tests.orchestrator.test_router import ASK, Town, in_town
from tests.orchestrator.test_up import Workspace
from tests.processes import Connection, Project

# Clients of the gateway ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [b"x", b"", b"shop.example:9900", b"[::1]:80", b"127.0.0.1", b"a_b~c"])
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host: bytes) -> None:
    assert names_one_host([(b"accept", b"*/*"), (b"host", host)])


@pytest.mark.parametrize(
    "host", [b"x/metrics?", b"x#", b"x?", b"user:word@x", b"[::1", b"a b", b"x:80a", b"x\\y", b"\xe9"]
)
def test_what_could_be_read_as_more_than_a_host_is_none(host: bytes) -> None:
    assert not names_one_host([(b"host", host)])
    assert not names_one_host([(b"host", b"x"), (b"host", b"x")])


def test_a_length_that_connection_names_is_still_the_length_of_the_body() -> None:
    scope: dict[str, Any] = {"headers": [(b"connection", b"content-length"), (b"content-length", b"3")]}
    assert framed([], scope) == ([(b"content-length", b"3")], True)
    both = {"headers": [(b"transfer-encoding", b"chunked"), (b"content-length", b"3")]}
    assert framed([(b"content-length", b"3")], both) == ([(b"transfer-encoding", b"chunked")], True)


def test_a_response_has_one_framing() -> None:
    length, coding = (b"content-length", b"3"), (b"Transfer-Encoding", b"chunked")
    assert response_headers(200, [length, (b"Date", b"x"), (b"a", b"b")]) == [length, (b"a", b"b")]
    assert response_headers(200, [length, coding]) == []
    assert response_headers(204, [length]) == response_headers(304, [length]) == []


def test_no_host_header_leads_a_websocket_to_another_path_and_a_module_cannot_answer_with_an_interim_status(
    project: Project,
) -> None:
    project.write("shop/main.py", SOCKETS)
    project.write(
        "shop/pywatt.yaml",
        """
        app: main:app
        server: {allowed_hosts: [www.shop.example], cors: {allow_origins: ["https://app.example"]}}
        """,
    )
    project.write("unary.py", UNARY)
    workspace = Workspace(
        project, modules={"shop": {"manifest": "shop"}, "unary": {"command": [sys.executable, "unary.py"]}}
    )
    with workspace.connect() as connection:
        for host, status in (
            ("localhost", 101),
            ("localhost/_pywatt/messages?", 400),
            ("u:p@localhost", 400),
            ("[::1", 400),
            ("localhost:99999", 502),
            ("evil.example", 421),
        ):
            assert websocket_status(workspace, host) == status, host
        # A page of another site: refused by the module with a manifest, and by the gateway for the other.
        for path, origin, status in (
            ("/shop/ws", "https://evil.example", 403),
            ("/shop/ws", "http://localhost:5173", 101),
            ("/shop/ws", "https://app.example", 101),
            ("/unary/ws", "https://evil.example", 403),
        ):
            assert websocket_status(workspace, "localhost", path, f"Origin: {origin}") == status, (path, origin)
        evil = connection.request("GET", "/unary/200", Host="evil.example")
        assert evil.status == 421
        assert "gateway.allowed_hosts" in evil.json()["detail"]
        workspace.up.wait_for(lambda line: '"reason":"gateway.allowed_hosts"' in line and "/unary/200 421" in line)
        assert connection.request("GET", "/livez", Host="evil.example").status == 200
        (shop,) = workspace.modules()["shop"]
        with Connection(shop["listen"]) as direct:
            assert direct.request("GET", "/", Host="evil.example").status == 421
            assert direct.request("GET", "/health", Host="evil.example").status == 200
            assert direct.request("GET", "/health").status == 200
        assert connection.request("GET", "/unary/100").status == 502
        assert connection.request("GET", "/unary/999").status == 502
        assert connection.request("GET", "/unary/204").status == 204
        assert connection.request("GET", "/unary/200").body == b"body"
    assert workspace.up.stop() == 0


def test_a_module_that_announces_the_gateways_own_address_is_not_asked(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "import json, sys; sys.stdin.readline(); print(json.dumps({'op': 'announce', 'listen': sys.argv[1],"
    program += " 'endpoints': [{'path': '/again', 'methods': ['GET']}]}), flush=True)"
    program += "; [sys.exit() for line in sys.stdin if 'shutdown' in line]"
    own = f"127.0.0.1:{port}"
    workspace = Workspace(
        project,
        gateway={"listen": own},
        timeouts={"request": "0.5s"},
        modules={"loop": {"command": [sys.executable, "-c", program, own]}},
    )
    workspace.up.wait_for("loop is up")
    assert workspace.get("/again", early=True)[0] in (503, 504)  # over its channel, where it does not answer either
    workspace.up.stop()


SOCKETS = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket", "declined"
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})
"""
UNARY = """
import json, sys

sys.stdin.readline()


def say(**message):
    print(json.dumps(message), flush=True)


say(op="announce", listen="127.0.0.1:1", endpoints=[])
for line in sys.stdin:
    message = json.loads(line)
    if message["op"] == "heartbeat":
        say(op="heartbeat_ack")
    elif message["op"] == "http_request":
        status = int(message["uri"][1:])
        say(op="http_response", request_id=message["request_id"], status_code=status, headers={}, body=list(b"body"))
    elif message["op"] == "shutdown":
        break
"""


def websocket_status(workspace: Workspace, host: str, path: str = "/shop/ws", *fields: str) -> int:
    with workspace.connect() as connection:
        more = "".join(f"{field}\r\n" for field in fields)
        connection.send(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{more}"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        return connection.response_head()[0]


# Modules that answer the gateway ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers",
    ],
    ids=["a second response", "a body where there is none"],
)
def test_what_a_module_says_beyond_its_response_is_never_the_next_ones_answer(answer: bytes) -> None:
    async def main() -> None:
        async with answering(answer) as (address, served):
            pool = UpstreamPool()
            for number in (1, 2):
                connection = await pool.take(address, fresh=False)
                connection.begin("GET", b"/", [(b"host", b"x")], body=False)
                await connection.head()
                assert b"".join([piece async for piece in connection.body()]) in (b"ok", b"")
                pool.give_back(connection)
                assert len(served) == number
            pool.close()

    run(main)


def test_a_status_that_ends_no_response_is_not_http() -> None:
    async def main() -> None:
        async with answering(b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n") as (address, _):
            connection = await UpstreamPool().take(address, fresh=False)
            connection.begin("GET", b"/", [(b"host", b"x")], body=False)
            with pytest.raises(BrokenError, match="999"):
                await connection.head()
            connection.close()

    run(main)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[Address, list[asyncio.Event]]]:
    """A server that answers so, and an event for each connection that is set when it has ended."""
    served: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(ended := asyncio.Event())
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await reader.read()
        except ConnectionError:
            pass  # the gateway aborts what it has no use for
        finally:
            writer.transport.abort()
            ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address(None, "127.0.0.1", server.sockets[0].getsockname()[1]), served
        for ended in served:
            await ended.wait()
        await asyncio.sleep(0)


# Modules that talk --------------------------------------------------------------------------------------------------


def test_a_message_for_a_process_that_has_closed_its_end_waits_and_harms_nobody() -> None:
    def test(town: Town) -> None:
        town.b.replica.forget(town.b.connection)  # it runs, and there is no way to it
        town.a.says(route("b", "1", ASK))
        town.router.flush()
        assert town.a.received() == []
        town.b.replica.adopt(town.b.connection)
        town.router.flush()
        assert [message["original_request_id"] for message in town.b.received()] == ["1"]

    in_town(test)


def test_a_request_id_of_any_length_is_not_kept() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1" * 2000, ASK))
        (answer,) = town.a.received()
        assert content_of(answer)["code"] == "invalid_message"
        assert town.b.received() == []

    in_town(test)


def test_what_a_provider_tells_about_itself_is_bounded() -> None:
    peer, registry = run_peer(), ServiceRegistry()
    long = Register("api", "users", "a:1", None, {"text": "x" * 20_000})
    assert not registry.register(long, peer.replica).success
    assert not registry.register(Register("api", "users", "a:1", "x" * 20_000), peer.replica).success
    assert registry.register(Register("api", "users", "a:1", "1", {"text": "x" * 1000}), peer.replica).success


def test_too_many_announced_paths_are_as_none(caplog: pytest.LogCaptureFixture) -> None:
    peer = run_peer()
    paths = tuple(AnnouncedEndpoint(f"/{number}", ("GET",)) for number in range(10_001))
    peer.replica.announced(Announce("127.0.0.1:1", paths))
    assert peer.replica.announce == Announce("127.0.0.1:1")
    peer.replica.announced(Announce("127.0.0.1:1", paths[:10_000]))
    assert peer.replica.announce is not None
    assert len(peer.replica.announce.endpoints) == 10_000
    assert [record.levelname for record in caplog.records if "paths" in record.message] == ["ERROR"]


def run_peer() -> Peer:
    made: list[Peer] = []

    async def main() -> None:
        made.append(Peer("a", Around()).up())

    run(main)
    return made[0]


# Modules that print -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_line_that_nests_too_deep_for_json_is_text(style: Literal["json", "console"]) -> None:
    reading, writing = os.pipe()
    try:
        output = Output(LogStream(writing), style, False, str)
        output.declare("m", 1)
        output.write("m", 1, b'{"message":"x","a":' + b"[" * 1010 + b"]" * 1010 + b"}")
        assert b"[[[" in os.read(reading, 65536)
    finally:
        os.close(reading)
        os.close(writing)


def test_the_lines_that_are_kept_are_bounded_in_characters() -> None:
    with open(os.devnull, "wb") as nowhere:
        output = Output(LogStream(nowhere.fileno()), "console", False, str)
        output.declare("m", 1)
        for number in range(20):
            output.write("m", 1, b"%d" % number + b"\xff" * 64 * 1024)
        kept = output.tail("m", 1000)
        assert sum(len(line.text) for line in kept) <= TAIL_CHARACTERS
        assert kept[-1].text.startswith("19")
        for _ in range(2000):
            output.write("m", 1, b"short")
        assert len(output.tail("m", 5000)) == TAIL_LINES


def test_a_secret_that_is_printed_is_masked_before_the_line_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    masker = Masker()
    masker.add("TOKEN", "pässwörd-of-the-world")
    records = BadRecords("m", mask=masker.mask)
    records.add("it is not JSON", b"x" * 70 + "pässwörd-of-the-world".encode())
    records.add("it is not JSON", "a pässwörd-of-the-world".encode())
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["x" * 70 + "***", "a ***"]


def test_what_a_module_prints_is_text_for_the_terminal_of_whoever_reads_the_logs(project: Project) -> None:
    program = "import sys; sys.stdin.readline(); sys.stderr.write('\\x1b]0;owned\\x07\\n'); sys.stderr.flush(); "
    program += 'print(\'{"op":"announce","listen":"\\\\u001b[2J:1"}\', flush=True); sys.stdin.read()'
    workspace = Workspace(project, modules={"m": {"command": [sys.executable, "-c", program]}})
    workspace.up.wait_for("m is up")
    assert "\\x1b]0;owned\\x07" in project.cli("logs", "m", "--format", "text").stdout
    assert "\x1b" not in project.cli("ps").stdout
    workspace.up.stop()
