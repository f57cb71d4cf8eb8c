"""How soon a worker that has ended is replaced, and when that is a crash loop."""

from __future__ import annotations

from pywatt_host.workers.crash_loop import CrashLoop, Replacements


def exact() -> Replacements:
    return Replacements(lambda low, high: (low + high) / 2)


def test_the_first_replacement_is_immediate_and_further_ones_wait_longer() -> None:
    replacements = exact()
    delays = [replacements.delay_after(0, 1.0) for _ in range(11)]
    assert delays == [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 30.0, 30.0]


def test_each_place_has_delays_of_its_own() -> None:
    replacements = exact()
    assert [replacements.delay_after(place, 1.0) for place in (0, 0, 1, 0)] == [0.0, 0.1, 0.0, 0.5]


def test_after_a_long_life_or_with_new_code_the_delays_begin_again() -> None:
    replacements = exact()
    assert [replacements.delay_after(0, lived) for lived in (1.0, 59.9, 60.0, 1.0)] == [0.0, 0.1, 0.0, 0.1]
    replacements.forget(0)
    assert replacements.delay_after(0, 1.0) == 0.0


def test_delays_differ_at_random() -> None:
    drawn: list[float] = []
    for _ in range(20):
        replacements = Replacements()
        drawn.append([replacements.delay_after(0, 1.0) for _ in range(6)][-1])
    assert len(set(drawn)) > 1
    assert all(4.0 <= delay <= 6.0 for delay in drawn)


def test_five_short_lives_in_a_minute_are_a_crash_loop_until_the_minute_is_over() -> None:
    now = 0.0
    loop = CrashLoop(lambda: now)
    for _ in range(4):
        loop.ended(1.0)
        now += 10.0
    assert not loop.looping
    loop.ended(9.9)
    assert loop.looping
    now = 59.9
    assert loop.looping
    now = 60.0
    assert not loop.looping
    loop.ended(0.1)
    assert loop.looping


def test_workers_that_lived_longer_are_no_crash_loop() -> None:
    loop = CrashLoop(lambda: 0.0)
    for _ in range(9):
        loop.ended(10.0)
    assert not loop.looping
