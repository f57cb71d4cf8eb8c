"""The keys that verify tokens. They are parsed strictly, and used only for the algorithms that they are meant for."""

from __future__ import annotations

import json
import logging
import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from pywatt_host.exceptions import AuthError

logger = logging.getLogger("pywatt.auth")

JoseKey: TypeAlias = OctKey | RSAKey | ECKey | OKPKey

MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
_MAX_FAST_RSA_BITS: Final = 4096  # with a longer key, verification takes longer than the change to a thread
_HS: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}  # minimum bytes of the secret
_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EDWARDS = frozenset(("EdDSA", "Ed25519"))  # RFC 9864: the first is the old name of the second
# The algorithm objects are used directly, because a lookup in the library's registry warns about EdDSA.
_VERIFIERS = {each.name: each for each in JWS_ALGORITHMS if each.name in {*_HS, *_RSA, *_EC.values(), *_EDWARDS}}
# The members of a public JWK (RFC 7518 section 6, RFC 8037 section 2).
_MEMBERS: Mapping[str, tuple[type[RSAKey] | type[ECKey] | type[OKPKey], tuple[str, ...]]] = {
    "RSA": (RSAKey, ("n", "e")),
    "EC": (ECKey, ("crv", "x", "y")),
    "OKP": (OKPKey, ("crv", "x")),
}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_KEY_MARKS = (b"-----BEGIN ", b"---- BEGIN ", b"ssh-rsa ", b"ssh-dss ", b"ssh-ed25519 ", b"ecdsa-sha2-")
# The exceptions of the libraries for material that is not a key.
_KEY_ERRORS = (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError)


class VerificationKey:
    """One key, which verifies signatures of the algorithms that it fits, and of no other. Immutable.

    `kid` is None if the key has none. `until` is when the key expires, in seconds since the epoch, or None for never.
    `slow` says that verification takes long enough to need a thread.
    """

    __slots__ = ("_algorithms", "_key", "_signature_length", "kid", "slow", "until")

    def __init__(
        self, key: JoseKey, *, kid: str | None = None, alg: str | None = None, until: float | None = None
    ) -> None:
        """`alg` is the algorithm that the key names itself, if it does."""
        self._key = key
        self.kid = kid
        self.until = until
        self._algorithms, self._signature_length, self.slow = _uses(key)
        if alg is not None:
            self._algorithms &= _EDWARDS if alg in _EDWARDS else {alg}

    def fits(self, alg: str) -> bool:
        """Whether the key can verify signatures of this algorithm."""
        return alg in self._algorithms

    def verify(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether this key made the signature. False for an algorithm that it does not fit. Any thread may call
        this."""
        if alg not in self._algorithms or (self._signature_length and len(signature) != self._signature_length):
            return False
        return _VERIFIERS[alg].verify(signing_input, signature, self._key)

    def ending(self, at: float) -> VerificationKey:
        """Return the same key, which expires at the latest then."""
        key = VerificationKey(self._key, kid=self.kid, until=at if self.until is None else min(at, self.until))
        key._algorithms = self._algorithms
        return key

    def __repr__(self) -> str:
        return f"VerificationKey({', '.join(sorted(self._algorithms)) or 'nothing'})"


def _uses(key: JoseKey) -> tuple[frozenset[str], int, bool]:
    """Return the algorithms of a key, the bytes of its signatures (0: depends on the algorithm), and whether it is
    slow."""
    if isinstance(key, OctKey):
        return frozenset(_HS), 0, False
    if isinstance(key, RSAKey):
        bits = key.raw_value.key_size
        return (_RSA if bits >= MIN_RSA_BITS else frozenset()), (bits + 7) // 8, bits > _MAX_FAST_RSA_BITS
    if isinstance(key, ECKey):
        curve = key.raw_value.curve
        algorithm = _EC.get(curve.name)
        length = (curve.key_size + 7) // 8 * 2  # r and s, one after the other (RFC 7518 section 3.4)
        return frozenset((algorithm,) if algorithm else ()), length, algorithm != "ES256"
    return (_EDWARDS if key.curve_name == "Ed25519" else frozenset()), 64, False


# Shared secrets -------------------------------------------------------------------------------------------------------


def secret_key(text: str, algorithms: Iterable[str], *, key: str, allow_weak: bool = False) -> VerificationKey:
    """Return the key for HS256, HS384 and HS512.

    Raises AuthError, which names the manifest's `key`, if the secret is shorter than the hash of the longest algorithm
    (RFC 7518 section 3.2), or if it is a public key or certificate: everybody who has that could sign tokens.
    """
    secret = text.encode("utf-8", "surrogateescape")  # Python keeps bytes of the environment that are not UTF-8 so
    if _is_public(text, secret):
        hint = "give it as public_key; make a shared secret with: python -c 'import secrets;"
        raise AuthError(
            key, "it is a key or a certificate, not a shared secret", hint + " print(secrets.token_urlsafe(48))'"
        )
    longest = max((each for each in algorithms if each in _HS), key=_HS.__getitem__, default="HS256")
    if not secret:
        raise AuthError(key, "the secret is empty")
    if len(secret) < _HS[longest]:
        message = f"the secret is shorter than the {_HS[longest]} bytes that {longest} requires (RFC 7518 section 3.2)"
        if not allow_weak:
            raise AuthError(key, message, "rotate it to a longer one, or set allow_weak_secret: true")
        logger.warning("%s: %s; it can be guessed from any token that it signed", key, message)
    return VerificationKey(OctKey(secret, secret))


def _is_public(text: str, secret: bytes) -> bool:
    decoded = b""
    try:
        if text.lstrip().startswith("{"):
            return "kty" in json.loads(text)
        decoded = b64decode("".join(text.split()), validate=True)  # the body of a PEM file, or a file encoded for YAML
    except (ValueError, RecursionError):
        pass
    for each in filter(None, (secret, decoded)):
        if any(mark in each for mark in _KEY_MARKS):
            return True
        try:
            OctKey.binding.import_from_bytes(each)
        except ValueError:  # the library recognised a key or certificate
            return True
    return False


# Public keys ----------------------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """Key material that cannot verify tokens. The text says why, and contains nothing of the material."""


class _PrivateError(_UnusableError):
    """The material is a private or a shared key."""


def public_keys(text: str, *, key: str) -> list[VerificationKey]:
    """Return the keys in a text: PEM public keys and certificates, a JWK or a JWK set. Of a certificate, only the key
    is used. Raises AuthError, which names the manifest's `key`. A private key is refused, because it is not needed
    here."""
    try:
        if text.lstrip().startswith("{"):
            return _jwks(text)
        blocks = list(_PEM.finditer(text))
        if not blocks:
            raise _UnusableError("it is neither PEM nor a JWK")
        if any("PRIVATE" in block[1] for block in blocks):
            raise _PrivateError("it is a private key")
        return [_from_pem(block[1], block[0]) for block in blocks]
    except _PrivateError as error:
        raise AuthError(key, str(error), "give the public key: openssl pkey -in KEY -pubout") from None
    except _UnusableError as error:
        raise AuthError(key, str(error), "give a PEM public key, a PEM certificate, a JWK or a JWK set") from None


def _from_pem(label: str, block: str) -> VerificationKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            raw: Any = kind.binding.import_from_bytes(block.encode())
        except _KEY_ERRORS:  # a key of another kind, or not a key
            continue
        return _usable(VerificationKey(kind(raw, raw)), f"the {label.lower()}")
    raise _UnusableError(f"the {label.lower()} cannot be read")


def _usable(key: VerificationKey, what: str) -> VerificationKey:
    if not key._algorithms:
        supported = f"RSA of {MIN_RSA_BITS} bits or more, P-256, P-384, P-521 and Ed25519"
        raise _UnusableError(f"{what} is not of a supported kind (supported: {supported})")
    return key


def _jwks(text: str) -> list[VerificationKey]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _UnusableError("it is not JSON") from None
    if "keys" not in document:
        return [_from_jwk(document)]
    found: list[VerificationKey] = []
    for entry in document["keys"] if isinstance(document["keys"], list) else ():
        try:
            found.append(_from_jwk(entry))
        except _PrivateError:
            raise
        except _UnusableError:  # for encryption, or for an algorithm that is not supported
            continue
    if not found:
        raise _UnusableError("no key of the set can verify tokens")
    return found


def jwk_set(document: object, *, max_keys: int = 100) -> list[VerificationKey]:
    """Return the usable keys of a JWK set (RFC 7517 section 5) that an issuer publishes.

    Entries for another purpose, and unknown or invalid ones, are ignored; so is a document that is not a JWK set. Only
    the first `max_keys` entries are read. Raises nothing.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return []
    if len(entries) > max_keys:
        logger.warning("a JWK set has %d keys; only the first %d are used", len(entries), max_keys)
    found: list[VerificationKey] = []
    secrets = 0
    for entry in entries[:max_keys]:
        try:
            found.append(_from_jwk(entry))
        except _PrivateError:
            secrets += 1
        except _UnusableError:
            continue
    if secrets:
        logger.warning("a JWK set publishes %d private or shared keys; they are not used", secrets)
    return found


def _from_jwk(value: object) -> VerificationKey:
    if not isinstance(value, dict):
        raise _UnusableError("it is not a JWK")
    kty, kid, alg, use, operations = (value.get(name) for name in ("kty", "kid", "alg", "use", "key_ops"))
    if kty == "oct" or not _PRIVATE.isdisjoint(value):
        raise _PrivateError("it is a shared key" if kty == "oct" else "it is a private key")
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise _UnusableError("the JWK is of an unknown kind")
    if use not in (None, "sig") or not (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    ):
        raise _UnusableError("the JWK is not for signatures")
    if not (kid is None or isinstance(kid, str)) or not (alg is None or isinstance(alg, str)):
        raise _UnusableError("the JWK's `kid` or `alg` is not a string")
    kind, names = _MEMBERS[kty]
    # The library gets these members only; it must not interpret others.
    material: Any = {name: value.get(name) for name in names}
    try:
        raw: Any = kind.binding.import_public_key(material)
    except _KEY_ERRORS:
        raise _UnusableError("the JWK cannot be read") from None
    return _usable(VerificationKey(kind(raw, raw), kid=kid, alg=alg), "the JWK")


# Where keys come from -------------------------------------------------------------------------------------------------


class KeySource(Protocol):
    """Holds the keys of one scheme.

    `generation` increases when keys are replaced or removed; tokens that were verified before must be verified again.
    """

    @property
    def generation(self) -> int: ...

    def find_now(self, alg: str, kid: str | None) -> Sequence[VerificationKey] | None:
        """Return the keys that may have signed a token, or None if `find` must be called. Never waits."""

    async def find(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        """Return the keys that may have signed a token, and fetch them if necessary. Raises UnavailableError."""


def candidates(keys: Iterable[VerificationKey], alg: str, kid: str | None, *, one: bool) -> list[VerificationKey]:
    """Return the keys that may have signed a token with this header.

    With a `kid`, these are the keys that have it, then those that have none. Without a `kid`, these are all keys that
    fit; with `one`, only if there is a single one.
    """
    fitting = [key for key in keys if key.fits(alg)]
    if kid is None:
        return fitting if not one or len(fitting) == 1 else []
    return [key for key in fitting if key.kid == kid] + [key for key in fitting if key.kid is None]


class StaticKeys:
    """The keys in the configuration, and for some time those that they replaced. Empty until the first `swap`."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns seconds since the epoch."""
        self.generation = 0
        self._clock = clock
        self._keys: tuple[VerificationKey, ...] = ()
        self._added: tuple[VerificationKey, ...] = ()

    def find_now(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        at = self._clock()
        valid = (key for key in (*self._keys, *self._added) if key.until is None or at < key.until)
        return candidates(valid, alg, kid, one=False)

    async def find(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        return self.find_now(alg, kid)

    def swap(self, new: Sequence[VerificationKey], overlap: float) -> None:
        """Use these keys. The previous keys stay valid for `overlap` more seconds."""
        at = self._clock()
        old = [key.ending(at + overlap) for key in self._keys] if overlap > 0 else []
        self._keys = (*new, *(key for key in old if key.until is None or at < key.until))
        self.generation += 1

    def add(self, key: VerificationKey) -> None:
        """Trust one more key, for the lifetime of this object. For tests that sign their own tokens."""
        self._added = (*self._added, key)
