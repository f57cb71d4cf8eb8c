"""HTTP requests under a policy, asynchronous and blocking: what is tried again, and what counts as a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from pywatt_host.clients.resilience.breaker import BreakerState
from pywatt_host.clients.resilience.exchange import CircuitOpenError, DeadlineError
from pywatt_host.clients.resilience.policy import TargetPolicy
from pywatt_host.clients.resilience.transports import (
    pattern_of,
    proxy_of,
    send_with_retries,
    send_with_retries_blocking,
)
from tests.clients.resilience.sides import Clock, resilience
from tests.hosting import run

RETRY = {"max_retries": 3}
CAREFUL = {"consecutive_failures": 100}


class Closing(httpx.ByteStream):
    """Tells when the response was closed."""

    def __init__(self, closed: list[int], status: int) -> None:
        super().__init__(b"body")
        self._closed, self._status = closed, status

    def close(self) -> None:
        self._closed.append(self._status)

    async def aclose(self) -> None:
        self._closed.append(self._status)


class Network:
    """Answers with statuses, raises errors, then 200."""

    def __init__(self, *outcomes: int | type[Exception] | tuple[int, str]) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx.Request] = []
        self.closed: list[int] = []

    def send(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        outcome = self.outcomes.pop(0) if self.outcomes else 200
        if isinstance(outcome, type):
            raise outcome("as told")
        status, after = outcome if isinstance(outcome, tuple) else (outcome, "")
        headers = {"retry-after": after} if after else {}
        return httpx.Response(status, headers=headers, stream=Closing(self.closed, status))

    async def asend(self, request: httpx.Request) -> httpx.Response:
        return self.send(request)


Ask = Callable[[TargetPolicy, httpx.Request, Network], httpx.Response]


def asynchronously(policy: TargetPolicy, request: httpx.Request, network: Network) -> httpx.Response:
    return asyncio.run(send_with_retries(policy, request, network.asend))


def blocking(policy: TargetPolicy, request: httpx.Request, network: Network) -> httpx.Response:
    return send_with_retries_blocking(policy, request, network.send)


both = pytest.mark.parametrize("ask", [asynchronously, blocking])


def policy(**more: Any) -> TargetPolicy:
    return resilience(**{"retry": RETRY, "breaker": CAREFUL, **more}).for_module("users")


def request(method: str = "GET", **more: Any) -> httpx.Request:
    return httpx.Request(method, "http://users/", **more)


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "outcome", [429, 502, 503, 504, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadTimeout]
)
def test_what_means_the_same_twice_is_sent_again(ask: Ask, method: str, outcome: Any) -> None:
    network, given = Network(outcome, outcome), policy()
    assert ask(given, request(method), network).status_code == 200
    assert len(network.requests) == 3
    assert given.retries == 2


@both
@pytest.mark.parametrize("method", ["POST", "PATCH", "QUERY"])
@pytest.mark.parametrize("outcome", [429, 502, 503, 504])
def test_what_may_not_is_answered_as_it_is(ask: Ask, method: str, outcome: int) -> None:
    network = Network(outcome)
    assert ask(policy(), request(method), network).status_code == outcome
    assert network.closed == []


@both
@pytest.mark.parametrize("error", [httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout, httpx.WriteTimeout])
def test_nor_is_it_sent_again_where_it_may_have_arrived(ask: Ask, error: type[Exception]) -> None:
    network = Network(error)
    with pytest.raises(error, match="as told"):
        ask(policy(), request("POST"), network)
    assert len(network.requests) == 1


@both
@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
def test_what_was_never_sent_is_sent_whatever_it_is(ask: Ask, error: type[Exception]) -> None:
    network = Network(error, error, error)
    assert ask(policy(), request("POST", content=b"once"), network).status_code == 200
    assert [each.headers["content-length"] for each in network.requests] == ["4"] * 4


@both
@pytest.mark.parametrize("status", [200, 302, 400, 404, 408, 500, 501])
def test_other_answers_are_answers(ask: Ask, status: int) -> None:
    network = Network(status)
    assert ask(policy(), request(), network).status_code == status
    assert len(network.requests) == 1


@both
@pytest.mark.parametrize("error", [httpx.UnsupportedProtocol, httpx.LocalProtocolError])
def test_faults_of_ours_are_neither_tried_again_nor_counted(ask: Ask, error: type[Exception]) -> None:
    network, given = Network(error), policy(breaker={"consecutive_failures": 1})
    with pytest.raises(error):
        ask(given, request(), network)
    assert given.breaker is not None
    assert given.breaker.state() is BreakerState.CLOSED
    assert len(network.requests) == 1


@both
def test_the_last_answer_is_given_as_it_is_and_those_before_are_closed(ask: Ask) -> None:
    network = Network(502, 503, 504, 503)
    answer = ask(policy(), request(), network)
    assert answer.status_code == 503
    assert network.closed == [502, 503, 504]
    assert not answer.is_closed


@both
def test_the_last_error_is_raised_as_it_is(ask: Ask) -> None:
    network = Network(*[httpx.ConnectError] * 4)
    with pytest.raises(httpx.ConnectError, match="as told"):
        ask(policy(), request(), network)
    assert len(network.requests) == 4


async def apieces() -> AsyncIterator[bytes]:
    yield b"once"


def pieces() -> Iterator[bytes]:
    yield b"once"


@pytest.mark.parametrize(("ask", "body"), [(asynchronously, apieces), (blocking, pieces)])
@pytest.mark.parametrize("outcome", [503, httpx.ConnectError])
def test_a_body_that_is_there_once_is_sent_once(ask: Ask, body: Callable[[], Any], outcome: Any) -> None:
    network = Network(outcome)
    try:
        ask(policy(), request("PUT", content=body()), network)
    except httpx.ConnectError:
        pass
    assert len(network.requests) == 1


@both
def test_headers_are_those_of_the_first_attempt(ask: Ask) -> None:
    headers = {"x-request-id": "abc", "traceparent": "00-a-b-01", "authorization": "Bearer x"}
    network = Network(503, httpx.ReadError)
    ask(policy(), request(headers=headers), network)
    assert [{name: each.headers[name] for name in headers} for each in network.requests] == [headers] * 3


# Retry-After ----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("after", ["5", "date", "3600"])
def test_who_is_to_wait_longer_than_there_is_time_gets_the_answer(ask: Ask, status: int, after: str) -> None:
    network = Network((status, formatdate(time.time() + 20, usegmt=True) if after == "date" else after))
    answer = ask(policy(timeout="2s"), request(), network)
    assert answer.status_code == status
    assert network.closed == []


@both
def test_nobody_waits_for_more_than_a_minute(ask: Ask) -> None:
    assert ask(policy(), request(), Network((503, "61"))).status_code == 503


@both
def test_retry_after_is_waited_for(ask: Ask) -> None:
    given = policy(timeout="10s")
    assert given.call().wait(2.0) == 2.0
    for after in ("0", "soon"):
        assert ask(given, request(), Network((503, after))).status_code == 200
    assert ask(given, request(), Network((502, "3600"))).status_code == 200  # says nothing there


# The circuit breaker --------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("outcome", [500, 502, 503, httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_failures_of_the_target_open_its_breaker(ask: Ask, outcome: Any) -> None:
    given = policy(retry=None, breaker={"consecutive_failures": 2})
    for _ in range(2):
        try:
            ask(given, request("POST"), Network(outcome))
        except httpx.TransportError:
            pass
    network = Network()
    with pytest.raises(CircuitOpenError) as caught:
        ask(given, request(), network)
    assert str(caught.value) == (
        "the circuit breaker of users is open for another 30s (resiliency.targets.modules.users.circuit_breaker)"
    )
    assert isinstance(caught.value, httpx.ConnectError)
    assert network.requests == []


@both
@pytest.mark.parametrize("status", [400, 401, 404, 429, 501])
def test_answers_that_blame_the_request_do_not(ask: Ask, status: int) -> None:
    given = policy(retry=None, breaker={"consecutive_failures": 2})
    for outcome in (500, status, 500, status):
        ask(given, request(), Network(outcome))
    assert ask(given, request(), Network()).status_code == 200


@both
def test_who_opens_the_breaker_gets_the_answer_that_did(ask: Ask) -> None:
    network = Network(503, 503, 503)
    assert ask(policy(breaker={"consecutive_failures": 2}), request(), network).status_code == 503
    assert len(network.requests) == 2
    assert network.closed == [503]


@both
def test_a_probe_that_succeeds_closes_it(ask: Ask) -> None:
    clock = Clock()
    given = policy(retry=None, breaker={"consecutive_failures": 1, "timeout": "5s"}, clock=clock)
    ask(given, request(), Network(500))
    clock.now += 5
    assert ask(given, request(), Network()).status_code == 200
    assert given.breaker is not None
    assert given.breaker.state() is BreakerState.CLOSED


def test_a_request_that_is_cancelled_is_no_failure() -> None:
    async def main() -> None:
        given = policy(breaker={"consecutive_failures": 1})
        started = asyncio.Event()

        async def hanging(request: httpx.Request) -> httpx.Response:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError

        task = asyncio.create_task(send_with_retries(given, request(), hanging))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert given.breaker is not None
        assert given.breaker.state() is BreakerState.CLOSED

    run(main)


def test_threads_share_a_breaker() -> None:
    clock = Clock()
    given = policy(retry=None, breaker={"consecutive_failures": 1, "timeout": "5s"}, clock=clock)
    blocking(given, request(), Network(500))
    clock.now += 5
    network = Network(*[500] * 50)

    def ask(_: int) -> int:
        try:
            return blocking(given, request(), network).status_code
        except CircuitOpenError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(50)))
    assert sorted(answers) == [0] * 49 + [500]
    assert len(network.requests) == 1


# Time -----------------------------------------------------------------------------------------------------------------


def test_the_limit_is_for_all_attempts_together() -> None:
    async def main() -> None:
        given = policy(timeout="30ms")
        attempts = 0

        async def slow(request: httpx.Request) -> httpx.Response:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise httpx.ReadTimeout("as told")
            await asyncio.Event().wait()
            raise AssertionError

        with pytest.raises(DeadlineError) as caught:
            await send_with_retries(given, request(), slow)
        assert isinstance(caught.value, httpx.TimeoutException)
        assert str(caught.value) == "users did not answer within 0.03s (resiliency.targets.modules.users.timeout)"
        assert attempts == 2

    run(main)


def test_in_threads_it_bounds_each_step() -> None:
    clock = Clock()
    given = policy(timeout="5s", clock=clock)
    seen: list[dict[str, Any]] = []

    def slow(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.extensions["timeout"]))
        clock.now += 3
        raise httpx.ReadTimeout("as told")

    own = {"connect": 1.0, "read": None, "write": 10.0, "pool": 4.0}
    with pytest.raises(DeadlineError):
        send_with_retries_blocking(given, request(extensions={"timeout": own}), slow)
    assert seen == [
        {"connect": 1.0, "read": 5.0, "write": 5.0, "pool": 4.0},
        {"connect": 1.0, "read": 2.0, "write": 2.0, "pool": 2.0},
    ]


def test_the_body_of_the_answer_has_the_timeouts_of_the_client() -> None:
    kept: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        kept.append(request)
        return httpx.Response(200)

    own = {"timeout": {"read": 60.0}}
    send_with_retries_blocking(policy(timeout="5s"), request(extensions=own), answer)
    assert kept[0].extensions == own


# The environment ------------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_used_for_clients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example,127.0.0.1")
    assert proxy_of("https://far.example") == "http://proxy.example:3128"
    assert proxy_of("https://near.example:8443") is None
    assert proxy_of("http://far.example") is None


def test_urls_of_clients_become_patterns() -> None:
    assert pattern_of("https://billing.example/") == "https://billing.example"
    assert pattern_of("http://[::1]:8080") == "http://[::1]:8080"
