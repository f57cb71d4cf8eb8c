"""`app_state.http` and `app_state.sync.http`: what they add to requests, how long they live, who may use them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from pywatt_host.app.state import AppState
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import PATIENCE, Hosted, hello, hosted, run

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"x-request-id": "abc", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "vendor=1"}


def with_flags(flags: str) -> dict[str, str]:
    return {**HEADERS, "traceparent": f"00-{TRACE}-b7ad6b7169203331-{flags}"}


class Upstream:
    """A server that keeps the heads of its requests, and sets a cookie; at `/silent` it never answers."""

    def __init__(self) -> None:
        self.heads: list[httpx.Headers] = []
        self.url = ""
        self._answering: set[asyncio.Task[Any] | None] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answering.add(asyncio.current_task())
        try:
            while True:
                request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                self.heads.append(httpx.Headers([(line.split(": ")[0], line.split(": ")[1]) for line in lines if line]))
                if "/silent" not in request:
                    writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=of-somebody\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            await writer.wait_closed()

    async def left_alone(self) -> None:
        """Until all clients have closed their connections."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*filter(None, self._answering), return_exceptions=True)


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        yield server
        await server.left_alone()


def asgi(url: str, headers: Mapping[str, str]) -> Any:
    def create_app(state: AppState) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/ask":
                assert (await state.http.get(url, headers=dict(headers))).text == "ok"
            await hello(scope, receive, send)

        return app

    return create_app


def wsgi(url: str, headers: Mapping[str, str]) -> Any:
    def create_app(state: AppState) -> Any:
        def app(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            if environ["PATH_INFO"] == "/ask":
                assert state.sync.http.get(url, headers=dict(headers)).text == "ok"
            start_response("200 OK", [("content-length", "0")])
            return []

        return app

    return create_app


async def in_thread(call: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(call)


@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize("create", [asgi, wsgi])
def test_the_id_and_the_trace_of_the_request_go_along(create: Callable[..., Any], flags: str) -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=create(server.url, {})) as host:
            for _ in range(2):
                assert (await host.get("/ask", headers=with_flags(flags))).status == 200
            first, second = server.heads
            assert first["x-request-id"] == second["x-request-id"] == "abc"
            spans = [re.fullmatch(f"00-{TRACE}-([0-9a-f]{{16}})-{flags}", head["traceparent"]) for head in server.heads]
            assert spans[0]
            assert spans[1]
            assert len({"b7ad6b7169203331", spans[0][1], spans[1][1]}) == 3  # each call is a span of its own
            assert first["tracestate"] == "vendor=1"

    run(main)


@pytest.mark.parametrize("create", [asgi, wsgi])
def test_what_the_application_sets_itself_is_left_alone(create: Callable[..., Any]) -> None:
    async def main() -> None:
        own = {"X-Request-ID": "mine", "Traceparent": "00-mine", "User-Agent": "me/1"}
        async with upstream() as server, hosted(app=create(server.url, own)) as host:
            assert (await host.get("/ask", headers=HEADERS)).status == 200
            (head,) = server.heads
            assert [head[name] for name in own] == list(own.values())

    run(main)


@pytest.mark.parametrize("create", [asgi, wsgi])
def test_requests_to_a_module_keep_the_trace_and_its_flags(create: Callable[..., Any]) -> None:
    async def main() -> None:
        async with upstream() as server:
            static = [{"type": "module", "name": "users", "address": server.url.rstrip("/")}]
            manifest = {"services": {"static": static}}
            async with hosted(manifest, create("module://users/", {})) as host:
                for flags in ("00", "01"):
                    assert (await host.get("/ask", headers=with_flags(flags))).status == 200
                    parent = server.heads[-1]["traceparent"]
                    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-{flags}", parent)

    run(main)


def test_outside_of_a_request_there_is_nothing_to_go_along() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=hello) as host:
            await host.state.http.get(server.url)
            await in_thread(lambda: host.state.sync.http.get(server.url))
            for head in server.heads:
                assert head["user-agent"] == "pywatt-host"
                assert head.keys().isdisjoint({"x-request-id", "traceparent"})

    run(main)


def test_a_request_without_a_trace_has_none_to_go_along() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=asgi(server.url, {})) as host:
            answer = await host.get("/ask")
            (head,) = server.heads
            assert head["x-request-id"] == answer.header("x-request-id")
            assert "traceparent" not in head

    run(main)


def test_cookies_of_one_request_are_not_sent_with_the_next() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=hello) as host:
            for _ in range(2):
                assert dict((await host.state.http.get(server.url)).cookies) == {"session": "of-somebody"}
                await in_thread(lambda: host.state.sync.http.get(server.url))
            assert all("cookie" not in head for head in server.heads)
            await host.state.http.get(server.url, headers={"cookie": "a=b"})
            assert server.heads[-1]["cookie"] == "a=b"

    run(main)


def test_both_wait_ten_seconds_and_as_long_as_the_call_says() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=hello) as host:
            assert host.state.http.timeout == host.state.sync.http.timeout == httpx.Timeout(10.0)
            with pytest.raises(httpx.ReadTimeout):
                await host.state.http.get(f"{server.url}silent", timeout=httpx.Timeout(PATIENCE, read=0.01))

    run(main)


def test_they_are_made_once_and_closed_with_the_host() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=hello) as host:
            client, blocking = host.state.http, await in_thread(lambda: host.state.sync.http)
            assert host.state.http is client
            assert host.state.sync.http is blocking
            await client.get(server.url)
            assert not client.is_closed
            state = host.state
        assert client.is_closed
        assert blocking.is_closed
        for gone in (lambda: state.http, lambda: state.sync.http):
            with pytest.raises(RuntimeError, match="the host has stopped, and its HTTP client with it"):
                gone()

    run(main)


def test_they_outlive_requests_and_tasks_and_serve_the_shutdown_hooks() -> None:
    async def main() -> None:
        seen: list[str] = []
        async with upstream() as server:
            async with hosted(app=hello) as host:

                async def say_goodbye() -> None:
                    seen.append((await host.state.http.get(server.url)).text)

                host.state.on_shutdown(say_goodbye)
            assert seen == ["ok"]

    run(main)


def test_the_blocking_one_refuses_to_block_the_event_loop() -> None:
    async def main() -> None:
        async with upstream() as server, hosted(app=hello) as host:
            with pytest.raises(
                RuntimeError, match=r"would block the event loop here\. Use `await app_state\.http\.\.\."
            ):
                host.state.sync.http.get(server.url)
            assert server.heads == []

    run(main)


def test_the_asynchronous_one_is_for_no_other_event_loop() -> None:
    """Its connections belong to the host's; Flask runs async views on loops of their own."""

    async def main() -> None:
        async with hosted(app=hello) as host:

            async def elsewhere() -> None:
                host.state.http  # noqa: B018

            with pytest.raises(RuntimeError, match=r"Use app_state\.sync\.http"):
                await in_thread(lambda: asyncio.run(elsewhere()))
            assert isinstance(await in_thread(lambda: host.state.http), httpx.AsyncClient)  # to hand it to the loop

    run(main)


def test_one_that_fails_to_close_is_logged_and_the_other_is_closed() -> None:
    async def main() -> None:
        def fail(host: Hosted) -> None:
            async def aclose() -> None:
                raise OSError("a socket is lost")

            host.state.http.aclose = aclose  # type: ignore[method-assign]

        async with hosted(app=hello) as host:
            fail(host)
            blocking = host.state.sync.http
        assert blocking.is_closed

    run(main)
