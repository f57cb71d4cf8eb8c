"""The circuit breaker: when it opens, whom it lets through, what counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pywatt_host.clients.resilience.breaker import Breaker, BreakerState, Permit
from pywatt_host.manifest.model import CircuitBreaker
from tests.clients.resilience.sides import Clock, options


def make(clock: Clock, **changed: Any) -> Breaker:
    given = {"max_requests": 1, "interval": "10s", "timeout": "30s", "consecutive_failures": 3}
    return Breaker(options(CircuitBreaker, **{**given, **changed}), clock)


def admitted(breaker: Breaker) -> Permit:
    leave = breaker.admit()
    assert leave is not None
    return leave


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        admitted(breaker).failed()


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    breaker = make(Clock())
    fail(breaker, 2)
    admitted(breaker).succeeded()
    fail(breaker, 2)
    assert breaker.state() is BreakerState.CLOSED
    fail(breaker)
    assert breaker.state() is BreakerState.OPEN
    assert breaker.open_for() == 30
    assert breaker.admit() is None
    assert breaker.rejected == 1


@pytest.mark.parametrize(("interval", "state"), [("10s", BreakerState.CLOSED), ("off", BreakerState.OPEN)])
def test_failures_are_forgotten_after_the_interval(interval: str, state: BreakerState) -> None:
    clock = Clock()
    breaker = make(clock, interval=interval)
    fail(breaker, 2)
    clock.now += 10.5
    fail(breaker)
    assert breaker.state() is state


def test_half_open_it_lets_through_as_many_as_it_says_at_a_time() -> None:
    clock = Clock()
    breaker = make(clock, max_requests=2)
    fail(breaker, 3)
    clock.now += 29
    assert breaker.admit() is None
    clock.now += 1
    assert breaker.state() is BreakerState.HALF_OPEN
    first, second = admitted(breaker), admitted(breaker)
    assert breaker.admit() is None
    first.succeeded()
    assert breaker.admit() is None
    assert breaker.state() is BreakerState.HALF_OPEN
    second.succeeded()
    assert breaker.state() is BreakerState.CLOSED


def test_one_failure_opens_it_again_for_as_long() -> None:
    clock = Clock()
    breaker = make(clock, max_requests=2)
    fail(breaker, 3)
    clock.now += 30
    first, second = admitted(breaker), admitted(breaker)
    first.failed()
    assert breaker.open_for() == 30
    second.succeeded()  # of the state before
    assert breaker.state() is BreakerState.OPEN


def test_a_probe_that_is_dropped_gives_its_place_back() -> None:
    clock = Clock()
    breaker = make(clock)
    fail(breaker, 3)
    clock.now += 30
    for _ in range(3):
        leave = admitted(breaker)
        leave.dropped()
        leave.dropped()
    assert breaker.state() is BreakerState.HALF_OPEN
    kept = admitted(breaker)
    assert breaker.admit() is None
    kept.succeeded()
    kept.dropped()
    assert breaker.state() is BreakerState.CLOSED


def test_what_began_before_it_opened_tells_nothing_about_now() -> None:
    clock = Clock()
    breaker = make(clock)
    slow = [admitted(breaker) for _ in range(4)]
    fail(breaker, 3)
    clock.now += 30
    assert breaker.state() is BreakerState.HALF_OPEN
    slow[0].failed()
    slow[1].succeeded()
    slow[2].dropped()
    assert breaker.state() is BreakerState.HALF_OPEN
    admitted(breaker).succeeded()
    slow[3].failed()
    assert breaker.state() is BreakerState.CLOSED


def test_a_result_counts_once() -> None:
    breaker = make(Clock(), consecutive_failures=2)
    leave = admitted(breaker)
    leave.failed()
    leave.failed()
    assert breaker.state() is BreakerState.CLOSED


def test_threads_count_together() -> None:
    breaker = make(Clock(), consecutive_failures=2001)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fail(breaker, 250), range(8)))
    assert breaker.state() is BreakerState.CLOSED
    fail(breaker)
    assert breaker.state() is BreakerState.OPEN
