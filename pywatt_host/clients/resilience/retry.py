"""When a call is made again: how long to wait, by the policy and by what the other side asks for. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from pywatt_host.manifest.model import RetryPolicy

LONGEST_WAIT = 60.0  # seconds; who asks for more with Retry-After is not asked again in the course of the same call


class RetrySchedule:
    """The waits between the attempts of a call."""

    def __init__(self, options: RetryPolicy, draw: Callable[[], float] = random.random) -> None:
        """`draw` gives numbers from 0 to 1."""
        self._options = options
        self._draw = draw

    @property
    def most(self) -> int:
        """Most retries."""
        return self._options.max_retries

    def wait(self, retries: int) -> float:
        """Seconds before the next retry, after so many. Those of `exponential` are drawn from nothing to the bound, so
        that those who failed together do not come back together."""
        options = self._options
        if options.policy == "constant":
            return options.duration
        # The exponent is bounded: a float has no room for 2 to the power of any number of retries.
        bound = min(options.max_interval, options.duration * 2.0 ** min(retries, 64))
        return bound * self._draw()


def retry_after(text: str, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that a Retry-After header (RFC 9110 section 10.2.3) asks to wait; None where it cannot be read.

    `now` gives seconds since the epoch.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:  # `-0000`, or none: HTTP dates are in UTC
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now())
