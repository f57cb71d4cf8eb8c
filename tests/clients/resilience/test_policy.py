"""Calls of any kind under a policy, as messages are made: `run`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pywatt_host.clients.none import NoResilience
from pywatt_host.clients.resilience.breaker import BreakerState
from pywatt_host.clients.resilience.policy import TargetPolicy
from pywatt_host.clients.resilience.targets import Resilience
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.model import Health
from pywatt_host.observability.health import Checks
from tests.clients.resilience.sides import Clock, manifest, options, resilience
from tests.hosting import run


def lost() -> MessagingError:
    return MessagingError("lost", "the channel broke", "users")


class Peer:
    """Raises what it is given, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.left: list[float | None] = []

    async def __call__(self, left: float | None) -> str:
        self.left.append(left)
        if self.errors:
            raise self.errors.pop(0)
        return "ok"


def is_lost(error: Exception) -> bool:
    return isinstance(error, MessagingError) and error.code == "lost"


async def sent(
    policy: TargetPolicy, peer: Callable[[float | None], Awaitable[str]], timeout: float | None = None
) -> str:
    return await policy.run(peer, is_lost, is_lost, timeout)


def test_it_is_tried_again_as_often_as_it_says() -> None:
    async def main() -> None:
        made = resilience(retry={"max_retries": 2})
        policy = made.for_module("users")
        assert await sent(policy, Peer(lost(), lost())) == "ok"
        with pytest.raises(MessagingError, match="the channel broke"):
            await sent(policy, Peer(lost(), lost(), lost()))
        peer = Peer(MessagingError("no_handler", "nobody", "users"))
        with pytest.raises(MessagingError, match="nobody"):
            await sent(policy, peer)
        assert len(peer.left) == 1
        assert policy.retries == 4

    run(main)


def test_the_shorter_time_counts_and_attempts_know_what_is_left() -> None:
    async def main() -> None:
        clock = Clock()
        policy = resilience(timeout="5s", retry={"max_retries": 3}, clock=clock).for_module("users")
        lefts: list[float | None] = []

        async def peer(left: float | None) -> str:
            lefts.append(left)
            clock.now += 1
            raise lost()

        with pytest.raises(MessagingError, match="the channel broke"):
            await sent(policy, peer, 3.0)
        assert lefts == [3.0, 2.0, 1.0]  # and no fourth: the time is over
        lefts.clear()
        with pytest.raises(MessagingError):
            await sent(policy, peer, 60.0)
        assert lefts == [5.0, 4.0, 3.0, 2.0]

    run(main)


def test_an_attempt_that_takes_too_long_is_ended() -> None:
    async def main() -> None:
        policy = resilience(timeout="10ms", breaker={"consecutive_failures": 1}).for_module("users")
        ended = asyncio.Event()

        async def peer(left: float | None) -> str:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return ""

        with pytest.raises(MessagingError, match=r"users: no answer within 0\.01s") as caught:
            await policy.run(peer, is_lost, lambda error: True)
        assert caught.value.code == "timeout"
        assert ended.is_set()
        assert policy.breaker is not None
        assert policy.breaker.state() is BreakerState.OPEN

    run(main)


def test_a_timeout_of_the_attempts_own_is_its_own() -> None:
    async def main() -> None:
        policy = resilience(timeout="10s").for_module("users")
        with pytest.raises(TimeoutError, match="mine"):
            await sent(policy, Peer(TimeoutError("mine")))

    run(main)


def test_an_open_breaker_says_how_long() -> None:
    async def main() -> None:
        clock = Clock()
        made = resilience(breaker={"consecutive_failures": 2, "timeout": "12s"}, clock=clock)
        policy = made.for_module("users")
        for _ in range(2):
            with pytest.raises(MessagingError, match="the channel broke"):
                await sent(policy, Peer(lost()))
        clock.now += 0.5
        peer = Peer()
        with pytest.raises(MessagingError) as caught:
            await sent(policy, peer)
        assert caught.value.code == "unavailable"
        assert caught.value.target == "users"
        assert caught.value.message == "the circuit breaker of users is open for another 12s"
        assert peer.left == []
        clock.now += 12
        assert await sent(policy, peer) == "ok"
        assert policy.breaker is not None
        assert policy.breaker.state() is BreakerState.CLOSED

    run(main)


def test_who_opened_it_does_not_wait_for_it() -> None:
    async def main() -> None:
        policy = resilience(retry={}, breaker={"consecutive_failures": 2}).for_module("users")
        peer = Peer(lost(), lost(), lost())
        with pytest.raises(MessagingError, match="the channel broke"):
            await sent(policy, peer)
        assert len(peer.left) == 2

    run(main)


def test_a_probe_that_is_cancelled_is_no_failure_and_gives_its_place_back() -> None:
    async def main() -> None:
        clock = Clock()
        policy = resilience(breaker={"consecutive_failures": 1, "timeout": "10s"}, clock=clock).for_module("users")
        with pytest.raises(MessagingError):
            await sent(policy, Peer(lost()))
        clock.now += 10
        started = asyncio.Event()

        async def hanging(left: float | None) -> str:
            started.set()
            await asyncio.Event().wait()
            return ""

        task = asyncio.create_task(sent(policy, hanging))
        await started.wait()
        with pytest.raises(MessagingError, match="half-open: other calls are testing"):
            await sent(policy, Peer())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await sent(policy, Peer()) == "ok"

    run(main)


def test_calls_at_the_same_time_share_the_breaker_and_nothing_else() -> None:
    async def main() -> None:
        policy = resilience(retry={"max_retries": 1}).for_module("users")
        peers = [Peer(lost()) for _ in range(50)]
        assert await asyncio.gather(*(sent(policy, peer) for peer in peers)) == ["ok"] * 50
        assert policy.retries == 50

    run(main)


def test_what_is_not_declared_is_tried_once() -> None:
    async def main() -> None:
        for policy in (resilience(retry={}).for_module("others"), NoResilience().for_module("users")):
            peer = Peer(lost())
            with pytest.raises(MessagingError):
                await policy.run(peer, is_lost, is_lost, 3.0)
            assert len(peer.left) == 1

    run(main)


# What operators see ---------------------------------------------------------------------------------------------------


def families(made: Resilience) -> dict[str, Any]:
    return {family.name: dict(family.values) for family in made.families()}


def test_metrics_have_declared_targets_only() -> None:
    async def main() -> None:
        clock = Clock()
        made = resilience(retry={"max_retries": 1}, breaker={"consecutive_failures": 2, "timeout": "10s"}, clock=clock)
        for name in ("users", "users", "whoever", "another"):
            with pytest.raises(MessagingError):
                await sent(made.for_module(name), Peer(lost(), lost()))
        assert families(made) == {
            "pywatt_retries": {("users",): 1.0},
            "pywatt_circuit_breaker_state": {("users",): 2.0},
            "pywatt_circuit_breaker_rejected": {("users",): 1.0},
        }
        clock.now += 10
        assert families(made)["pywatt_circuit_breaker_state"] == {("users",): 1.0}

    run(main)


def test_without_policies_there_is_nothing_to_count() -> None:
    assert families(Resilience(manifest({}))) == {}


def test_a_client_with_the_name_of_a_module_is_told_apart() -> None:
    client = {
        "base_url": "https://u.example",
        "token_url": "https://id.example/",
        "client_id": "a",
        "client_secret": "b",
    }
    made = Resilience(
        manifest(
            {"retry": "p"}, {"users": client, "other": client | {"base_url": "https://o.example"}}, retries={"p": {}}
        )
    )
    assert set(families(made)["pywatt_retries"]) == {("users",), ("clients.users",), ("other",)}
    assert made.for_client("users") is not made.for_module("users")


def test_an_open_breaker_degrades_the_health() -> None:
    async def main() -> None:
        made = resilience(breaker={"consecutive_failures": 1})
        checks = Checks(options(Health), {})
        made.add_checks(checks)
        check = checks._checks["breaker:users"]
        assert check.optional
        await check.run(1.0)
        with pytest.raises(MessagingError):
            await sent(made.for_module("users"), Peer(lost()))
        with pytest.raises(ConnectionError, match="the circuit breaker of users is open for another 30s"):
            await check.run(1.0)

    run(main)
