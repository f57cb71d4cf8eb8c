"""Workers are replaced one at a time, each at limits of its own around those of the manifest."""

from __future__ import annotations

import pytest

from pywatt_host.workers.recycling import Due, Recycling, WorkerUse

MIB = 1024**2


class Limits:
    def __init__(
        self, requests: int | None = None, age: float | None = None, memory: int | None = None, jitter: float = 0.0
    ) -> None:
        self.requests, self.age, self.memory, self.jitter = requests, age, memory, jitter


def use(id: int, requests: int = 0, age: float = 100.0, memory: int | None = 0) -> WorkerUse:
    return WorkerUse(id, requests, age, memory)


@pytest.mark.parametrize(
    ("limits", "below", "over", "reason"),
    [
        (Limits(requests=10), use(1, requests=9), use(1, requests=10), "it has served 10 requests"),
        (Limits(age=3600.0), use(1, age=3599.0), use(1, age=3600.0), "it has run for 3600 s"),
        (Limits(memory=MIB), use(1, memory=MIB - 1), use(1, memory=2 * MIB), "it uses 2 MiB of memory"),
    ],
)
def test_a_worker_is_due_at_a_limit_and_the_reason_says_which(
    limits: Limits, below: WorkerUse, over: WorkerUse, reason: str
) -> None:
    recycling = Recycling(limits)
    assert recycling.due([below], False) is None
    assert recycling.due([over], False) == Due(1, reason)


def test_without_limits_no_worker_is_due() -> None:
    assert Recycling(Limits()).due([use(1, 10**9, 10**9, 10**12)], False) is None


def test_memory_that_is_not_known_or_of_a_young_worker_does_not_count() -> None:
    recycling = Recycling(Limits(memory=MIB))
    assert recycling.due([use(1, memory=None), use(2, age=9.0, memory=9 * MIB)], False) is None


def test_one_worker_is_replaced_at_a_time_and_the_furthest_over_a_limit_is_first() -> None:
    recycling = Recycling(Limits(requests=10, age=1000.0))
    workers = [use(1, requests=11), use(2, age=2000.0), use(3, requests=12)]
    assert recycling.due(workers, True) is None
    assert recycling.due(workers, False) == Due(2, "it has run for 2000 s")
    assert recycling.due(workers[:1] + workers[2:], False) == Due(3, "it has served 12 requests")


def test_each_worker_has_limits_of_its_own_which_are_drawn_once() -> None:
    draws = iter([-0.1, 0.1, 0.0])
    asked: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        asked.append((low, high))
        return next(draws)

    recycling = Recycling(Limits(requests=100, jitter=0.1), draw)
    assert recycling.due([use(1, 89), use(2, 109)], False) is None
    assert recycling.due([use(1, 90), use(2, 109)], False) == Due(1, "it has served 90 requests")
    assert recycling.due([use(2, 109), use(3, 99)], False) is None
    assert recycling.due([use(2, 111), use(3, 99)], False) == Due(2, "it has served 111 requests")
    assert asked == [(-0.1, 0.1)] * 3


def test_workers_that_began_together_are_not_due_together() -> None:
    recycling = Recycling(Limits(requests=10_000, jitter=0.1))
    first = next(
        number
        for number in range(8_000, 12_000)
        if recycling.due([use(id, requests=number) for id in range(8)], False) is not None
    )
    assert 9_000 <= first <= 11_000
    over = [id for id in range(8) if recycling.due([use(id, requests=first)], False)]
    assert len(over) < 8
