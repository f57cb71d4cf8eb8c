"""Bearer tokens that are JWTs (RFC 6750, RFC 7519), verified as RFC 8725 and RFC 9068 want it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

from pywatt_host.auth.identity import DeniedError, Identity, UnavailableError
from pywatt_host.auth.keys import KeySource, StaticKeys, VerificationKey, public_keys, secret_key
from pywatt_host.auth.scheme import Carrier, Loaded
from pywatt_host.auth.token import Token, media_type
from pywatt_host.auth.verified import VerifiedTokens
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.types import Headers

logger = logging.getLogger("pywatt.auth")

_WITH_SECRET = ("HS256",)
_WITH_PUBLIC_KEYS = ("RS256", "ES256", "EdDSA")
_EDWARDS = frozenset(("EdDSA", "Ed25519"))  # two names of one (RFC 9864)
_TYPES = frozenset((None, "jwt", "at+jwt"))
_LARGEST = 2.0**53  # seconds; beyond it readers of JSON differ about a number (RFC 8259 section 6)
_LARGEST_FILE = 1024 * 1024
_AT_ONCE: Final = 2  # slow verifications that run
_WAITING: Final = 256  # slow verifications that run or wait
_REMEMBERED: Final = 600.0  # seconds: so long at the most can a token outlive a key that its issuer has taken back
_MANY_KEYS = 4  # so many signatures at least are verified off the event loop, whatever the keys are


class JwtScheme:
    """A scheme of type `jwt` or `oidc`: whatever it makes of a token stands in `options`, nothing in the token."""

    carrier: Carrier = "bearer"

    def __init__(
        self,
        name: str,
        options: AuthScheme,
        keys: KeySource,
        *,
        directory: Path,
        key: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`directory` is where a relative `public_key` starts; `key` is the manifest's key of the scheme; `clock` gives
        seconds since the epoch."""
        self.name = name
        self._options = options
        self._keys = keys
        self._directory = directory
        self._key = key or f"auth.{name}"
        self._clock = clock
        self.algorithms = options.algorithms or (_WITH_PUBLIC_KEYS if options.secret is None else _WITH_SECRET)
        allowed = frozenset(self.algorithms)
        self._allowed = allowed if allowed.isdisjoint(_EDWARDS) else allowed | _EDWARDS
        self._types = _TYPES if options.typ is None else frozenset(media_type(each) for each in options.typ)
        self._audience = None if options.audience is None else frozenset(options.audience)
        self._verified = VerifiedTokens(clock=clock)
        self._generation = keys.generation
        self._slowly: dict[tuple[int, bytes], asyncio.Task[VerificationKey | None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    @property
    def keys(self) -> KeySource:
        """Where its keys come from."""
        return self._keys

    # Of a request ---------------------------------------------------------------------------------------------------

    def presented(self, headers: Headers) -> bytes | None:
        """What follows `Bearer` (RFC 6750 section 2.1), whatever it looks like. Raises DeniedError where there are two
        Authorization headers, or nothing follows."""
        value: bytes | None = None
        for name, text in headers:
            if name == b"authorization":
                if value is not None:
                    raise DeniedError("malformed")
                value = text
        if value is None:
            return None
        if value[:7].lower() == b"bearer ":
            credential = value[7:].strip(b" ")
            if credential:
                return credential
            raise DeniedError("malformed")
        if value.lower() == b"bearer":
            raise DeniedError("malformed")
        return None

    def takes(self, credential: bytes) -> bool:
        try:
            token = Token.parse(credential)
        except DeniedError:
            return False
        issuer = self._options.issuer
        return token.alg in self._allowed and (issuer is None or token.claims.get("iss") == issuer)

    def recall(self, credential: bytes) -> Identity | None:
        if self._keys.generation != self._generation:
            self._generation = self._keys.generation
            self._verified.clear()
            return None
        return self._verified.get(credential)

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """RFC 6750 section 3."""
        parts = [f'realm="{_quoted(realm)}"']
        if error:
            parts.append(f'error="{error}"')
        if scope:
            parts.append(f'scope="{_quoted(scope)}"')
        return f"Bearer {', '.join(parts)}".encode("latin-1", "replace")

    # Verification ---------------------------------------------------------------------------------------------------

    async def verify(self, credential: bytes) -> Identity:
        identity = self.recall(credential)
        if identity is not None:
            return identity
        generation = self._generation
        token = Token.parse(credential)
        if token.alg not in self._allowed:
            raise DeniedError("algorithm")
        if (None if token.typ is None else media_type(token.typ)) not in self._types:
            raise DeniedError("type")
        keys = self._keys.now(token.alg, token.kid)
        if keys is None:
            keys = await self._keys.look(token.alg, token.kid)
        if not keys:
            raise DeniedError("key")
        if len(keys) >= _MANY_KEYS or any(key.slow for key in keys):
            signer = await self._signer_slowly((generation, credential), token, keys)
        else:
            signer = _signer(token, keys)
        if signer is None:
            raise DeniedError("signature")
        until = min(self._check(token.claims), self._clock() + _REMEMBERED)
        identity = Identity(self.name, token.claims.get("sub", ""), token.claims, _earlier(until, signer.until))
        if generation == self._keys.generation:  # else the keys have changed meanwhile, and the next time tells
            self._verified.put(credential, identity)
        return identity

    async def _signer_slowly(
        self, what: tuple[int, bytes], token: Token, keys: Sequence[VerificationKey]
    ) -> VerificationKey | None:
        """On a thread; once for all requests that wait for the same token and generation of keys. A request that goes
        away while it waits ends nothing for the others."""
        task = self._slowly.get(what)
        if task is None:
            if len(self._slowly) >= _WAITING:
                raise UnavailableError("busy")
            task = asyncio.create_task(self._on_a_thread(token, keys), name=f"verify a token for {self._key}")
            self._slowly[what] = task
            task.add_done_callback(lambda _: self._slowly.pop(what, None))
        return await asyncio.shield(task)

    async def _on_a_thread(self, token: Token, keys: Sequence[VerificationKey]) -> VerificationKey | None:
        async with self._places:
            return await asyncio.to_thread(_signer, token, keys)

    def _check(self, claims: Mapping[str, Any]) -> float:
        """Until when the claims hold. Raises DeniedError."""
        options = self._options
        expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
        for name in ("sub", "iss", "jti"):
            if name in claims and type(claims[name]) is not str:
                raise DeniedError("claim_type")
        audience = _audience(claims)
        for name in options.required_claims:
            if claims.get(name) is None:
                raise DeniedError("claim_missing")
        if options.issuer is not None and claims.get("iss") != options.issuer:
            raise DeniedError("issuer")
        # Whoever is none of those that a token is for must not take it (RFC 7519 section 4.1.3).
        if audience is not None if self._audience is None else self._audience.isdisjoint(audience or ()):
            raise DeniedError("audience")
        now = self._clock()
        until = inf if expires is None else expires + options.leeway
        if until <= now:
            raise DeniedError("expired")
        latest = now + options.leeway
        if (begins is not None and begins > latest) or (issued is not None and issued > latest):
            raise DeniedError("not_yet_valid")
        return until

    # Keys -----------------------------------------------------------------------------------------------------------

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        """Of a scheme whose keys somebody else publishes there is nothing to read."""
        options = self._options
        value = options.public_key if options.secret is None else options.secret
        if value is None or not isinstance(self._keys, StaticKeys):
            return _Nothing()
        path = f"{self._key}.{'public_key' if options.secret is None else 'secret'}"
        try:
            text = value.render(secret_values) if isinstance(value, SecretTemplate) else value
        except KeyError as error:
            raise AuthError(path, f"the secret {error.args[0]} is not there") from None
        if options.secret is not None:
            weak = options.allow_weak_secret
            keys = [secret_key(text, self.algorithms, key=path, allow_weak=weak)]
        else:
            if not text.lstrip().startswith(("-----BEGIN", "{")):
                text = _read(self._directory, text, path, str(value))
            keys = public_keys(text, key=path)
        if not any(key.fits(each) for key in keys for each in self._allowed):
            raise AuthError(path, f"no key of it fits {', '.join(self.algorithms)}", f"see {self._key}.algorithms")
        return _NewKeys(self._keys, keys, options.previous or 0.0)


class _NewKeys:
    def __init__(self, keys: StaticKeys, new: Sequence[VerificationKey], overlap: float) -> None:
        self._keys = keys
        self._new = new
        self._overlap = overlap

    def commit(self) -> None:
        self._keys.swap(self._new, self._overlap)

    def discard(self) -> None:
        return


class _Nothing:
    def commit(self) -> None:
        return

    def discard(self) -> None:
        return


def _signer(token: Token, keys: Sequence[VerificationKey]) -> VerificationKey | None:
    """The key that the signature is of."""
    for key in keys:
        try:
            if key.verify(token.alg, token.signing_input, token.signature):
                return key
        except Exception as error:  # named boundary: a library choked on a hostile signature, so that it is none
            logger.error("a signature could not be verified: %s", type(error).__name__)
    return None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2)."""
    if name not in claims:
        return None
    value = claims[name]
    if (type(value) is not int and type(value) is not float) or not -_LARGEST < value < _LARGEST:
        raise DeniedError("claim_type")
    return value


def _audience(claims: Mapping[str, Any]) -> Sequence[str] | None:
    if "aud" not in claims:
        return None
    value = claims["aud"]
    if type(value) is str:
        return (value,)
    if type(value) is not list or not all(type(each) is str for each in value):
        raise DeniedError("claim_type")
    return value


def _earlier(one: float, other: float | None) -> float:
    return one if other is None else min(one, other)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _read(directory: Path, name: str, key: str, shown: str) -> str:
    """The text of a file. `shown` is what the manifest calls it, since a path may come from a secret."""
    try:
        with (directory / name.strip()).open("rb") as file:
            return file.read(_LARGEST_FILE).decode("utf-8")
    except UnicodeDecodeError:
        hint = "PEM or JSON is wanted; openssl turns DER into PEM: openssl pkey -pubin -inform DER -in KEY"
        raise AuthError(key, f"{shown} is no text", hint) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no path"
        raise AuthError(key, f"{shown} cannot be read: {why}", "a path, PEM, a JWK or a JWK set is wanted") from None
