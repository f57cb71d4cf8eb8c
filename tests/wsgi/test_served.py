"""Real applications behind a real server on a loopback socket."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import django.conf
import django.core.wsgi
import flask
import pytest
import uvicorn
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path

from pywatt_host.wsgi import WsgiApp

PATIENCE = 10.0


@asynccontextmanager
async def served(app: Any, http: str, **options: Any) -> AsyncIterator[tuple[WsgiApp, int]]:
    bridge = WsgiApp(app, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(bridge, http=http, loop="asyncio", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve(sockets=[listener]))
    try:
        yield bridge, listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()
        assert await bridge.aclose(PATIENCE) == 0


async def exchange(port: int, request: bytes) -> bytes:
    """What the server answers to the bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: test", "Connection: close", *headers, "", ""]).encode()


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        return f"hello {name}"

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        return {
            "form": flask.request.form.to_dict(),
            "files": [f.read().decode() for f in flask.request.files.values()],
        }

    @app.post("/raw")
    def raw() -> bytes:
        return flask.request.get_data()[::-1]

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(f"{n}\n" for n in range(1000))

    @app.get("/broken")
    def broken() -> Any:
        def chunks() -> Any:
            yield b"begun"
            raise KeyError("in the middle")

        return flask.Response(chunks())

    return app


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_flask(http: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(flask_app(), http) as (_, port):
            answer = await exchange(port, get("/hello/w%C3%B6rld?x=1"))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith("\r\n\r\nhello wörld".encode())
            assert b"content-length: 12\r\n" in answer

            boundary = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
            form = boundary.format("a", "1") + boundary.format('f"; filename="f.txt', "x" * 100_000) + "--b--\r\n"
            head = "POST /upload HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(form)}\r\n\r\n"
            answer = await exchange(port, (head + form).encode())
            assert b'"form":{"a":"1"}' in answer
            assert b"x" * 100_000 in answer

            head = "POST /raw HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await exchange(port, (head + "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n").encode())
            assert answer.endswith(b"\r\n\r\nfedcba")

            answer = await exchange(port, get("/stream"))
            assert b"\r\n999\n\r\n" in answer
            assert answer.endswith(b"0\r\n\r\n")

            assert (await exchange(port, get("/nowhere"))).startswith(b"HTTP/1.1 404 ")
            answer = await exchange(port, get("/broken"))
            assert b"begun" in answer
            assert not answer.endswith(b"0\r\n\r\n"), "a broken response must look broken"

    asyncio.run(main())
    assert "in the middle" in caplog.text


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_client_that_hangs_up_ends_an_endless_flask_response(http: str) -> None:
    """More often than there are threads; what a2wsgi does here is to stream on to nobody."""
    closed = threading.Semaphore(0)
    app = flask.Flask(__name__)

    @app.get("/endless")
    def endless() -> Any:
        def ticks() -> Any:
            try:
                while True:
                    yield b"tick" * 100
            finally:
                closed.release()

        return flask.Response(ticks())

    async def main() -> None:
        async with served(app, http, threads=2) as (bridge, port):
            for _ in range(6):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(get("/endless"))
                await asyncio.wait_for(reader.readuntil(b"tick"), PATIENCE)
                writer.transport.abort()
                assert await asyncio.to_thread(closed.acquire, timeout=PATIENCE)
            assert bridge.waiting == 0

    asyncio.run(main())


def test_django() -> None:
    def hello(request: Any) -> HttpResponse:
        return HttpResponse(f"at {request.path}")

    def form(request: Any) -> HttpResponse:
        return HttpResponse(request.POST["a"])

    def stream(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(str(n) for n in range(100))

    urls = type("Urls", (), {"urlpatterns": [path("hello/", hello), path("form/", form), path("stream/", stream)]})
    if not django.conf.settings.configured:
        django.conf.settings.configure(SECRET_KEY="test")
    own = override_settings(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], DEBUG=False)

    async def main() -> None:
        async with served(django.core.wsgi.get_wsgi_application(), "httptools") as (_, port):
            assert b"at /hello/" in await exchange(port, get("/hello/"))
            head = "POST /form/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 3\r\n"
            head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            assert b"1" in (await exchange(port, (head + "a=1").encode())).partition(b"\r\n\r\n")[2]
            chunked = (
                head.replace("Content-Length: 3", "Transfer-Encoding: chunked") + "2\r\na=\r\n3\r\ntwo\r\n0\r\n\r\n"
            )
            assert b"two" in (await exchange(port, chunked.encode())).partition(b"\r\n\r\n")[2]
            body = (await exchange(port, get("/stream/"))).partition(b"\r\n\r\n")[2]
            assert b"99\r\n" in body
            assert body.endswith(b"0\r\n\r\n")

    with own:
        asyncio.run(main())
