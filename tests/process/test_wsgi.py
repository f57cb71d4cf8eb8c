"""A real host with a WSGI application: slow bodies, faults of the application, and what the log says about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.processes import Connection, Host, Project

APP = """
    import sys
    import threading
    import traceback

    entered, released = threading.Semaphore(0), threading.Event()

    def respond(start_response, body, *headers):
        start_response("200 OK", [("Content-Type", "text/plain"), *headers])
        return [body]

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/health":
            start_response("404 Not Found", [])
            return []
        if path == "/read":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            described = f"{environ['CONTENT_LENGTH']} {len(body)} {environ.get('HTTP_TRANSFER_ENCODING')}"
            return respond(start_response, described.encode())
        if path == "/exit":
            sys.exit(3)
        if path == "/interrupt":
            raise KeyboardInterrupt
        if path == "/header":
            return respond(start_response, b"x", ("X-A", "a\\r\\nX-B: b"))
        if path == "/nul":
            return respond(start_response, b"x", ("X-A", "a\\0"))
        if path == "/length":
            return respond(start_response, b"x", ("Content-Length", "one"))
        if path == "/short":
            return respond(start_response, b"x", ("Content-Length", "2"))
        if path == "/errors":
            try:
                raise KeyError("reported")
            except KeyError:
                traceback.print_exc(file=environ["wsgi.errors"])
            environ["wsgi.errors"].write("unfinished")
            return respond(start_response, b"reported")
        if path == "/held":
            entered.release()
            released.wait()
        if path == "/entered":
            entered.acquire()
        if path == "/release":
            released.set()
        return respond(start_response, b"fine")
"""


def started(project: Project, **manifest: Any) -> Host:
    project.write("main.py", APP)
    project.manifest(**manifest)
    return project.host()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host for tests that only send requests."""
    project = Project(tmp_path_factory.mktemp("wsgi"))
    try:
        yield started(project, server={"limits": {"body": "200KiB"}})
    finally:
        project.end()


def access(host: Host, path: str) -> dict[str, Any]:
    """The access line of a request; waits for it."""
    host.wait_for(f'"path":"{path}"')
    (line,) = [line for line in host.logs if line["logger"] == "pywatt.access" and line["path"] == path]
    return line


def chunked(connection: Connection, *pieces: bytes, end: bool = True) -> None:
    connection.head("POST", "/read", Transfer_Encoding="chunked")
    for piece in pieces:
        connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    if end:
        connection.send(b"0\r\n\r\n")


def test_a_chunked_body_has_a_length(shared: Host) -> None:
    with shared.connect() as connection:
        chunked(connection, b"abc", b"x" * 100_000)
        assert connection.response().body == b"100003 100003 None"
        chunked(connection, b"abc")
        assert connection.response().body == b"3 3 None"


def test_a_chunked_body_over_the_limit_is_answered_with_413_and_does_not_reach_the_application(shared: Host) -> None:
    with shared.connect() as connection:
        chunked(connection, *[b"x" * 50_000] * 5, end=False)
        assert connection.response().status == 413


def test_slow_bodies_do_not_stop_the_application(project: Project) -> None:
    """More of them than there are threads, some longer than what is kept in memory."""
    host = started(project)
    with ExitStack() as stack:
        slow = [stack.enter_context(host.connect()) for _ in range(48)]
        for number, connection in enumerate(slow):
            if number % 3:
                chunked(connection, b"x" * (100_000 if number % 3 == 1 else 1), end=False)
            else:
                expects = {"Expect": "100-continue"} if number % 2 else {}
                connection.head("POST", "/read", Content_Length="100000", **expects)
                connection.send(b"x")
        for _ in range(20):
            assert host.get("/").body == b"fine"
        for connection in slow[1::3]:
            connection.send(b"3\r\nend\r\n0\r\n\r\n")
            assert connection.response().body == b"100003 100003 None"
    assert host.stop() == 0
    assert not [entry for entry in host.logs if entry["level"] in ("warning", "error", "critical")]


@pytest.mark.parametrize("path", ["/exit", "/interrupt", "/header", "/nul", "/length", "/short"])
def test_a_fault_of_the_application_is_a_500_in_the_response_and_in_the_log(shared: Host, path: str) -> None:
    response = shared.get(path)
    assert response.status == 500
    assert "x-b" not in response.headers
    assert "x-request-id" in response.headers
    assert access(shared, path)["status"] == 500
    assert shared.get("/after").body == b"fine"


def test_a_websocket_is_refused_and_its_access_line_has_the_reason(shared: Host) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert shared.get("/socket", **handshake).status == 403
    line = access(shared, "/socket")
    assert (line["status"], line["reason"]) == (403, "a WSGI application serves no WebSockets")


def test_a_traceback_in_wsgi_errors_is_one_record_of_the_request(shared: Host) -> None:
    assert shared.get("/errors").body == b"reported"
    shared.wait_for("unfinished")
    traceback, rest = (entry for entry in shared.logs if entry["logger"] == "pywatt.wsgi")
    assert traceback["message"].startswith("Traceback (most recent call last):\n")
    assert traceback["message"].endswith("KeyError: 'reported'")
    assert rest["message"] == "unfinished"
    assert traceback["request_id"] == rest["request_id"] == access(shared, "/errors")["request_id"]


def test_requests_that_wait_for_a_thread_are_told_of_with_the_key_of_their_mount(project: Project) -> None:
    mount = {"route_prefix": "/second", "import_path": "main:app", "threads": 1}
    host = started(project, mounts=[mount])
    with host.connect() as held, host.connect() as waiting:
        held.head("GET", "/second/held")
        assert host.get("/entered").body == b"fine"
        waiting.head("GET", "/second/waiting")
        host.wait_for("mounts[0].threads")
        assert host.get("/release").body == b"fine"
        assert held.response().body == waiting.response().body == b"fine"
    (warning,) = [entry for entry in host.logs if entry["level"] == "warning"]
    assert (warning["logger"], warning["key"], warning["waiting"]) == ("pywatt.wsgi", "mounts[0].threads", 1)
