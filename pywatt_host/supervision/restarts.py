"""Whether a process that has ended is started again, and after how many seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pywatt_host.supervision.process import describe_exit

RestartPolicy: TypeAlias = Literal["always", "on-failure", "no"]

_QUICK_DELAY = 0.1  # seconds before the first restart of a process that had announced itself
_MIN_DELAY, _MAX_DELAY = 1.0, 30.0  # seconds
_STABLE_AFTER = 60.0  # seconds of running after which earlier failures no longer count
_JITTER = 0.2  # the part by which a delay is made longer or shorter at random


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: its exit code (negative for a signal, as `subprocess` reports it), whether it had announced
    itself, how many seconds it ran, and, if we killed it, the reason."""

    code: int
    announced: bool
    lived: float
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.code != 0 or bool(self.why)

    def __str__(self) -> str:
        how = describe_exit(self.code)
        return f"{self.why}; {how}" if self.why else how


def should_restart(policy: RestartPolicy, ending: Ending) -> bool:
    """Whether the policy starts the process again after this ending."""
    return policy == "always" or (policy == "on-failure" and ending.failed)


class RestartBackoff:
    """The delays between restarts: 0.1 s after the first failure of a process that had announced itself, then 1 s,
    doubling up to 30 s, each with 20 % jitter. After a run of 60 s or more the delays begin again."""

    def __init__(self) -> None:
        self._next = _MIN_DELAY
        self._quick = True

    def delay_after(self, ending: Ending) -> float:
        """The seconds to wait before the next start."""
        if ending.lived >= _STABLE_AFTER:
            self._next, self._quick = _MIN_DELAY, True
        if self._quick and ending.announced:
            self._quick = False
            return _QUICK_DELAY
        delay = self._next * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next = min(self._next * 2, _MAX_DELAY)
        return delay
