"""Whether and when a process that has ended is started again."""

from __future__ import annotations

import pytest

from pywatt_host.supervision.restarts import Ending, RestartBackoff, RestartPolicy, should_restart


def ended(code: int, *, announced: bool = True, lived: float = 5.0, why: str = "") -> Ending:
    return Ending(code, announced, lived, why)


@pytest.mark.parametrize(
    ("policy", "ending", "result"),
    [
        ("always", ended(0), True),
        ("on-failure", ended(0), False),
        ("on-failure", ended(3), True),
        ("on-failure", ended(-9), True),
        ("on-failure", ended(0, why="no announce"), True),
        ("no", ended(1), False),
    ],
)
def test_the_policy_decides_who_is_started_should_restart(policy: RestartPolicy, ending: Ending, result: bool) -> None:
    assert should_restart(policy, ending) is result


def test_the_first_restart_is_quick_and_restarts_of_a_crash_loop_get_slower() -> None:
    backoff = RestartBackoff()
    assert backoff.delay_after(ended(1)) == 0.1
    for expected in (1, 2, 4, 8, 16, 30, 30):
        assert 0.8 * expected <= backoff.delay_after(ended(1)) <= 1.2 * expected
    assert backoff.delay_after(ended(1, lived=61)) == 0.1
    assert RestartBackoff().delay_after(ended(1, announced=False)) >= 0.8


def test_an_ending_tells_how_the_process_ended() -> None:
    assert str(ended(3)) == "exit code 3"
    assert str(ended(-9)) == "killed by SIGKILL"
    assert str(ended(-9, why="no announce within 5s")) == "no announce within 5s; killed by SIGKILL"
    assert str(ended(-200)) == "killed by signal 200"
