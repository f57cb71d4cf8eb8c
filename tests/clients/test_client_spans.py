"""The spans of HTTP requests to others: one for each attempt, whose id is what the other side gets as its parent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from pywatt_host.clients.http import HttpClients
from pywatt_host.clients.resilience.providers import ProviderAddress
from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.observability.context import TraceContext, current_request
from pywatt_host.observability.spans import SpanBuffer, Tracer
from tests.clients.resilience.sides import Side, resilience, side
from tests.collector import Collected, collecting, recorded
from tests.hosting import hello, hosted, run

both = pytest.mark.parametrize("blocking", [False, True], ids=["asynchronous", "blocking"])


class World:
    """A server, and both clients of a module that runs."""

    def __init__(self, outbound: HttpClients, tracer: Tracer, server: Side, blocking: bool) -> None:
        self.server = server
        self.tracer = tracer
        self._outbound = outbound
        self._blocking = blocking

    async def get(self, url: str, **more: Any) -> httpx.Response:
        if self._blocking:
            return await asyncio.to_thread(lambda: self._outbound.blocking().get(url, **more))
        return await self._outbound.client().get(url, **more)

    def parents(self) -> list[str]:
        """The ids of the spans that the server was given."""
        return [head["traceparent"].split("-")[2] for head in self.server.heads]


@asynccontextmanager
async def world(
    blocking: bool, tracer: Tracer, policies: Resilience | None = None, more: Sequence[str] = ()
) -> AsyncIterator[World]:
    """`more` are addresses of further providers of `users`."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(side("ok"))
        providers = [ProviderAddress(address) for address in (*more, server.address)]

        async def resolve(name: str) -> list[ProviderAddress]:
            return providers

        outbound = HttpClients(
            resilience=policies, resolve=resolve, resolve_blocking=lambda name: providers, tracer=tracer
        )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        await stack.enter_async_context(outbound.running(tasks))
        yield World(outbound, tracer, server, blocking)


def traced(
    blocking: bool, use: Callable[[World], Any], policies: Resilience | None = None, ratio: float = 1.0, **more: Any
) -> list[Collected]:
    """The spans of what `use` does."""
    tracer = Tracer(SpanBuffer(), ratio)

    async def main() -> None:
        async with world(blocking, tracer, policies, **more) as around:
            await use(around)

    run(main)
    return recorded(tracer)


@both
def test_a_request_is_a_client_span_without_credentials_and_values_of_its_query(blocking: bool) -> None:
    seen: list[Any] = []

    async def use(world: World) -> None:
        url = world.server.address.replace("://", "://ada:hunter2@") + "/users/7?key=hunter2&all#hunter2"
        with world.tracer.span("around") as around:
            assert (await world.get(url)).status_code == 200
        seen.extend((world.server.address, world.parents(), around.place))

    span, around = traced(blocking, use)
    address, parents, place = seen
    host, port = address.removeprefix("http://").split(":")
    assert (span.name, span.kind, span.failed) == ("GET", "client", False)
    assert (span.trace, span.parent) == (around.trace, around.id) == (place.trace_id, place.parent_id)
    assert parents == [span.id]
    assert span.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": host,
        "server.port": int(port),
        "url.full": f"{address}/users/7?key=REDACTED&REDACTED",
    }


@both
@pytest.mark.parametrize(("status", "failed"), [(204, False), (301, False), (404, True), (500, True)])
def test_statuses_from_400_on_are_errors(status: int, failed: bool, blocking: bool) -> None:
    async def use(world: World) -> None:
        world.server.statuses = [status]
        await world.get(world.server.address)

    (span,) = traced(blocking, use)
    assert (span.failed, span.attributes.get("error.type")) == (failed, str(status) if failed else None)


@both
def test_each_attempt_to_a_module_is_a_span_of_its_own_to_the_provider_that_it_reaches(blocking: bool) -> None:
    seen: list[Any] = []

    async def use(world: World) -> None:
        world.server.statuses = [503, 200]
        with world.tracer.span("around"):
            assert (await world.get("module://users/list")).status_code == 200
        seen.extend(world.parents())

    policies = resilience(retry={"duration": "1ms", "max_retries": 2})
    refused, first, second, around = traced(blocking, use, policies, more=["http://127.0.0.1:1"])
    assert [span.parent for span in (refused, first, second)] == [around.id] * 3
    assert refused.attributes["error.type"] == "ConnectError"
    assert [span.attributes.get("http.response.status_code") for span in (first, second)] == [503, 200]
    assert [span.attributes.get("http.request.resend_count") for span in (refused, first, second)] == [None, 1, 2]
    assert {span.attributes["peer.service"] for span in (refused, first, second)} == {"users"}
    assert seen == [first.id, second.id]


@both
def test_a_redirect_is_a_span_of_its_own(blocking: bool) -> None:
    seen: list[Any] = []

    async def use(world: World) -> None:
        world.server.statuses, world.server.extra = [302], "Location: /there\r\n"
        await world.get(world.server.address, follow_redirects=True)
        seen.extend(world.parents())

    first, second = traced(blocking, use)
    assert second.attributes["http.request.resend_count"] == 1
    assert seen == [first.id, second.id]


@both
def test_what_the_application_says_about_its_trace_is_left_alone(blocking: bool) -> None:
    seen: list[Any] = []

    async def use(world: World) -> None:
        await world.get(world.server.address, headers={"traceparent": "00-mine"})
        seen.extend(head["traceparent"] for head in world.server.heads)

    assert len(traced(blocking, use)) == 1
    assert seen == ["00-mine"]


@both
def test_a_trace_that_is_not_sampled_goes_along_with_its_state(blocking: bool) -> None:
    seen: list[Any] = []

    class Request:
        request_id = b"abc"
        trace = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 0, "vendor=1")
        span_id = "00f067aa0ba902b7"

    async def use(world: World) -> None:
        current_request.set(Request())  # type: ignore[arg-type]
        await world.get(world.server.address)
        seen.extend(world.server.heads)

    assert traced(blocking, use) == []
    (head,) = seen
    assert head["traceparent"] == f"00-{Request.trace.trace_id}-{Request.span_id}-00"
    assert (head["tracestate"], head["x-request-id"]) == ("vendor=1", "abc")


@both
def test_a_span_ends_with_the_body_of_the_response(blocking: bool) -> None:
    async def use(world: World) -> None:
        def in_thread() -> None:
            with world._outbound.blocking().stream("GET", world.server.address) as response:
                assert len(world.tracer.buffer) == 0
                response.read()
                assert len(world.tracer.buffer) == 1

        if blocking:
            await asyncio.to_thread(in_thread)
            return
        async with world._outbound.client().stream("GET", world.server.address) as answer:
            assert len(world.tracer.buffer) == 0
            await answer.aread()
            assert len(world.tracer.buffer) == 1
        async with world._outbound.client().stream("GET", world.server.address):
            pass  # it is closed without being read

    assert len(traced(blocking, use)) == (1 if blocking else 2)


def test_a_request_that_is_cancelled_is_an_error() -> None:
    async def use(world: World) -> None:
        world.server.statuses = [-1]
        request = asyncio.create_task(world.get(world.server.address))
        await world.server.asked.wait()  # a client that is cancelled while it connects may leave its socket open
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()

    (span,) = traced(False, use)
    assert (span.failed, span.attributes["error.type"]) == (True, "CancelledError")


def test_in_a_host_the_span_hangs_below_that_of_the_request_and_the_token_has_one_too() -> None:
    async def main() -> None:
        async with side("ok") as billing, side('{"access_token": "t", "token_type": "Bearer"}') as issuer:
            client = {
                "base_url": billing.address, "token_url": f"{issuer.address}/token", "client_id": "users",
                "client_secret": "a secret of the issuer", "allow_http": True,
            }  # fmt: skip

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await host.state.http.post(f"{billing.address}/bills")
                await asyncio.to_thread(lambda: host.state.sync.http.get(billing.address))
                await hello(scope, receive, send)

            async with hosted({"tracing": collector.url, "clients": {"billing": client}}, app) as host:
                assert (await host.get("/pay")).status == 200
            assert re.fullmatch("Bearer t", billing.heads[0]["authorization"])

    with collecting() as collector:
        run(main)
        spans = collector.spans()
    (server,) = [span for span in spans if span.kind == "server"]
    clients = [span for span in spans if span.kind == "client"]
    assert [span.attributes["url.full"].rpartition("/")[2] for span in clients] == ["token", "bills", ""]
    assert {(span.trace, span.parent) for span in clients} == {(server.trace, server.id)}
