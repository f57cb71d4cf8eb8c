"""Whether a module that ended is started again, and when."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from typing import Literal, TypeAlias

Policy: TypeAlias = Literal["always", "on-failure", "no"]

_QUICK = 0.1  # seconds: the first restart of a module that had run
_FIRST, _LAST = 1.0, 30.0  # seconds
_LONG_LIFE = 60.0  # seconds of life after which earlier crashes are forgotten
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: its exit code (negative: the signal, as subprocess has it), whether it had announced itself,
    how many seconds it lived, and why we ended it, where we did."""

    code: int
    announced: bool
    lived: float
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.code != 0 or bool(self.why)

    def __str__(self) -> str:
        if self.code < 0:
            try:
                how = f"killed by {signal.Signals(-self.code).name}"
            except ValueError:
                how = f"killed by signal {-self.code}"
        else:
            how = f"exit code {self.code}"
        return f"{self.why}; {how}" if self.why else how


def again(policy: Policy, ending: Ending) -> bool:
    """Whether the policy wants another life."""
    return policy == "always" or (policy == "on-failure" and ending.failed)


class Backoff:
    """Seconds before the next start: 0.1 for the first crash of what had run, then 1 doubling to 30, with jitter."""

    def __init__(self) -> None:
        self._next = _FIRST
        self._quick = True

    def after(self, ending: Ending) -> float:
        if ending.lived >= _LONG_LIFE:
            self._next, self._quick = _FIRST, True
        if self._quick and ending.announced:
            self._quick = False
            return _QUICK
        delay = self._next * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._next = min(self._next * 2, _LAST)
        return delay
