"""Keys that tokens are verified with: read strictly, and used for what they are for and nothing else."""

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

WEAKEST_RSA: Final = 2048  # bits (RFC 7518 section 3.3)
_QUICK_RSA: Final = 4096  # bits; verifying with more of them takes longer than handing it to a thread does
_HS: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}  # octets that the secret has at least
_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EDWARDS = frozenset(("EdDSA", "Ed25519"))  # RFC 9864: the first is the old name of the second
# The algorithm objects themselves: looking one up through the library's registry warns of EdDSA.
_VERIFIERS = {each.name: each for each in JWS_ALGORITHMS if each.name in {*_HS, *_RSA, *_EC.values(), *_EDWARDS}}
# What a public JWK is made of (RFC 7518 section 6, RFC 8037 section 2).
_MEMBERS: Mapping[str, tuple[type[RSAKey] | type[ECKey] | type[OKPKey], tuple[str, ...]]] = {
    "RSA": (RSAKey, ("n", "e")),
    "EC": (ECKey, ("crv", "x", "y")),
    "OKP": (OKPKey, ("crv", "x")),
}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_KEY_MARKS = (b"-----BEGIN ", b"---- BEGIN ", b"ssh-rsa ", b"ssh-dss ", b"ssh-ed25519 ", b"ecdsa-sha2-")
# What the libraries raise for material that is no key.
_BROKEN = (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, OverflowError)


class VerificationKey:
    """One key, for the algorithms that it fits and no other. Immutable.

    `kid` is None where it has none; `until` is when it stops to hold, in seconds since the epoch, None for never;
    `slow` tells that verifying with it takes long enough to be done off the event loop.
    """

    __slots__ = ("_algorithms", "_key", "_signature_length", "kid", "slow", "until")

    def __init__(
        self, key: JoseKey, *, kid: str | None = None, alg: str | None = None, until: float | None = None
    ) -> None:
        """`alg` is what the key says that it is for, where it does."""
        self._key = key
        self.kid = kid
        self.until = until
        self._algorithms, self._signature_length, self.slow = _uses(key)
        if alg is not None:
            self._algorithms &= _EDWARDS if alg in _EDWARDS else {alg}

    def fits(self, alg: str) -> bool:
        """Whether signatures of this algorithm can be verified with it."""
        return alg in self._algorithms

    def verify(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's; never for an algorithm that it does not fit. Safe from any thread."""
        if alg not in self._algorithms or (self._signature_length and len(signature) != self._signature_length):
            return False
        return _VERIFIERS[alg].verify(signing_input, signature, self._key)

    def ending(self, at: float) -> VerificationKey:
        """The same key, which holds until then at the latest."""
        key = VerificationKey(self._key, kid=self.kid, until=at if self.until is None else min(at, self.until))
        key._algorithms = self._algorithms
        return key

    def __repr__(self) -> str:
        return f"VerificationKey({', '.join(sorted(self._algorithms)) or 'nothing'})"


def _uses(key: JoseKey) -> tuple[frozenset[str], int, bool]:
    """The algorithms of a key, how many octets its signatures have (0: by algorithm), and whether it is slow."""
    if isinstance(key, OctKey):
        return frozenset(_HS), 0, False
    if isinstance(key, RSAKey):
        bits = key.raw_value.key_size
        return (_RSA if bits >= WEAKEST_RSA else frozenset()), (bits + 7) // 8, bits > _QUICK_RSA
    if isinstance(key, ECKey):
        curve = key.raw_value.curve
        algorithm = _EC.get(curve.name)
        length = (curve.key_size + 7) // 8 * 2  # r and s, one after the other (RFC 7518 section 3.4)
        return frozenset((algorithm,) if algorithm else ()), length, algorithm != "ES256"
    return (_EDWARDS if key.curve_name == "Ed25519" else frozenset()), 64, False


# Shared secrets -------------------------------------------------------------------------------------------------------


def secret_key(text: str, algorithms: Iterable[str], *, key: str, allow_weak: bool = False) -> VerificationKey:
    """The key of HS256, HS384 and HS512. Raises AuthError, which names the manifest's `key`, for one that is shorter
    than the hash of the longest algorithm (RFC 7518 section 3.2), and for what is the public half of a pair: whoever
    has that could sign."""
    octets = text.encode("utf-8", "surrogateescape")  # as the environment's octets that are not UTF-8 are kept
    if _is_public(text, octets):
        hint = "give it as public_key; a shared secret is made with: python -c 'import secrets;"
        raise AuthError(
            key, "it is a key or a certificate, and no shared secret", hint + " print(secrets.token_urlsafe(48))'"
        )
    longest = max((each for each in algorithms if each in _HS), key=_HS.__getitem__, default="HS256")
    if not octets:
        raise AuthError(key, "the secret is empty")
    if len(octets) < _HS[longest]:
        message = f"the secret is shorter than the {_HS[longest]} octets that {longest} wants (RFC 7518 section 3.2)"
        if not allow_weak:
            raise AuthError(key, message, "rotate it to a longer one, or allow_weak_secret: true")
        logger.warning("%s: %s; it can be guessed from any token that it signed", key, message)
    return VerificationKey(OctKey(octets, octets))


def _is_public(text: str, octets: bytes) -> bool:
    bare = b""
    try:
        if text.lstrip().startswith("{"):
            return "kty" in json.loads(text)
        bare = b64decode("".join(text.split()), validate=True)  # a PEM file's inside, or the file as it is kept in YAML
    except (ValueError, RecursionError):
        pass
    for each in filter(None, (octets, bare)):
        if any(mark in each for mark in _KEY_MARKS):
            return True
        try:
            OctKey.binding.import_from_bytes(each)
        except ValueError:  # it was read as a key or certificate
            return True
    return False


# Public keys ----------------------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """Key material that verifies no token; the text says why, without a word of it."""


class _PrivateError(_UnusableError):
    """It is a private or a shared key."""


def public_keys(text: str, *, key: str) -> list[VerificationKey]:
    """The keys of a text: PEM public keys and certificates (of which nothing but the key counts), a JWK or a JWK set.
    Raises AuthError, which names the manifest's `key`; a private key is refused, since it does not belong here."""
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
        raise AuthError(key, str(error), "give the public half: openssl pkey -in KEY -pubout") from None
    except _UnusableError as error:
        raise AuthError(key, str(error), "a PEM public key, a PEM certificate, a JWK or a JWK set is wanted") from None


def _from_pem(label: str, block: str) -> VerificationKey:
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            raw: Any = kind.binding.import_from_bytes(block.encode())
        except _BROKEN:  # of another kind, or none
            continue
        return _usable(VerificationKey(kind(raw, raw)), f"the {label.lower()}")
    raise _UnusableError(f"the {label.lower()} cannot be read")


def _usable(key: VerificationKey, what: str) -> VerificationKey:
    if not key._algorithms:
        wanted = f"RSA of {WEAKEST_RSA} bits and more, P-256, P-384, P-521 and Ed25519"
        raise _UnusableError(f"{what} is not one that tokens are verified with here: {wanted} are")
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
        except _UnusableError:  # for encryption, or for algorithms that others know
            continue
    if not found:
        raise _UnusableError("no key of the set is one that tokens are verified with here")
    return found


def jwk_set(document: object, *, most: int = 100) -> list[VerificationKey]:
    """The keys of a JWK set (RFC 7517 section 5) that somebody else publishes: entries that are for something else,
    unknown or broken are passed over, and so is what is no JWK set at all. Raises nothing. Looks at `most` entries."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return []
    if len(entries) > most:
        logger.warning("a JWK set has %d keys, of which the first %d are looked at", len(entries), most)
    found: list[VerificationKey] = []
    secrets = 0
    for entry in entries[:most]:
        try:
            found.append(_from_jwk(entry))
        except _PrivateError:
            secrets += 1
        except _UnusableError:
            continue
    if secrets:
        logger.warning("a JWK set publishes %d private or shared keys, which are not used", secrets)
    return found


def _from_jwk(value: object) -> VerificationKey:
    if not isinstance(value, dict):
        raise _UnusableError("it is no JWK")
    kty, kid, alg, use, operations = (value.get(name) for name in ("kty", "kid", "alg", "use", "key_ops"))
    if kty == "oct" or not _PRIVATE.isdisjoint(value):
        raise _PrivateError("it is a shared key" if kty == "oct" else "it is a private key")
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise _UnusableError("the JWK is of a kind that is not known here")
    if use not in (None, "sig") or not (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    ):
        raise _UnusableError("the JWK is not for signatures")
    if not (kid is None or isinstance(kid, str)) or not (alg is None or isinstance(alg, str)):
        raise _UnusableError("the JWK's `kid` or `alg` is no text")
    kind, names = _MEMBERS[kty]
    # Nothing else of it is handed on: what the library makes of other members is not needed.
    material: Any = {name: value.get(name) for name in names}
    try:
        raw: Any = kind.binding.import_public_key(material)
    except _BROKEN:
        raise _UnusableError("the JWK cannot be read") from None
    return _usable(VerificationKey(kind(raw, raw), kid=kid, alg=alg), "the JWK")


# Where keys come from -------------------------------------------------------------------------------------------------


class KeySource(Protocol):
    """Keys of one scheme. `generation` grows whenever keys are replaced or removed: what they verified is forgotten."""

    @property
    def generation(self) -> int: ...

    def now(self, alg: str, kid: str | None) -> Sequence[VerificationKey] | None:
        """The keys that a token may be signed with; None where only `look` can tell. Never waits."""

    async def look(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        """The same, with all that it takes. Raises UnavailableError."""


def candidates(keys: Iterable[VerificationKey], alg: str, kid: str | None, *, one: bool) -> list[VerificationKey]:
    """The keys that a token with this header may be signed with. A `kid` finds the keys that have it, then those that
    have none. Without a `kid` all that fit are tried; with `one`, only where there is a single one."""
    fitting = [key for key in keys if key.fits(alg)]
    if kid is None:
        return fitting if not one or len(fitting) == 1 else []
    return [key for key in fitting if key.kid == kid] + [key for key in fitting if key.kid is None]


class StaticKeys:
    """Keys that configuration gives, and those that they replaced, for a while. Empty until the first `swap`."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        self.generation = 0
        self._clock = clock
        self._keys: tuple[VerificationKey, ...] = ()
        self._added: tuple[VerificationKey, ...] = ()

    def now(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        at = self._clock()
        held = (key for key in (*self._keys, *self._added) if key.until is None or at < key.until)
        return candidates(held, alg, kid, one=False)

    async def look(self, alg: str, kid: str | None) -> Sequence[VerificationKey]:
        return self.now(alg, kid)

    def swap(self, new: Sequence[VerificationKey], overlap: float) -> None:
        """Use these; those before them hold for `overlap` seconds more."""
        at = self._clock()
        old = [key.ending(at + overlap) for key in self._keys] if overlap > 0 else []
        self._keys = (*new, *(key for key in old if key.until is None or at < key.until))
        self.generation += 1

    def add(self, key: VerificationKey) -> None:
        """Trust one more key, for as long as this object lives: for tests, whose tokens it signs."""
        self._added = (*self._added, key)
