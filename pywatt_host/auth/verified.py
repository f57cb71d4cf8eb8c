"""Credentials that were verified and still hold, so that each is verified once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from pywatt_host.auth.identity import Identity


class VerifiedTokens:
    """Credential -> identity, the oldest out first where there are too many. Only what was verified gets in, so that
    nobody fills it with guesses. For one thread."""

    __slots__ = ("_clock", "_held", "_most", "_most_octets", "_octets")

    def __init__(
        self, *, clock: Callable[[], float] = time.time, most: int = 10_000, most_octets: int = 8 * 1024 * 1024
    ) -> None:
        """`clock` gives seconds since the epoch; `most_octets` is what the credentials may have together."""
        self._clock = clock
        self._held: OrderedDict[bytes, Identity] = OrderedDict()
        self._most = most
        self._most_octets = most_octets
        self._octets = 0

    def get(self, credential: bytes) -> Identity | None:
        """The identity, unless its time is over."""
        identity = self._held.get(credential)
        if identity is None or self._clock() < identity.until:
            return identity
        self._forget(credential)
        return None

    def put(self, credential: bytes, identity: Identity) -> None:
        """Remember it until `identity.until`. One that is larger than all together may be is not."""
        self._forget(credential)
        if len(credential) > self._most_octets:
            return
        self._held[credential] = identity
        self._octets += len(credential)
        while len(self._held) > self._most or self._octets > self._most_octets:
            oldest, _ = self._held.popitem(last=False)
            self._octets -= len(oldest)

    def clear(self) -> None:
        """Forget all: every credential is verified anew."""
        self._held.clear()
        self._octets = 0

    def __len__(self) -> int:
        return len(self._held)

    def _forget(self, credential: bytes) -> None:
        if self._held.pop(credential, None) is not None:
            self._octets -= len(credential)
