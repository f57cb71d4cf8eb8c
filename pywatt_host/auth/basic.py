"""Users with passwords (RFC 7617), for operators and scrapers."""

from __future__ import annotations

import asyncio
import binascii
import time
from asyncio import TaskGroup
from base64 import b64decode
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from math import inf
from typing import Any

from pywatt_host.auth.identity import DeniedError, Identity, UnavailableError
from pywatt_host.auth.passwords import Digests, bcrypt_cost, rendered, same, users
from pywatt_host.auth.scheme import Carrier, Loaded
from pywatt_host.auth.turns import Turn, Turns
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.types import Scope

_MAX_CREDENTIAL_BYTES = 4096
_MAX_BCRYPT_BYTES = 72  # of a password; bcrypt ignores the rest, so that longer passwords never match
_THREADS = 2
_MAX_PENDING = 64  # verifications that run or wait
_CACHE_SIZE = 1000  # verified credentials
_CACHE_TTL = 300.0  # seconds for which a verified credential is not hashed again


@dataclass(frozen=True, slots=True)
class _User:
    """A user with the `digest` of a plain password or a bcrypt `hash`. `until` is when it expires, in seconds since the
    epoch."""

    identity: Identity
    digest: bytes
    hash: bytes
    until: float


class BasicScheme:
    """A scheme of type `basic`. Passwords are hashed in two threads of their own, of which one address has
    at most one.

    `clock` returns seconds since the epoch.
    """

    carrier: Carrier = "basic"

    def __init__(self, name: str, options: AuthScheme, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._options = options
        self._key = f"auth.{name}.users"
        self._clock = clock
        self._digest = Digests()
        self._users: dict[str, tuple[_User, ...]] = {}  # for each name the current entry, then those that it replaced
        self._dummy = b""  # a hash that matches no password, as costly as those of users
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()
        self._verifying: dict[bytes, asyncio.Task[Identity | None]] = {}
        self._turns = Turns()
        self._threads: ThreadPoolExecutor | None = None
        self._check: Callable[[bytes, bytes], bool] | None = None

    def presented(self, scope: Scope) -> bytes | None:
        found: bytes | None = None
        for header in scope["headers"]:
            if header[0] == b"authorization":
                if found is not None:
                    raise DeniedError("malformed")
                found = header[1]
        if found is None or found[:6].lower() != b"basic ":
            return None
        return found[6:].strip(b" ")

    def accepts(self, credential: bytes) -> bool:
        try:
            return _user_and_password(credential)[0] in self._users
        except DeniedError:
            return False

    def recall(self, credential: bytes) -> Identity | None:
        if not self._verified or len(credential) > _MAX_CREDENTIAL_BYTES:
            return None
        identity = self._verified.get(self._digest(credential))
        return identity if identity is not None and self._clock() < identity.until else None

    async def verify(self, credential: bytes, client: str = "") -> Identity:
        identity = self.recall(credential)
        if identity is not None:
            return identity
        name, password = _user_and_password(credential)
        candidates = [user for user in self._users.get(name, ()) if self._clock() < user.until]
        if not self._dummy:
            found = _plain(candidates, self._digest(password))
        else:
            found = await self._verify_shared(credential, candidates, password, client)
        if found is None:
            raise DeniedError("credentials")
        return found

    async def _verify_shared(
        self, credential: bytes, candidates: list[_User], password: bytes, client: str
    ) -> Identity | None:
        """Verify a credential once for all requests that send it at the same time. Raises UnavailableError."""
        digest = self._digest(credential)
        task = self._verifying.get(digest)
        if task is None:
            if len(self._verifying) >= _MAX_PENDING or self._threads is None:
                raise UnavailableError("busy")
            work = self._verify_in_thread(self._turns.of(client), digest, candidates, password)
            task = asyncio.create_task(work, name=f"verify for {self._key}")
            self._verifying[digest] = task
            task.add_done_callback(lambda _: self._verifying.pop(digest, None))
        return await asyncio.shield(task)

    async def _verify_in_thread(
        self, turn: Turn, digest: bytes, candidates: list[_User], password: bytes
    ) -> Identity | None:
        verified = self._verified
        loop = asyncio.get_running_loop()
        async with turn:
            found = await loop.run_in_executor(self._threads, self._matching, candidates, password)
        if found is not None:
            remembered = found.identity.until_at_most(min(found.until, self._clock() + _CACHE_TTL))
            if verified is self._verified:  # else the passwords have changed in the meantime
                verified[digest] = remembered
                while len(verified) > _CACHE_SIZE:
                    verified.popitem(last=False)
            return remembered
        return None

    def _matching(self, candidates: list[_User], password: bytes) -> _User | None:
        """Return the user that the password belongs to. Runs in a thread.

        A hash is computed even for an unknown user, so that the duration does not reveal which users exist.
        """
        found: _User | None = None
        hashed = False
        digest = self._digest(password)
        for user in candidates:
            if user.hash:
                hashed = True
                if self._equals(password, user.hash):
                    found = found or user
            elif same(digest, user.digest):
                found = found or user
        if not hashed:
            self._equals(password, self._dummy)
        return found

    def _equals(self, password: bytes, hash: bytes) -> bool:
        assert self._check is not None
        fits = len(password) <= _MAX_BCRYPT_BYTES and b"\0" not in password
        return self._check(password if fits else b"-", hash) and fits

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        return f'Basic realm="{realm}", charset="UTF-8"'.encode("latin-1", "replace")

    # Passwords ------------------------------------------------------------------------------------------------------

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        found = users(rendered(self._options.users, secret_values, self._key), self._key)
        costs = [bcrypt_cost(entry.value) for entry in found]
        bcrypt = self._bcrypt() if any(costs) else None
        new = {}
        for entry, cost in zip(found, costs, strict=True):
            identity = Identity(self.name, "basic", entry.name, {"sub": entry.name}, inf)
            digest = b"" if cost else self._digest(entry.value.encode())
            new[entry.name] = _User(identity, digest, entry.value.encode() if cost else b"", inf)
        dummy = bcrypt.hashpw(b"nobody's", bcrypt.gensalt(max(costs))) if bcrypt is not None else b""
        return _NewUsers(self, new, dummy)

    def _bcrypt(self) -> Any:
        try:
            bcrypt = import_module("bcrypt")
        except ImportError:
            hint = "pip install 'pywatt-host[auth]'"
            raise AuthError(self._key, "bcrypt hashes need the package bcrypt", hint) from None
        self._check = bcrypt.checkpw
        return bcrypt

    def _swap(self, new: dict[str, _User], dummy: bytes) -> None:
        now = self._clock()
        until = now + (self._options.previous or 0.0)
        valid: dict[str, tuple[_User, ...]] = {name: (user,) for name, user in new.items()}
        for name, old in self._users.items():
            for user in old:
                ends = min(user.until, until)
                if ends > now:
                    kept = _User(user.identity, user.digest, user.hash, ends)
                    valid[name] = (*valid.get(name, ()), kept)
        self._users = valid
        self._dummy = dummy or (self._dummy if any(user.hash for users in valid.values() for user in users) else b"")
        self._verified = OrderedDict()

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pywatt passwords")
        try:
            yield
        finally:
            threads, self._threads = self._threads, None
            threads.shutdown(wait=False, cancel_futures=True)


class _NewUsers:
    def __init__(self, scheme: BasicScheme, new: dict[str, _User], dummy: bytes) -> None:
        self._scheme = scheme
        self._new = new
        self._dummy = dummy

    def commit(self) -> None:
        self._scheme._swap(self._new, self._dummy)

    def discard(self) -> None:
        return


def _plain(candidates: list[_User], digest: bytes) -> Identity | None:
    """Return the identity for the digest of a plain password. A comparison is made even if there is no such user."""
    found: Identity | None = None
    for user in candidates:
        if same(digest, user.digest):
            found = user.identity.until_at_most(user.until)
    if not candidates:
        same(digest, bytes(len(digest)))
    return found


def _user_and_password(credential: bytes) -> tuple[str, bytes]:
    """Split a credential, `user:password` as base64 of UTF-8 (RFC 7617 section 2). Raises DeniedError."""
    if len(credential) > _MAX_CREDENTIAL_BYTES:
        raise DeniedError("too_large")
    try:
        decoded = b64decode(credential, validate=True)
        name, colon, _ = decoded.decode().partition(":")
    except (binascii.Error, ValueError):
        raise DeniedError("malformed") from None
    if not colon or any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise DeniedError("malformed")
    return name, decoded.partition(b":")[2]
