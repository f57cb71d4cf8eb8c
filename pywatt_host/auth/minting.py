"""Makes tokens, for the command `pywatt-host token` and for tests."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any

from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from pywatt_host.auth.keys import JoseKey, VerificationKey

# The algorithm objects are used directly, because a lookup in the library's registry warns about EdDSA.
_SIGNERS = {each.name: each for each in JWS_ALGORITHMS}
_SECRET_BITS = {"HS256": 256, "HS384": 384, "HS512": 512}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class Signer:
    """A private key, with the algorithm and the key id that it writes into the header of each token."""

    __slots__ = ("_key", "alg", "kid")

    def __init__(self, key: JoseKey, alg: str, kid: str | None = None) -> None:
        self._key = key
        self.alg = alg
        self.kid = kid

    def mint(self, claims: Mapping[str, Any], *, typ: str | None = "JWT") -> str:
        """Return a token with exactly these claims. Raises ValueError for a value that JSON cannot represent."""
        header = {"typ": typ, "kid": self.kid}
        return sign(self._key, self.alg, {name: value for name, value in header.items() if value is not None}, claims)

    def __repr__(self) -> str:
        return f"Signer({self.alg!r}, {self.kid!r})"


def sign(key: JoseKey, alg: str, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Return a JWS in compact form, with `alg` in its header. Raises ValueError for a value that JSON cannot
    represent."""
    signing_input = f"{_part({'alg': alg, **header})}.{_part(claims)}".encode()
    return f"{signing_input.decode()}.{_base64url(_SIGNERS[alg].sign(signing_input, key))}"


def mint(
    secret: str, claims: Mapping[str, Any], *, alg: str = "HS256", kid: str | None = None, typ: str = "JWT"
) -> str:
    """Return a token signed with a shared secret. Raises ValueError if the secret is empty, or if `alg` is not HS256,
    HS384 or HS512."""
    if alg not in _SECRET_BITS or not secret:
        raise ValueError(f"a shared secret cannot sign with {alg}" if secret else "the shared secret is empty")
    key = secret.encode("utf-8", "surrogateescape")
    return Signer(OctKey(key, key), alg, kid).mint(claims, typ=typ)


def signer_for_tests(algorithms: Sequence[str]) -> tuple[str, Signer, VerificationKey]:
    """Make a new key for the first of the algorithms, with a unique `kid`. Return the algorithm, the signer, and the
    key that a scheme must trust (`StaticKeys.add`)."""
    alg = algorithms[0]
    kid = f"test-{token_urlsafe(12)}"
    key: JoseKey
    if alg in _SECRET_BITS:
        key = OctKey.generate_key(_SECRET_BITS[alg])
        return alg, Signer(key, alg, kid), VerificationKey(key, kid=kid)
    if alg in _CURVES:
        key = ECKey.generate_key(_CURVES[alg])
        return alg, Signer(key, alg, kid), VerificationKey(ECKey(key.public_key, key.public_key), kid=kid)
    if alg in ("EdDSA", "Ed25519"):
        key = OKPKey.generate_key("Ed25519")
        return alg, Signer(key, alg, kid), VerificationKey(OKPKey(key.public_key, key.public_key), kid=kid)
    key = RSAKey.generate_key(2048)
    return alg, Signer(key, alg, kid), VerificationKey(RSAKey(key.public_key, key.public_key), kid=kid)


def _part(document: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
