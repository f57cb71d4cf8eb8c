"""Limits: how many requests run at once, and how often a subject may send one."""

from __future__ import annotations

from pywatt_host.manifest.values import Rate
from pywatt_host.net.limits import LocalGate, LocalRateLimiter


def test_a_gate_is_full_at_its_limit() -> None:
    gate = LocalGate(2)
    assert not gate.full()
    gate.count[0] += 2
    assert gate.full()


def test_a_bucket_fills_again_with_time_and_each_subject_has_its_own() -> None:
    now = 0.0
    limiter = LocalRateLimiter(Rate(2, 60.0), lambda: now)
    assert [limiter.wait_for("a") for _ in range(3)] == [0.0, 0.0, 30.0]
    assert limiter.wait_for("b") == 0.0
    now = 30.0
    assert limiter.wait_for("a") == 0.0
    assert limiter.wait_for("a") == 30.0


def test_the_memory_of_a_rate_limiter_is_bounded() -> None:
    limiter = LocalRateLimiter(Rate(1, 60.0), lambda: 0.0)
    assert [limiter.wait_for("first"), limiter.wait_for("first")] == [0.0, 60.0]
    for number in range(20_000):
        limiter.wait_for(f"hostile {number}")
    assert len(limiter._buckets) == 10_000
