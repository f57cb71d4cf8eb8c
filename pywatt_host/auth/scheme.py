"""The interface of all schemes. To add a scheme, write a file here and add a row in `schemes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from pywatt_host.auth.identity import Identity
from pywatt_host.types import Scope

# How a request carries the credential. If several schemes have the same carrier, those that accept the credential
# decide.
Carrier: TypeAlias = Literal["bearer", "basic", "api_key", "certificate"]


class Scheme(Protocol):
    """One entry of the manifest's `auth`."""

    name: str
    carrier: Carrier

    def presented(self, scope: Scope) -> bytes | None:
        """Return the credential of a request that is for a scheme of this carrier, or None if there is none: in its
        headers, or of its connection. Raises DeniedError (`malformed`) if there are two."""

    def accepts(self, credential: bytes) -> bool:
        """Whether a credential that is not verified yet looks like one for this scheme, and not for another with the
        same carrier."""

    def recall(self, credential: bytes) -> Identity | None:
        """Return the identity of a credential that was verified before and is still valid, or None. Never waits."""

    async def verify(self, credential: bytes, client: str = "") -> Identity:
        """Verify a credential, and remember its identity for `recall`. `client` is the address that sent it, where that
        is known: verifying for one address does not take the place of others. Raises DeniedError and UnavailableError,
        and no other exception, whatever the credential is."""

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """Return the value of a WWW-Authenticate header. `error` is empty, `invalid_token` or `insufficient_scope` (RFC
        6750 section 3.1); schemes other than bearer ignore it."""

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        """Parse the values of secrets, without using them yet. Raises AuthError, which names the key, never the
        value."""


class Loaded(Protocol):
    """Key material that has been parsed. Either `commit` or `discard` is called; neither raises."""

    def commit(self) -> None:
        """Use the new keys. The previous keys stay valid for the scheme's `previous` seconds."""

    def discard(self) -> None: ...
