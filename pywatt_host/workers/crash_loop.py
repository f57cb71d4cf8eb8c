"""How soon a worker that has ended is replaced, and when workers that end at once are a crash loop."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

_DELAYS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # seconds before the first replacement, the second, ...
_JITTER = 0.2  # the part by which a delay is made longer or shorter at random
_STABLE_AFTER = 60.0  # seconds of life after which earlier ends no longer count
_SHORT_LIFE = 10.0  # seconds
_ENDS = 5  # of workers within their first seconds of life ...
_WITHIN = 60.0  # ... in this many seconds, which are a crash loop


class Replacements:
    """The delays before workers are replaced, for each place by itself. The first replacement is immediate. The delays
    grow up to 30 s while workers of the place end before they have run for 60 s."""

    def __init__(self, draw: Callable[[float, float], float] = random.uniform) -> None:
        """`draw` returns a random number within its arguments."""
        self._draw = draw
        self._ends: dict[int, int] = {}  # place -> ends without a long life between

    def delay_after(self, place: int, lived: float) -> float:
        """The seconds to wait before the place gets a new worker. `lived` is how many seconds the ended one ran."""
        ends = 0 if lived >= _STABLE_AFTER else self._ends.get(place, 0)
        self._ends[place] = ends + 1
        return _DELAYS[min(ends, len(_DELAYS) - 1)] * self._draw(1 - _JITTER, 1 + _JITTER)

    def forget(self, place: int) -> None:
        """There will be no more workers in the place, or they have new code: it begins again."""
        self._ends.pop(place, None)


class CrashLoop:
    """Whether workers end again and again within their first 10 seconds: 5 of them in a minute, in whatever places.
    `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._early: deque[float] = deque(maxlen=_ENDS)  # when the last ones ended

    def ended(self, lived: float) -> None:
        """A worker has ended that was not told to. `lived` is how many seconds it ran."""
        if lived < _SHORT_LIFE:
            self._early.append(self._clock())

    @property
    def looping(self) -> bool:
        return len(self._early) == _ENDS and self._clock() - self._early[0] < _WITHIN
