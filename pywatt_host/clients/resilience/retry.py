"""How long to wait before a call is made again, by the policy and by Retry-After of the other side. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from pywatt_host.manifest.model import RetryPolicy

MAX_WAIT = 60.0  # seconds; where Retry-After asks for more, the same call is not made again


class RetrySchedule:
    """The waits between the attempts of a call."""

    def __init__(self, options: RetryPolicy, draw: Callable[[], float] = random.random) -> None:
        """`draw` gives numbers from 0 to 1."""
        self._options = options
        self._draw = draw

    @property
    def max_retries(self) -> int:
        """The greatest number of retries."""
        return self._options.max_retries

    def wait(self, retries: int) -> float:
        """Seconds before the next retry, after so many `retries`. The waits of `exponential` are drawn between 0 and
        the bound, so that callers that failed together do not retry together."""
        options = self._options
        if options.policy == "constant":
            return options.duration
        # The exponent is bounded: a float has no room for 2 to the power of any number of retries.
        bound = min(options.max_interval, options.duration * 2.0 ** min(retries, 64))
        return bound * self._draw()


def retry_after(text: str, now: Callable[[], float] = time.time) -> float | None:
    """The seconds in a Retry-After header (RFC 9110 section 10.2.3); None where it cannot be read.

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
