"""API keys in a header, for programs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from math import inf

from pywatt_host.auth.identity import DeniedError, Identity
from pywatt_host.auth.passwords import Digests, keys, rendered
from pywatt_host.auth.scheme import Carrier, Loaded
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.types import Scope

logger = logging.getLogger("pywatt.auth")

_MAX_CREDENTIAL_BYTES = 4096
_MIN_SAFE_LENGTH = 16  # characters; a shorter key is weak enough to be guessed
HEADER = "X-API-Key"


class ApiKeyScheme:
    """A scheme of type `api_key`. Keys are kept as digests. `clock` returns seconds since the epoch."""

    carrier: Carrier = "api_key"

    def __init__(self, name: str, options: AuthScheme, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.header = options.header or HEADER
        self._wanted = self.header.lower().encode()
        self._options = options
        self._key = f"auth.{name}.keys"
        self._clock = clock
        self._digest = Digests()
        self._identities: dict[bytes, Identity] = {}  # by the digest of the key

    def presented(self, scope: Scope) -> bytes | None:
        found: bytes | None = None
        for header in scope["headers"]:
            if header[0] == self._wanted:
                if found is not None:
                    raise DeniedError("malformed")
                found = header[1]
        return found

    def accepts(self, credential: bytes) -> bool:
        return self.recall(credential) is not None

    def recall(self, credential: bytes) -> Identity | None:
        if len(credential) > _MAX_CREDENTIAL_BYTES:
            return None
        digest = self._digest(credential)
        # The lookup is by a digest that only this process can make, so that its duration reveals nothing about the
        # keys.
        identity = self._identities.get(digest)
        return identity if identity is not None and self._clock() < identity.until else None

    async def verify(self, credential: bytes, client: str = "") -> Identity:
        identity = self.recall(credential)
        if identity is None:
            raise DeniedError("too_large" if len(credential) > _MAX_CREDENTIAL_BYTES else "credentials")
        return identity

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """No registered scheme fits, but RFC 9110 section 11.6.1 requires a challenge."""
        return f'ApiKey realm="{realm}", header="{self.header}"'.encode("latin-1", "replace")

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        new: dict[bytes, Identity] = {}
        for entry in keys(rendered(self._options.keys, secret_values, self._key), self._key):
            if len(entry.value) < _MIN_SAFE_LENGTH:
                logger.warning(
                    "%s: line %d: the key is shorter than %d characters and can be guessed; use a longer one",
                    self._key, entry.line, _MIN_SAFE_LENGTH,
                )  # fmt: skip
            new[self._digest(entry.value.encode())] = Identity(
                self.name, "api_key", entry.name, {"sub": entry.name}, inf
            )
        return _NewKeys(self, new)

    def _swap(self, new: dict[bytes, Identity]) -> None:
        now = self._clock()
        until = now + (self._options.previous or 0.0)
        kept = {
            digest: old.until_at_most(until)
            for digest, old in self._identities.items()
            if digest not in new and min(old.until, until) > now
        }
        self._identities = {**kept, **new}


class _NewKeys:
    def __init__(self, scheme: ApiKeyScheme, new: dict[bytes, Identity]) -> None:
        self._scheme = scheme
        self._new = new

    def commit(self) -> None:
        self._scheme._swap(self._new)

    def discard(self) -> None:
        return
