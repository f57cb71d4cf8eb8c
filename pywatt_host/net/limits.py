"""Limits on concurrent requests, on the rate of requests, and on guesses of credentials."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Literal, Protocol

from pywatt_host.manifest.values import Rate

GUESSES = Rate(30, 60.0)  # wrong credentials of one address, on the host's own paths
_MAX_SUBJECTS = 10_000  # with a token bucket


class Cell(Protocol):
    """One integer, as item 0: a list in this process, or a word of memory that processes share."""

    def __getitem__(self, index: Literal[0], /) -> int: ...

    def __setitem__(self, index: Literal[0], value: int, /) -> None: ...


class Gate(Protocol):
    """Allows at most `limit` requests at once, in this process or in all worker processes of a host.

    The caller asks `full` before a request, adds 1 to `count[0]` when the request begins, and subtracts it when the
    request ends. `count` has the running requests of this process alone. While it is below `room[0]`, the gate is not
    full, so that a caller in a hurry need not ask.
    """

    count: Cell
    room: Cell

    @property
    def limit(self) -> int: ...

    def full(self) -> bool: ...


class RateLimiter(Protocol):
    """A token bucket for each subject, such as a client address."""

    def wait_for(self, subject: str) -> float:
        """Take a token and return 0.0 if the request is allowed; otherwise return the seconds until the next one is."""
        ...

    def give_back(self, subject: str) -> None:
        """Put back a token that was taken for a request which turned out not to count."""
        ...


class Limits(Protocol):
    """Makes the gates and the rate limiters of a host.

    `name` says what is limited. Worker processes that use a name have one gate, or one set of buckets, together. So the
    name must be the same in each generation of workers, whatever the limit is.
    """

    def gate(self, name: str, limit: int) -> Gate: ...

    def rate_limiter(self, name: str, rate: Rate) -> RateLimiter: ...


class LocalLimits:
    """Limits of a host that is one process. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock

    def gate(self, name: str, limit: int) -> LocalGate:
        return LocalGate(limit)

    def rate_limiter(self, name: str, rate: Rate) -> LocalRateLimiter:
        return LocalRateLimiter(rate, self._clock)


class LocalGate:
    """Allows at most `limit` requests at once in this process."""

    __slots__ = ("count", "limit", "room")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count: Cell = [0]
        self.room: Cell = [limit]

    def full(self) -> bool:
        return self.count[0] >= self.limit


class LocalRateLimiter:
    """A token bucket for each subject, such as a client address.

    At most 10,000 subjects are remembered. The one not seen for longest is forgotten first; it starts again with a full
    bucket. `clock` returns seconds.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._capacity = float(rate.count)
        self._per_second = rate.count / rate.seconds
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, subject: str) -> float:
        """Take a token and return 0.0 if the request is allowed; otherwise return the seconds until the next one is."""
        now = self._clock()
        tokens, since = self._buckets.pop(subject, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[subject] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > _MAX_SUBJECTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._per_second

    def give_back(self, subject: str) -> None:
        """Put back a token that was taken for a request which turned out not to count."""
        found = self._buckets.get(subject)
        if found is not None:
            self._buckets[subject] = (min(self._capacity, found[0] + 1.0), found[1])


@lru_cache(maxsize=1024)
def client_key(address: str) -> str:
    """The client that an address is counted for: the network of 64 bits of an IPv6 address, since a client has all of
    them, and the IPv4 address that an IPv6 address stands for. Any other text is returned as it is."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
