"""How long a call waits before it is made again."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from pywatt_host.clients.resilience.retry import RetrySchedule, retry_after
from pywatt_host.manifest.model import RetryPolicy
from tests.clients.resilience.sides import options


def test_exponential_waits_are_drawn_up_to_a_bound_that_doubles() -> None:
    policy = options(RetryPolicy, duration="100ms", max_interval="1s")
    upper, half = RetrySchedule(policy, lambda: 1.0), RetrySchedule(policy, lambda: 0.5)
    assert [upper.wait(retries) for retries in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert half.wait(2) == 0.2
    assert upper.wait(10_000) == 1.0


def test_constant_waits_are_the_same() -> None:
    constant = RetrySchedule(options(RetryPolicy, policy="constant", duration="10s"), lambda: 0.0)
    assert [constant.wait(retries) for retries in range(3)] == [10.0] * 3


def test_nobody_who_failed_with_others_comes_back_with_them() -> None:
    schedule = RetrySchedule(options(RetryPolicy))
    assert len({schedule.wait(3) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        (" 0 ", 0.0),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(1_000_030), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("9" * 400, 999_999_999_999.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("Mon, 99 Foo 2020 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after(text, lambda: 1_000_000.0) == seconds
