"""A cache of verified credentials, so that each credential is verified only once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from pywatt_host.auth.identity import Identity


class VerifiedTokens:
    """The identities of verified credentials. If it is full, the oldest is removed first.

    It contains only credentials that were verified, so that a client cannot fill it with guesses. For one thread.
    """

    __slots__ = ("_bytes", "_clock", "_identities", "_max_bytes", "_max_entries")

    def __init__(
        self, *, clock: Callable[[], float] = time.time, max_entries: int = 10_000, max_bytes: int = 8 * 1024 * 1024
    ) -> None:
        """`clock` returns seconds since the epoch. `max_bytes` is the limit for all credentials together."""
        self._clock = clock
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, credential: bytes) -> Identity | None:
        """Return the identity of a credential, or None if it is not known or has expired."""
        identity = self._identities.get(credential)
        if identity is None or self._clock() < identity.until:
            return identity
        self._forget(credential)
        return None

    def put(self, credential: bytes, identity: Identity) -> None:
        """Remember a credential until `identity.until`, unless it is larger than `max_bytes`."""
        self._forget(credential)
        if len(credential) > self._max_bytes:
            return
        self._identities[credential] = identity
        self._bytes += len(credential)
        while len(self._identities) > self._max_entries or self._bytes > self._max_bytes:
            oldest, _ = self._identities.popitem(last=False)
            self._bytes -= len(oldest)

    def clear(self) -> None:
        """Forget all credentials, so that each is verified again."""
        self._identities.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._identities)

    def _forget(self, credential: bytes) -> None:
        if self._identities.pop(credential, None) is not None:
            self._bytes -= len(credential)
