"""Where httptools and uvloop are not to be had: h11 and the standard event loop, with the same bounds."""

from __future__ import annotations

import sys

from tests.processes import Host, Project

WITHOUT = (
    "import sys; sys.modules['httptools'] = sys.modules['uvloop'] = None;"
    "from pywatt_host.cli import main; main(['run', '--log-format', 'json'])"
)


def fallback(project: Project, **server: object) -> Host:
    project.manifest(server=server)
    return project.start([sys.executable, "-c", WITHOUT])


def test_it_serves_keeps_connections_and_drains(served: Project) -> None:
    host = fallback(served)
    with host.connect() as connection:
        for number in range(3):
            answer = connection.request("GET", f"/{number}", b"")
            assert (answer.status, answer.body) == (200, f"GET /{number}".encode())
            assert len(answer.headers["x-request-id"]) == 32
    assert host.get("/readyz").status == 200
    assert host.stop() == 0
    assert host.stdout == b""


def test_a_head_over_the_limit_is_refused_whole_or_in_pieces(served: Project) -> None:
    host = fallback(served, limits={"header": "1KiB"})
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 2000
    for pieces in ([head + b"\r\n\r\n"], [head[:700], head[700:]]):
        with host.connect() as connection:
            for piece in pieces:
                connection.send(piece)
            assert connection.response().status == 431
    assert host.get("/small").status == 200


def test_a_head_that_does_not_come_is_given_up(served: Project) -> None:
    host = fallback(served, timeouts={"header": "1s"})
    with host.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert connection.response().status == 408


def test_what_is_no_http_gets_a_problem(served: Project) -> None:
    host = fallback(served)
    with host.connect() as connection:
        connection.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = connection.response()
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
