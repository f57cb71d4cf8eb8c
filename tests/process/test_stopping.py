"""Stopping: what is in flight is finished, what is wedged is left behind in time, and the exit code tells which."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest

from tests.processes import PATIENCE, Connection, Host, Project, allowed

LIMIT = 0.5  # seconds: server.timeouts.shutdown in the tests of wedged requests
GRACE = 0.5  # seconds beyond it


def gone_in_time(host: Host, begun: float) -> int:
    code = host.wait()
    assert time.monotonic() - begun < allowed(LIMIT + GRACE)
    return code


def test_a_request_that_runs_is_finished_and_its_connection_closed(served: Project) -> None:
    host = served.host()
    with host.connect() as running, host.connect() as idle:
        assert idle.request("GET", "/x").status == 200
        running.head("GET", "/held")
        assert host.get("/holding?1").status == 200
        address = host.address
        host.signal()
        _connect_until_refused(address)
        idle.head("GET", "/release")  # a connection that is there is still served, once
        for connection in (idle, running):
            answer = connection.response()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert connection.closed()
    assert host.wait() == 0
    assert host.stdout == b""


def test_readiness_goes_first_and_requests_are_served_during_the_drain_delay(served: Project) -> None:
    served.manifest(server={"timeouts": {"drain_delay": "1s"}})
    host = served.host()
    address = host.address
    with host.connect() as connection:
        assert connection.request("GET", "/readyz").status == 200
        host.signal()
        host.wait_for("stopping: SIGTERM")
        assert connection.request("GET", "/readyz").json() == {"status": "draining"}
        assert connection.request("GET", "/livez").status == 200
    with Connection(address) as late:
        assert late.request("GET", "/new").body == b"GET /new"
    assert host.wait() == 0


def test_connections_that_nobody_has_accepted_yet_are_served(served: Project) -> None:
    host = served.host()
    fifo = served.folder / "fifo"
    os.mkfifo(fifo)
    address = host.address
    with host.connect() as blocked:
        blocked.head("GET", "/blocked")
        host.wait_for("blocked")
        waiting = [Connection(address) for _ in range(50)]  # completed by the kernel, while the event loop stands still
        for number, connection in enumerate(waiting):
            connection.head("GET", f"/{number}")
        host.signal()
        fifo.write_bytes(b"go")
        assert blocked.response().body == b"unblocked"
        for number, connection in enumerate(waiting):
            with connection:
                assert connection.response().body == f"GET /{number}".encode()
    assert host.wait() == 0


def test_pipelined_requests_are_all_answered_the_last_with_close(served: Project) -> None:
    host = served.host()
    with host.connect() as connection, host.connect() as other:
        assert other.request("GET", "/x").status == 200
        connection.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /soon HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        host.get("/holding?1")
        host.signal()
        host.wait_for("stopping: SIGTERM")
        assert other.request("GET", "/release").status == 200
        answers = [connection.response() for _ in range(4)]
        assert [answer.body for answer in answers] == [b"held", b"soon", b"soon", b"soon"]
        assert ["connection" in answer.headers for answer in answers] == [False, False, False, True]
        assert connection.closed()
    assert host.wait() == 0


def test_nobody_gets_in_once_the_listener_has_closed(served: Project) -> None:
    host = served.host()
    address = host.address
    with host.connect() as running, host.connect() as other:
        assert other.request("GET", "/x").status == 200
        running.head("GET", "/held")
        host.get("/holding?1")
        host.signal()
        _connect_until_refused(address)
        assert other.request("GET", "/release").status == 200
        assert running.response().status == 200
    assert host.wait() == 0


def test_a_head_that_is_half_there_is_completed_and_served(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        assert connection.request("GET", "/first").status == 200
        connection.send(b"GET /late HTTP/1.1\r\nHo")
        address = host.address
        host.get("/x")  # so that it has been read
        host.signal()
        _connect_until_refused(address)
        connection.send(b"st: x\r\n\r\n")
        answer = connection.response()
        assert (answer.body, answer.headers["connection"]) == (b"GET /late", "close")
    assert host.wait() == 0


def test_sigquit_drains_like_sigterm(served: Project) -> None:
    host = served.host()
    with host.connect() as running, host.connect() as other:
        running.head("GET", "/held")
        assert other.request("GET", "/holding?1").status == 200
        host.signal(signal.SIGQUIT)
        host.wait_for("stopping: SIGQUIT")
        assert other.request("GET", "/release").status == 200
        assert running.response().body == b"held"
    assert host.wait() == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT, signal.SIGINT), (signal.SIGTERM, signal.SIGQUIT)],
)
def test_a_second_signal_forces(served: Project, first: signal.Signals, second: signal.Signals) -> None:
    host = served.host()
    with host.connect() as connection:
        connection.head("GET", "/held")
        host.get("/holding?1")
        host.signal(first)
        host.wait_for(f"stopping: {first.name}")
        begun = time.monotonic()
        host.signal(second)
        assert host.wait() == 1
        assert time.monotonic() - begun < allowed(GRACE)
    assert host.logs[-1]["message"] == "forced to stop"


@pytest.mark.parametrize("path", ["/wedge", "/stubborn", "/held"])
def test_a_wedged_request_is_gone_at_the_limit_with_exit_code_1(served: Project, path: str) -> None:
    served.manifest(server={"timeouts": {"shutdown": f"{LIMIT}s"}})
    host = served.host()
    with host.connect() as connection:
        connection.head("GET", path)
        if path == "/held":
            host.get("/holding?1")
        else:
            host.wait_for("wedged")
        begun = time.monotonic()
        host.signal()
        if path == "/held":
            answer = connection.response()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert gone_in_time(host, begun) == 1
    if path == "/held":
        assert [r["message"] for r in host.logs if r["level"] == "error"][:1] == [
            "cut at the shutdown limit: GET /held"
        ]
    else:
        assert [r for r in host.logs if r["level"] == "error"]


def test_a_wedged_wsgi_thread_does_not_hold_the_process(project: Project) -> None:
    project.write(
        "main.py",
        """
        import sys, time

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/wedge":
                print("wedged", file=sys.stderr, flush=True)
                time.sleep(3600)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
        """,
    )
    project.manifest(server={"timeouts": {"shutdown": f"{LIMIT}s"}})
    host = project.host()
    assert host.get("/").body == b"ok"
    with host.connect() as connection:
        connection.head("GET", "/wedge")
        host.wait_for("wedged")
        begun = time.monotonic()
        host.signal()
        assert gone_in_time(host, begun) == 1


@pytest.mark.parametrize("how", ["says so", "raises", "exits"])
def test_a_lifespan_that_fails_to_stop_is_logged_and_makes_the_exit_code_1(project: Project, how: str) -> None:
    project.write(
        "main.py",
        f"""
        import sys

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({{"type": "lifespan.startup.complete"}})
                await receive()
                if {how!r} == "raises":
                    raise RuntimeError("the queue is not empty")
                if {how!r} == "exits":
                    sys.exit("the queue is not empty")
                await send({{"type": "lifespan.shutdown.failed", "message": "the queue is not empty"}})
                return
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": b""}})
        """,
    )
    project.manifest()
    host = project.host()
    assert host.get("/").status == 200
    host.signal()
    assert host.wait() == 1
    (record,) = [record for record in host.logs if record["level"] == "error"]
    assert record["message"].startswith("main:app failed to stop")
    assert "the queue is not empty" in json.dumps(record)


def test_a_lifespan_that_does_not_end_is_left_behind(project: Project) -> None:
    project.write(
        "main.py",
        """
        import asyncio

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await asyncio.Event().wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        """,
    )
    project.manifest(server={"timeouts": {"shutdown": f"{LIMIT}s"}})
    host = project.host()
    assert host.get("/").status == 200
    begun = time.monotonic()
    host.signal()
    assert gone_in_time(host, begun) == 1


def test_a_signal_while_the_application_still_starts_stops_it(project: Project) -> None:
    project.write(
        "main.py",
        """
        import asyncio, sys

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                print("starting", file=sys.stderr, flush=True)
                await asyncio.Event().wait()
        """,
    )
    project.manifest()  # with the default limit, which is not waited for
    host = project.host()
    host.wait_for("starting")
    host.signal()
    assert host.wait(20) == 0
    assert not [line for line in host.lines if '"event":"ready"' in line]


def test_hooks_and_lifespan_end_after_the_last_request(project: Project) -> None:
    project.write(
        "main.py",
        """
        import asyncio, sys
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        running = asyncio.Event()
        go = asyncio.Event()

        def say(what):
            print("event:", what, file=sys.stderr, flush=True)

        def create_app(state):
            @asynccontextmanager
            async def lifespan(app):
                say("lifespan up")
                yield
                say("lifespan down")

            @state.on_startup
            async def up():
                say("hook up")

            @state.on_shutdown
            def down():
                say("hook down")

            async def held(request):
                say("request")
                await go.wait()
                say("answered")
                return PlainTextResponse("held")

            async def release(request):
                go.set()
                return PlainTextResponse("")

            return Starlette(routes=[Route("/held", held), Route("/release", release)], lifespan=lifespan)
        """,
    )
    project.manifest(app="main:create_app")
    host = project.host()
    with host.connect() as running, host.connect() as other:
        other.request("GET", "/nowhere")
        running.head("GET", "/held")
        host.wait_for("event: request")
        host.signal()
        host.wait_for("stopping: SIGTERM")
        assert other.request("GET", "/release").status == 200
        assert running.response().body == b"held"
    assert host.wait() == 0
    said = [line.removeprefix("event: ") for line in host.lines if line.startswith("event: ")]
    assert said == ["lifespan up", "hook up", "request", "answered", "hook down", "lifespan down"]


def _connect_until_refused(address: str) -> None:
    """Come back when the listener has closed."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=0.1).close()
        except ConnectionRefusedError:
            return
        except TimeoutError:
            continue  # the last handshakes are being waited for
    pytest.fail("the listener stays open")


STREAMS = """
import asyncio

HEADERS = [(b"content-type", b"text/event-stream")]

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()  # it never sees that the client has gone
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"data: 1", "more_body": True})
    if scope["path"] == "/listening":  # as most frameworks do
        while (await receive())["type"] != "http.disconnect":
            pass
    elif scope["path"] == "/sending":
        while True:
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"", "more_body": True})
    else:
        await asyncio.Event().wait()
"""


@pytest.mark.parametrize("kind", ["listening", "sending", "silent"])
def test_an_event_stream_is_told_to_end_and_counts_as_done(project: Project, kind: str) -> None:
    project.write("main.py", STREAMS)
    project.manifest(app="main:app", health=False)
    host = project.host()
    with host.connect() as events:
        events.head("GET", f"/{kind}")
        assert events.response_head()[0] == 200
        assert events.chunk() == b"data: 1"
        begun = time.monotonic()
        host.signal()
        assert events.chunk() == b""  # complete, not cut
        assert host.wait() == 0
        assert time.monotonic() - begun < allowed(3)


def test_the_handler_of_a_websocket_that_ignores_its_end_does_not_hold_the_stop(project: Project) -> None:
    project.write("main.py", STREAMS)
    project.manifest(app="main:app", health=False)
    host = project.host()
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with host.connect() as peer:
        peer.head("GET", "/ws", **handshake, **{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
        assert peer.response_head()[0] == 101
        begun = time.monotonic()
        host.signal()
        assert host.wait() == 0
        assert time.monotonic() - begun < allowed(6)
