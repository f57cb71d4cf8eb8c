"""module://NAME/path: who is asked, what they are sent, and what becomes of redirects. Real servers, both clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pywatt_host.clients.http import HttpClients
from pywatt_host.clients.resilience.exchange import CircuitOpenError
from pywatt_host.clients.resilience.modules import ModuleError
from pywatt_host.clients.resilience.providers import ProviderAddress, RoundRobin
from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.exceptions import MessagingError
from tests.clients.resilience.sides import Clock, Side, resilience, side
from tests.hosting import run

NOBODY = "http://127.0.0.1:1"  # tcpmux: nobody listens there


class Web:
    """Both clients of a module that runs; requests of the blocking one are made in a thread."""

    def __init__(self, outbound: HttpClients, blocking: bool) -> None:
        self._outbound = outbound
        self._blocking = blocking

    async def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        if self._blocking:
            return await asyncio.to_thread(lambda: self._outbound.blocking().request(method, url, **more))
        return await self._outbound.client().request(method, url, **more)

    async def get(self, url: str, **more: Any) -> httpx.Response:
        return await self.request("GET", url, **more)


class Registry:
    """Knows who provides `users`."""

    def __init__(self) -> None:
        self.addresses: list[ProviderAddress] = []
        self.asked: list[str] = []

    def blocking(self, name: str) -> Sequence[ProviderAddress]:
        self.asked.append(name)
        if name != "users":
            raise MessagingError("unknown_target", "nobody has that name", name)
        return self.addresses

    async def resolve(self, name: str) -> Sequence[ProviderAddress]:
        return self.blocking(name)


@asynccontextmanager
async def web(
    registry: Registry, blocking: bool, policies: Resilience | None = None, auth: httpx.Auth | None = None
) -> AsyncIterator[Web]:
    outbound = HttpClients(auth, resilience=policies, resolve=registry.resolve, resolve_blocking=registry.blocking)
    async with asyncio.TaskGroup() as tasks, outbound.running(tasks):
        yield Web(outbound, blocking)


@asynccontextmanager
async def world(
    blocking: bool, count: int = 2, policies: Resilience | None = None
) -> AsyncIterator[tuple[Web, list[Side], Registry]]:
    """So many providers of `users`, and a client."""
    async with AsyncExitStack() as stack:
        sides = [await stack.enter_async_context(side(f"side {number}")) for number in range(count)]
        registry = Registry()
        registry.addresses = [ProviderAddress(each.address) for each in sides]
        yield await stack.enter_async_context(web(registry, blocking, policies)), sides, registry


both = pytest.mark.parametrize("blocking", [False, True], ids=["asynchronous", "blocking"])


@both
def test_providers_are_asked_in_turn_with_path_query_and_headers(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking) as (client, sides, registry):
            secret_values = [
                (await client.get("module://Users/a%2Fb/%20?q=1&q=%C3%A4", headers={"x-own": "1"})).text
                for _ in range(4)
            ]
            assert secret_values == ["side 0", "side 1", "side 0", "side 1"]
            assert registry.asked == ["users"] * 4
            for each in sides:
                assert each.lines == ["GET /a%2Fb/%20?q=1&q=%C3%A4 HTTP/1.1"] * 2
                assert each.heads[0]["host"] == each.address.removeprefix("http://")
                assert each.heads[0]["x-own"] == "1"
            await client.get("module://users/", headers={"Host": "own.example"})
            assert sides[0].heads[-1]["host"] == "own.example"

    run(main)


@both
def test_one_that_is_killed_is_passed_over_whatever_the_method(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking) as (client, (first, second), _):
            assert (await client.get("module://users/")).text == "side 0"
            await first.kill()
            for _ in range(3):
                answer = await client.request("POST", "module://users/orders", content=b"one order")
                assert answer.text == "side 1"
            assert second.bodies == [b"one order"] * 3
            await second.kill()
            with pytest.raises(ModuleError) as caught:
                await client.get("module://users/")
            for said in ("module users cannot be reached", first.address, second.address):
                assert said in str(caught.value)
            assert isinstance(caught.value, httpx.TransportError)

    run(main)


@both
def test_a_generator_is_sent_to_the_next_one_since_nothing_was_taken_of_it(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking, 1) as (client, (only,), registry):
            registry.addresses.insert(0, ProviderAddress(NOBODY))

            async def apieces() -> AsyncIterator[bytes]:
                yield b"pieces"

            body = iter([b"pieces"]) if blocking else apieces()
            assert (await client.request("POST", "module://users/", content=body)).status_code == 200
            assert only.bodies == [b"pieces"]

    run(main)


@both
def test_a_retry_prefers_who_was_not_tried(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking, 3, resilience(retry={"max_retries": 3})) as (client, sides, _):
            sides[0].statuses, sides[1].statuses = [503], [0]
            answer = await client.get("module://users/", headers={"x-request-id": "abc", "traceparent": "00-1-2-01"})
            assert answer.text == "side 2"
            for each in sides:
                assert [(head["x-request-id"], head["traceparent"]) for head in each.heads] == [("abc", "00-1-2-01")]

    run(main)


@both
def test_a_connection_that_died_while_it_was_kept_is_for_idempotent_requests_alone(blocking: bool) -> None:
    """The server closes a connection that it kept alive, with the request on its way."""

    async def main() -> None:
        async with world(blocking, 1, resilience(retry={"max_retries": 1})) as (client, (only,), _):
            await client.get("module://users/")
            only.statuses = [0]
            assert (await client.request("PUT", "module://users/", content=b"x")).status_code == 200
            only.statuses = [0]
            with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
                await client.request("POST", "module://users/", content=b"x")
            assert len(only.lines) == 4

    run(main)


@both
def test_a_breaker_is_that_of_the_module(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking, 2, resilience(breaker={"consecutive_failures": 2})) as (client, sides, _):
            for each in sides:
                each.statuses = [500]
            assert [(await client.get("module://users/")).status_code for _ in range(2)] == [500, 500]
            with pytest.raises(CircuitOpenError, match=r"resiliency\.targets\.modules\.users\.circuit_breaker"):
                await client.get("module://USERS/")
            assert [len(each.lines) for each in sides] == [1, 1]

    run(main)


def test_one_that_is_silent_costs_the_time_there_is() -> None:
    async def main() -> None:
        async with world(False, 1, resilience(timeout="50ms", retry={})) as (client, (only,), _):
            only.statuses = [-1]
            with pytest.raises(httpx.ReadTimeout, match="users did not answer within"):
                await client.get("module://users/")

    run(main)


@both
def test_many_at_once_find_their_way(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking, 2, resilience(retry={})) as (client, sides, registry):
            registry.addresses.append(ProviderAddress(NOBODY))
            answers = await asyncio.gather(*(client.get("module://users/") for _ in range(40)))
            assert {answer.status_code for answer in answers} == {200}
            assert sum(len(each.lines) for each in sides) == 40

    run(main)


@both
def test_a_unix_socket_answers_by_the_name_of_the_module(blocking: bool, tmp_path: Path) -> None:
    async def main() -> None:
        registry = Registry()
        async with side(socket=tmp_path / "s.sock") as only, web(registry, blocking) as client:
            registry.addresses = [ProviderAddress(only.address)]
            only.extra = "Set-Cookie: a=b\r\n"
            for _ in range(2):
                assert (await client.get("module://users/a?b=c")).text == "one"
            assert only.lines[0] == "GET /a?b=c HTTP/1.1"
            assert only.heads[1]["host"] == "users"
            assert "cookie" not in only.heads[1]
            only.statuses, only.extra = [302], "Location: http://users/there\r\n"
            answer = await client.get("module://users/", follow_redirects=True)
            assert str(answer.url) == "module://users/there"

    run(main)


# Redirects and credentials --------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("location", ["there?x=1", "/deep/there?x=1", "ADDRESS/deep/there?x=1"])
def test_a_redirect_that_stays_there_stays_on_the_module(blocking: bool, location: str) -> None:
    async def main() -> None:
        async with world(blocking) as (client, (first, second), _):
            first.statuses, first.extra = [307], f"Location: {location.replace('ADDRESS', first.address)}\r\n"
            answer = await client.request(
                "PUT", "module://users/deep/here", content=b"x", headers={"authorization": "a"}, follow_redirects=True
            )
            assert str(answer.url) == "module://users/deep/there?x=1"
            assert second.lines == ["PUT /deep/there?x=1 HTTP/1.1"]
            assert second.bodies == [b"x"]
            assert second.heads[0]["authorization"] == "a"

    run(main)


@both
def test_one_elsewhere_leaves_without_the_credential(blocking: bool) -> None:
    async def main() -> None:
        async with side("elsewhere") as elsewhere, world(blocking, 1) as (client, (only,), registry):
            only.statuses, only.extra = [302], f"Location: {elsewhere.address}/x\r\n"
            answer = await client.get("module://users/", headers={"authorization": "a"}, follow_redirects=True)
            assert answer.text == "elsewhere"
            assert registry.asked == ["users"]
            assert only.heads[0]["authorization"] == "a"
            assert "authorization" not in elsewhere.heads[0]
            assert elsewhere.heads[0]["host"] == elsewhere.address.removeprefix("http://")

    run(main)


@both
def test_credentials_of_an_origin_are_not_for_modules_that_happen_to_be_there(blocking: bool) -> None:
    class ForOrigin(httpx.Auth):
        """As tokens of `clients` are: by the URL that the application asks for."""

        def __init__(self) -> None:
            self.seen: list[str] = []

        def auth_flow(self, request: httpx.Request) -> Any:
            self.seen.append(request.url.scheme)
            yield request

    async def main() -> None:
        registry, auth = Registry(), ForOrigin()
        async with side() as only, web(registry, blocking, resilience(retry={}), auth) as client:
            registry.addresses = [ProviderAddress(only.address)]
            only.statuses = [503]
            await client.get("module://users/")
            assert auth.seen == ["module"]
            assert len(only.lines) == 2

    run(main)


# What cannot be -------------------------------------------------------------------------------------------------------


@both
def test_nobody_known_is_an_error_of_httpx_with_its_cause(blocking: bool) -> None:
    async def main() -> None:
        async with world(blocking, 0) as (client, _, _):
            with pytest.raises(ModuleError, match=r"module://others/: others: nobody has that name") as caught:
                await client.get("module://others/")
            assert isinstance(caught.value.__cause__, MessagingError)
            assert caught.value.request.url == "module://others/"
            with pytest.raises(
                ModuleError, match="module users cannot be reached: none of its providers has an HTTP address"
            ):
                await client.get("module://users/")

    run(main)


@both
@pytest.mark.parametrize(
    ("url", "said"), [("module://users:80/", "Write module://NAME/path"), ("module:///users", "missing")]
)
def test_what_is_no_module_is_refused(blocking: bool, url: str, said: str) -> None:
    async def main() -> None:
        async with world(blocking, 1) as (client, _, registry):
            with pytest.raises(httpx.UnsupportedProtocol, match=said):
                await client.get(url)
            assert registry.asked == []

    run(main)


@both
def test_alone_there_are_no_modules(blocking: bool) -> None:
    async def main() -> None:
        outbound = HttpClients()
        async with asyncio.TaskGroup() as tasks, outbound.running(tasks):
            with pytest.raises(httpx.ConnectError, match="there is no orchestrator"):
                await Web(outbound, blocking).get("module://users/")

    run(main)


def test_the_clients_may_be_contexts_as_those_of_httpx_are() -> None:
    async def main() -> None:
        registry, outbound = Registry(), HttpClients()
        async with outbound.client():
            pass
        with outbound.blocking():
            pass
        outbound = HttpClients(resolve=registry.resolve, resolve_blocking=registry.blocking)
        async with side() as only:
            registry.addresses = [ProviderAddress(only.address)]
            async with outbound.client() as client:
                assert (await client.get("module://users/")).text == "one"

            def ask() -> str:
                with outbound.blocking() as client:
                    return client.get("module://users/").text

            assert await asyncio.to_thread(ask) == "one"

    run(main)


@both
def test_sockets_are_kept_within_bounds_and_closed(
    blocking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr("pywatt_host.clients.resilience.modules._MAX_SOCKETS", 2)
        registry = Registry()
        async with AsyncExitStack() as stack:
            sides = [
                await stack.enter_async_context(side(f"{number}", tmp_path / f"{number}.sock")) for number in range(3)
            ]
            async with web(registry, blocking) as client:
                for each in [*sides, *sides]:
                    registry.addresses = [ProviderAddress(each.address)]
                    assert (await client.get("module://users/")).text == each.name
            async with asyncio.timeout(10):
                for each in sides:  # the clients have closed all connections
                    await asyncio.gather(*filter(None, each._tasks))

    run(main)


# Whose turn it is -----------------------------------------------------------------------------------------------------


def order(rota: RoundRobin, *urls: str, sick: Sequence[str] = (), tried: Sequence[str] = ()) -> str:
    return "".join(rota.order("users", [ProviderAddress(url, url not in sick) for url in urls], tried))


def test_turns_go_round_healthy_providers() -> None:
    rota = RoundRobin()
    assert [order(rota, "a", "b", "c", sick="b") for _ in range(3)] == ["acb", "cab", "acb"]
    assert order(rota, "a", sick="a") == "a"
    assert order(rota) == ""
    assert order(rota, "a", "a") == "a"


def test_one_that_cannot_be_reached_comes_last_for_some_seconds() -> None:
    clock = Clock()
    rota = RoundRobin(clock)
    rota.unreachable("a")
    assert {order(rota, "a", "b", "c") for _ in range(6)} == {"bca", "cba"}
    assert order(rota, "a", "b", sick="b") == "ab"
    assert order(rota, "a", "b", tried="b") == "ab"
    clock.now += 10
    assert {order(rota, "a", "b") for _ in range(2)} == {"ab", "ba"}


def test_what_is_remembered_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywatt_host.clients.resilience.providers._MAX_REMEMBERED", 3)
    rota = RoundRobin()
    for number in range(9):
        rota.order(f"module {number}", [ProviderAddress("a")])
        rota.unreachable(f"address {number}")
    assert len(rota._turns) == len(rota._avoided) == 3
