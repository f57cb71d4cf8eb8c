"""A real host on a real socket: what arrives, what is streamed, what is refused, on the wire."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from contextlib import ExitStack

import pytest
import websockets

from tests.processes import Connection, Project


def test_a_host_says_that_it_is_ready_serves_and_leaves_clean(served: Project) -> None:
    host = served.host()
    assert host.ready["pid"] == host.child.pid
    assert host.ready["module"] == served.folder.name
    answer = host.get("/hello")
    assert (answer.status, answer.body) == (200, b"GET /hello")
    assert len(answer.headers["x-request-id"]) == 32
    assert "server" not in answer.headers
    assert "date" in answer.headers
    assert host.get("/readyz").status == 200
    assert host.stop() == 0
    assert host.stdout == b""
    assert [line["message"] for line in host.logs][-2:] == ["GET /hello 200", "stopping: SIGTERM"]


def test_ctrl_c_stops_as_well(served: Project) -> None:
    host = served.host()
    assert host.ready
    host.signal(signal.SIGINT)
    assert host.wait() == 0


def test_signals_that_other_servers_reload_with_end_nothing(served: Project) -> None:
    host = served.host()
    assert host.ready
    for number, said in (
        (signal.SIGHUP, "SIGHUP: this host does not reload, because server.reload is off"),
        (signal.SIGUSR1, "SIGUSR1 is ignored"),
        (signal.SIGUSR2, "SIGUSR2 is ignored"),
    ):
        host.signal(number)
        host.wait_for(said)
    os.kill(host.child.pid, signal.SIGPIPE)
    assert host.get("/hello").status == 200
    assert host.stop() == 0


def test_an_application_without_a_manifest_is_served(served: Project) -> None:
    (served.folder / "pywatt.yaml").unlink()
    host = served.host("--listen", "127.0.0.1:0", "main:app")
    assert host.get("/x").body == b"GET /x"
    assert host.stop() == 0


def test_nothing_but_what_the_application_prints_is_on_standard_output(
    project: Project,
) -> None:
    project.write("main.py", "print('mine')\nasync def app(scope, receive, send): raise RuntimeError\n")
    project.manifest()
    host = project.host()
    assert host.get("/").status == 500
    assert host.stop() == 0
    assert host.stdout == b"mine\n"


# HTTP on the wire -----------------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_the_other_and_pipelined_ones_in_order(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        for number in range(3):
            assert connection.request("GET", f"/{number}").body == f"GET /{number}".encode()
        many = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(20))
        connection.send(many)
        assert [connection.response().body for _ in range(20)] == [b"GET /%d" % number for number in range(20)]
        connection.send(
            b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /y HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert [connection.response().body for _ in range(2)] == [b"3", b"GET /y"]
        assert connection.request("GET", "/z", Connection="close").headers["connection"] == "close"
        assert connection.closed()


@pytest.mark.parametrize("one_write", ["on", "off"])
def test_the_one_write_is_invisible_on_the_wire(served: Project, one_write: str) -> None:
    host = served.host(env={"PYWATT_ONE_WRITE": one_write})
    with host.connect() as connection:
        for path, length in (("/x", 6), ("/count", 1), ("/big", 64 * 65536)):
            assert len(connection.request("GET", path).body) == length
        assert connection.request("HEAD", "/x").body == b""
        assert connection.request("GET", "/boom").status == 500
        assert connection.request("GET", "/nowhere", Connection="close").status == 200
        assert connection.closed()
    assert host.stop() == 0


def test_a_head_request_gets_a_head(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        for path in ("/x", "/livez", "/readyz"):
            answer = connection.request("HEAD", path)
            assert (answer.status, answer.body) == (200, b"")
            assert int(answer.headers["content-length"]) > 0
        assert connection.request("GET", "/after").body == b"GET /after"


def test_http_1_0_is_answered_and_closed(served: Project) -> None:
    with served.host().connect() as connection:
        connection.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert connection.rest().endswith(b"\r\n\r\nGET /old")


def test_expect_100_continue_is_told_to_go_on_and_too_much_is_not(served: Project) -> None:
    served.manifest(server={"limits": {"body": "10B"}})
    host = served.host()
    with host.connect() as connection:
        connection.head("POST", "/count", Expect="100-continue", Content_Length="5")
        assert connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.send(b"12345")
        assert connection.response().body == b"5"
    with host.connect() as connection:
        connection.head("POST", "/count", Expect="100-continue", Content_Length="11")
        assert connection.response().status == 413
        assert connection.closed()


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400_problem_and_the_host_goes_on(served: Project, octets: bytes) -> None:
    host = served.host()
    with host.connect() as connection:
        connection.send(octets)
        answer = connection.response()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json()["title"] == "Bad Request"
        assert connection.closed()
    assert host.get("/x").status == 200
    assert host.stop() == 0


def test_a_body_over_the_limit_is_413_by_length_and_streamed(served: Project) -> None:
    served.manifest(server={"limits": {"body": "100B"}})
    host = served.host()
    with host.connect() as connection:
        connection.head("POST", "/count", Content_Length="101")
        assert connection.response().status == 413
        assert connection.closed()
    with host.connect() as connection:
        connection.head("POST", "/count", Transfer_Encoding="chunked")
        connection.send(b"32\r\n" + b"x" * 50 + b"\r\n")
        connection.send(b"33\r\n" + b"x" * 51 + b"\r\n")
        answer = connection.response()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert connection.closed()
    assert host.wait_for("client left")


def test_a_head_that_comes_too_slowly_is_408_and_one_that_never_begins_is_closed(served: Project) -> None:
    served.manifest(server={"timeouts": {"header": "300ms", "keep_alive": "30s"}})
    host = served.host()
    with host.connect() as slow, host.connect() as silent, host.connect() as second:
        slow.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert second.request("GET", "/first").status == 200
        second.send(b"GET / HT")
        for connection in (slow, second):
            answer = connection.response()
            assert (answer.status, answer.headers["content-type"]) == (408, "application/problem+json")
            assert connection.closed()
        assert silent.closed()


def test_a_body_may_come_slowly(served: Project) -> None:
    served.manifest(server={"timeouts": {"header": "100ms"}})
    host = served.host()
    with host.connect() as connection, host.connect() as silent:
        connection.head("POST", "/count", Content_Length="2")
        connection.send(b"a")
        assert silent.closed()  # the header time is over
        connection.send(b"b")
        assert connection.response().body == b"2"


def test_a_head_over_the_limit_is_431_in_one_piece_and_dribbled(served: Project) -> None:
    served.manifest(server={"limits": {"header": "4KiB"}})
    host = served.host()
    with host.connect() as connection:
        assert connection.request("GET", "/x", X_Big="x" * 3000).status == 200
        connection.head("GET", "/x", X_Big="x" * 5000)
        answer = connection.response()
        assert (answer.status, answer.headers["content-type"]) == (431, "application/problem+json")
        assert connection.closed()
    with host.connect() as connection:
        connection.head("GET", "/" + "x" * 5000)
        assert connection.response().status == 431
    with host.connect() as connection:
        connection.send(b"GET /x HTTP/1.1\r\nHost: x\r\n")
        for number in range(1000):
            connection.send(b"X-%d: %s\r\n" % (number, b"x" * 40))
            if select.select([connection.sock], [], [], 0.001)[0]:
                break
        else:
            pytest.fail("the head was never refused")
        assert connection.response().status == 431
        assert connection.closed()


def test_an_exception_is_a_500_and_one_after_the_start_cuts_the_connection(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        assert connection.request("GET", "/boom").json()["title"] == "Internal Server Error"
        assert connection.request("GET", "/after").status == 200
        connection.head("GET", "/half")
        assert connection.response_head()[0] == 200
        assert connection.rest() == b"half"
    assert host.stop() == 0
    assert sum("exception" in record for record in host.logs) == 2


# Streams --------------------------------------------------------------------------------------------------------------


def test_server_sent_events_arrive_as_they_are_sent(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        connection.head("GET", "/events")
        assert connection.response_head()[1]["content-type"] == "text/event-stream"
        assert connection.chunk() == b"data: 1\n\n"
        host.get("/release")
        assert connection.chunk() == b"data: 2\n\n"
        assert connection.chunk() == b""


def test_an_upload_and_a_download_are_streamed(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        connection.head("POST", "/echo", Transfer_Encoding="chunked")
        connection.response_head()
        for piece in (b"first", b"second", b"x" * 3000):
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            assert connection.chunk() == piece  # before the next is sent
        connection.send(b"0\r\n\r\n")
        assert connection.chunk() == b""
        assert len(connection.request("GET", "/big").body) == 64 * 65536
        assert connection.request("POST", "/count", b"x" * 5_000_000).body == b"5000000"


def test_a_client_that_leaves_is_seen_by_the_application(served: Project) -> None:
    host = served.host()
    with host.connect() as connection:
        connection.head("POST", "/count", Content_Length="10")
        connection.send(b"half")
    assert host.wait_for("client left")
    assert host.stop() == 0


def test_a_websocket_echoes_text_and_bytes_and_is_told_when_the_host_restarts(served: Project) -> None:
    host = served.host()

    async def main() -> None:
        async with websockets.connect(host.address.replace("http", "ws") + "/ws") as socket:
            await socket.send("héllo")
            assert await socket.recv() == "héllo"
            await socket.send(b"\x00\xff" * 5000)
            assert await socket.recv() == b"\x00\xff" * 5000
            host.signal()
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1012

    asyncio.run(asyncio.wait_for(main(), 40))
    assert host.wait() == 0
    assert host.wait_for("websocket closed")


# Listeners ------------------------------------------------------------------------------------------------------------


def test_a_unix_socket_has_its_mode_and_goes_with_the_host(served: Project) -> None:
    served.manifest(server={"listen": {"unix": "s.sock", "mode": "0660"}})
    path = served.folder / "s.sock"
    host = served.host()
    assert host.address == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o660
    assert host.get("/x").body == b"GET /x"
    assert host.stop() == 0
    assert not path.exists()


def test_several_addresses_serve_the_same(served: Project) -> None:
    served.manifest(
        server={"listen": ["127.0.0.1:0", "unix:s.sock", "127.0.0.1:0"], "admin": {"listen": "127.0.0.1:0"}}
    )
    host = served.host()
    assert len(set(host.ready["listen"])) == 3
    for address in host.ready["listen"]:
        assert host.get("/x", address).body == b"GET /x"
        assert host.get("/livez", address).body == b"GET /livez"
    assert host.get("/livez", host.ready["admin"][0]).json() == {"status": "alive"}
    assert host.stop() == 0


def test_an_inherited_descriptor_is_served_and_stays_the_parents(served: Project) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        host = served.host("--listen", f"fd:{listener.fileno()}", pass_fds=[listener.fileno()])
        assert host.address == f"http://127.0.0.1:{port}"
        assert host.get("/x").body == b"GET /x"
        assert host.stop() == 0
        client = Connection(f"http://127.0.0.1:{port}")  # it still listens
        client.sock.close()


def test_gone_is_gone_no_socket_file_of_the_control_is_left(served: Project) -> None:
    host = served.host()
    assert host.ready
    control = list((served.folder / "pywatt").glob("*.sock"))
    assert len(control) == 1
    assert control[0].stat().st_mode & 0o777 == 0o600
    assert host.stop() == 0
    assert os.listdir(served.folder / "pywatt") == []


def test_health_has_details_on_a_loopback_address_and_on_a_unix_socket(project: Project) -> None:
    project.write(
        "main.py",
        """
        def create_app(state):
            @state.health_check("db")
            def check():
                raise OSError("10.0.0.7 refused")

            def app(environ, start_response):
                start_response("404 Not Found", [])
                return []

            return app
        """,
    )
    health = {"interval": "10ms", "start_period": "1ms"}
    project.manifest(app="main:create_app", health=health, server={"listen": ["127.0.0.1:0", "unix:s.sock"]})
    host = project.host()
    host.wait_for("check db fails")
    for address in host.ready["listen"]:
        checks = host.get("/health", address).json()["checks"]
        assert checks == {"db": {"status": "failing", "error": "OSError: 10.0.0.7 refused"}}


def test_bodies_that_arrive_slowly_do_not_take_the_places_of_other_requests(served: Project) -> None:
    served.manifest(server={"limits": {"concurrency": 2}})
    host = served.host()
    with ExitStack() as stack:
        slow = [stack.enter_context(host.connect()) for _ in range(5)]
        for connection in slow:
            connection.head("POST", "/count", Content_Length="2")
            connection.send(b"x")
        assert host.get("/x").status == 200
        for connection in slow:
            connection.send(b"y")
            assert connection.response().body == b"2"


def test_a_preflight_request_is_counted(served: Project) -> None:
    served.manifest(server={"cors": {"allow_origins": ["https://x.example"]}}, metrics=True)
    host = served.host()
    with host.connect() as connection:
        connection.head("OPTIONS", "/", Origin="https://x.example", Access_Control_Request_Method="GET")
        assert connection.response().status == 200
    metrics = host.get("/metrics").body.decode()
    assert 'count{http_request_method="OPTIONS",http_response_status_code="200",http_route="unmatched"} 1.0' in metrics


def test_a_range_that_is_to_be_ignored_does_not_reach_the_application(project: Project) -> None:
    project.write("page.txt", "0123456789")
    project.write(
        "main.py",
        """
        from starlette.applications import Starlette
        from starlette.responses import FileResponse
        from starlette.routing import Route

        async def page(request):
            return FileResponse("page.txt")

        app = Starlette(routes=[Route("/", page)])
        """,
    )
    project.manifest()
    host = project.host()
    asked = [
        ("GET", "bytes=0-1", 206, "2"),
        ("GET", "lines=0-1", 200, "10"),
        ("GET", "nonsense", 200, "10"),
        ("HEAD", "bytes=0-1", 200, "10"),
    ]
    with host.connect() as connection:
        for method, value, status, length in asked:
            connection.head(method, "/", Range=value)
            answer = connection.response(method)
            assert (answer.status, answer.headers["content-length"]) == (status, length), (method, value)
