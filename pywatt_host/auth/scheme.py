"""What every kind of scheme can do. Adding one is a file here and a row in `schemes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from pywatt_host.auth.identity import Identity
from pywatt_host.types import Headers

# What a scheme's credentials come in; of several schemes of one carrier, the one that takes the credential decides.
Carrier: TypeAlias = Literal["bearer", "basic", "api_key"]


class Scheme(Protocol):
    """One entry of the manifest's `auth`."""

    name: str
    carrier: Carrier

    def presented(self, headers: Headers) -> bytes | None:
        """The credential among a request's headers (names in lower case) that is for a scheme of this carrier; None
        where there is none. Raises DeniedError (`malformed`) where it stands there twice."""

    def takes(self, credential: bytes) -> bool:
        """Whether an unverified credential looks like one of this scheme's and not of another of the same carrier."""

    def recall(self, credential: bytes) -> Identity | None:
        """The identity of a credential that was verified before and still holds. Quick; never waits."""

    async def verify(self, credential: bytes) -> Identity:
        """The identity of a credential, remembered for `recall`. Raises DeniedError and UnavailableError, and nothing
        else whatever the credential is."""

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """The value of a WWW-Authenticate header. `error` is empty, `invalid_token` or `insufficient_scope` (RFC 6750
        section 3.1), which schemes other than bearer ignore."""

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        """Read what secrets hold, beside what is in use. Raises AuthError, which names the key and never the value."""


class Loaded(Protocol):
    """Key material that has been read. One of the two is called, and neither raises."""

    def commit(self) -> None:
        """Use it; what was in use before holds for the scheme's `previous` seconds more."""

    def discard(self) -> None: ...
