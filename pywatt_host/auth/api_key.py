"""Keys in a header, for programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from math import inf

from pywatt_host.auth.identity import DeniedError, Identity
from pywatt_host.auth.passwords import Digests, keys, rendered
from pywatt_host.auth.scheme import Carrier, Loaded
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.types import Headers

logger = logging.getLogger("pywatt.auth")

_LONGEST = 4096  # octets
_SHORT = 16  # octets; shorter keys can be tried out
HEADER = "X-API-Key"


class ApiKeyScheme:
    """Keys are kept as digests. `clock` gives seconds since the epoch."""

    carrier: Carrier = "api_key"

    def __init__(self, name: str, options: AuthScheme, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.header = options.header or HEADER
        self._wanted = self.header.lower().encode()
        self._options = options
        self._key = f"auth.{name}.keys"
        self._clock = clock
        self._digest = Digests()
        self._held: dict[bytes, Identity] = {}

    def presented(self, headers: Headers) -> bytes | None:
        found: bytes | None = None
        for header in headers:
            if header[0] == self._wanted:
                if found is not None:
                    raise DeniedError("malformed")
                found = header[1]
        return found

    def takes(self, credential: bytes) -> bool:
        return self.recall(credential) is not None

    def recall(self, credential: bytes) -> Identity | None:
        if len(credential) > _LONGEST:
            return None
        digest = self._digest(credential)
        # The look-up is by a digest that nobody else can make, so that its time says nothing of the keys.
        identity = self._held.get(digest)
        return identity if identity is not None and self._clock() < identity.until else None

    async def verify(self, credential: bytes) -> Identity:
        identity = self.recall(credential)
        if identity is None:
            raise DeniedError("too_large" if len(credential) > _LONGEST else "credentials")
        return identity

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """No registered scheme fits; RFC 9110 section 11.6.1 wants a challenge all the same."""
        return f'ApiKey realm="{realm}", header="{self.header}"'.encode("latin-1", "replace")

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        new: dict[bytes, Identity] = {}
        for entry in keys(rendered(self._options.keys, secret_values, self._key), self._key):
            if len(entry.value) < _SHORT:
                logger.warning(
                    "%s: line %d: a key of less than %d octets can be tried out", self._key, entry.line, _SHORT
                )
            new[self._digest(entry.value.encode())] = Identity(self.name, entry.name, {"sub": entry.name}, inf)
        return _NewKeys(self, new)

    def _swap(self, new: dict[bytes, Identity]) -> None:
        now = self._clock()
        until = now + (self._options.previous or 0.0)
        kept = {
            digest: Identity(old.scheme, old.subject, old.claims, min(old.until, until))
            for digest, old in self._held.items()
            if digest not in new and min(old.until, until) > now
        }
        self._held = {**kept, **new}


class _NewKeys:
    def __init__(self, scheme: ApiKeyScheme, new: dict[bytes, Identity]) -> None:
        self._scheme = scheme
        self._new = new

    def commit(self) -> None:
        self._scheme._swap(self._new)

    def discard(self) -> None:
        return
