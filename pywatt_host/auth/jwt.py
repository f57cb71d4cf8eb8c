"""Bearer tokens that are JWTs (RFC 6750, RFC 7519), verified as RFC 8725 and RFC 9068 require."""

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
from pywatt_host.auth.turns import Turn, Turns
from pywatt_host.auth.verified import VerifiedTokens
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.types import Scope

logger = logging.getLogger("pywatt.auth")

_WITH_SECRET = ("HS256",)
_WITH_PUBLIC_KEYS = ("RS256", "ES256", "EdDSA")
_EDWARDS = frozenset(("EdDSA", "Ed25519"))  # two names of one algorithm (RFC 9864)
_TYPES = frozenset((None, "jwt", "at+jwt"))
_MAX_TIME = 2.0**53  # seconds; JSON parsers differ about larger numbers (RFC 8259 section 6)
_MAX_FILE_BYTES = 1024 * 1024
_MAX_CONCURRENT: Final = 2  # slow verifications that run
_MAX_PENDING: Final = 256  # slow verifications that run or wait
_CACHE_TTL: Final = 600.0  # seconds; the longest time that a token is accepted after its issuer removed the key
_MANY_KEYS = 4  # with this many keys to try, verification leaves the event loop, whatever the keys are


class JwtScheme:
    """A scheme of type `jwt` or `oidc`. How a token is verified depends on `options` only, and on nothing in the
    token."""

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
        """`directory` is the base of a relative `public_key`. `key` is the scheme's key in the manifest. `clock`
        returns seconds since the epoch."""
        self.name = name
        self._kind = options.type or "jwt"
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
        self._verifying: dict[tuple[int, bytes], asyncio.Task[VerificationKey | None]] = {}
        self._turns = Turns()
        self._concurrent = asyncio.Semaphore(_MAX_CONCURRENT)

    @property
    def keys(self) -> KeySource:
        """The source of the scheme's keys."""
        return self._keys

    # Requests -------------------------------------------------------------------------------------------------------

    def presented(self, scope: Scope) -> bytes | None:
        """Return the text after `Bearer` (RFC 6750 section 2.1), whatever it is. Raises DeniedError if there are two
        Authorization headers, or no text."""
        value: bytes | None = None
        for name, text in scope["headers"]:
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

    def accepts(self, credential: bytes) -> bool:
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
        """Return the challenge of RFC 6750 section 3."""
        parts = [f'realm="{_quoted(realm)}"']
        if error:
            parts.append(f'error="{error}"')
        if scope:
            parts.append(f'scope="{_quoted(scope)}"')
        return f"Bearer {', '.join(parts)}".encode("latin-1", "replace")

    # Verification ---------------------------------------------------------------------------------------------------

    async def verify(self, credential: bytes, client: str = "") -> Identity:
        identity = self.recall(credential)
        if identity is not None:
            return identity
        generation = self._generation
        token = Token.parse(credential)
        if token.alg not in self._allowed:
            raise DeniedError("algorithm")
        if (None if token.typ is None else media_type(token.typ)) not in self._types:
            raise DeniedError("type")
        keys = self._keys.find_now(token.alg, token.kid)
        if keys is None:
            keys = await self._keys.find(token.alg, token.kid)
        if not keys:
            raise DeniedError("key")
        if len(keys) >= _MANY_KEYS or any(key.slow for key in keys):
            signer = await self._signer_shared((generation, credential), token, keys, client)
        else:
            signer = _signer(token, keys)
        if signer is None:
            raise DeniedError("signature")
        until = min(self._check(token.claims), self._clock() + _CACHE_TTL)
        identity = Identity(
            self.name, self._kind, token.claims.get("sub", ""), token.claims, _earlier(until, signer.until)
        )
        if generation == self._keys.generation:  # else the keys have changed; the next request verifies again
            self._verified.put(credential, identity)
        return identity

    async def _signer_shared(
        self, what: tuple[int, bytes], token: Token, keys: Sequence[VerificationKey], client: str
    ) -> VerificationKey | None:
        """Find the signer in a thread, once for all requests that wait for the same token and generation of keys. A
        request that is cancelled while it waits does not affect the others."""
        task = self._verifying.get(what)
        if task is None:
            if len(self._verifying) >= _MAX_PENDING:
                raise UnavailableError("busy")
            turn = self._turns.of(client)
            work = self._signer_in_thread(turn, token, keys)
            task = asyncio.create_task(work, name=f"verify a token for {self._key}")
            self._verifying[what] = task
            task.add_done_callback(lambda _: self._verifying.pop(what, None))
        return await asyncio.shield(task)

    async def _signer_in_thread(
        self, turn: Turn, token: Token, keys: Sequence[VerificationKey]
    ) -> VerificationKey | None:
        async with turn, self._concurrent:
            return await asyncio.to_thread(_signer, token, keys)

    def _check(self, claims: Mapping[str, Any]) -> float:
        """Return when the claims expire, in seconds since the epoch. Raises DeniedError if they are not valid."""
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
        # A host that is not in the audience of a token must reject it (RFC 7519 section 4.1.3).
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
        """Read the secret or the public keys. A scheme whose issuer publishes the keys has nothing to read."""
        options = self._options
        value = options.public_key if options.secret is None else options.secret
        if value is None or not isinstance(self._keys, StaticKeys):
            return _Nothing()
        path = f"{self._key}.{'public_key' if options.secret is None else 'secret'}"
        try:
            text = value.render(secret_values) if isinstance(value, SecretTemplate) else value
        except KeyError as error:
            hint = "set it, or add a source under secrets.sources"
            raise AuthError(path, f"secret {error.args[0]} has no value", hint) from None
        if options.secret is not None:
            weak = options.allow_weak_secret
            keys = [secret_key(text, self.algorithms, key=path, allow_weak=weak)]
        else:
            if not text.lstrip().startswith(("-----BEGIN", "{")):
                text = _read(self._directory, text, path, str(value))
            keys = public_keys(text, key=path)
        if not any(key.fits(each) for key in keys for each in self._allowed):
            hint = f"see {self._key}.algorithms"
            raise AuthError(path, f"it has no key for the algorithms {', '.join(self.algorithms)}", hint)
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
    """Return the key that made the signature, or None."""
    for key in keys:
        try:
            if key.verify(token.alg, token.signing_input, token.signature):
                return key
        except Exception as error:  # named boundary: a library failed on a hostile signature, which is then not valid
            logger.error("a signature could not be verified; the token is rejected: %s", type(error).__name__)
    return None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), or None if there is no such claim. Raises DeniedError."""
    if name not in claims:
        return None
    value = claims[name]
    if (type(value) is not int and type(value) is not float) or not -_MAX_TIME < value < _MAX_TIME:
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
    """Return the text of a file. `shown` is how the manifest writes the path, because a path may come from a secret."""
    try:
        with (directory / name.strip()).open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        hint = "it must be PEM or JSON; convert DER to PEM with: openssl pkey -pubin -inform DER -in KEY"
        raise AuthError(key, f"{shown} is not text", hint) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a path"
        raise AuthError(key, f"{shown} cannot be read: {why}", "give a path, PEM, a JWK or a JWK set") from None
