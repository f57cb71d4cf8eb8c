"""Makes the schemes of the manifest's `auth`, and the guards of endpoints. Imported only if there are any schemes."""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from pywatt_host.auth.guard import Counts, Guard, Refused
from pywatt_host.auth.scheme import Loaded, Scheme
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.model import AuthScheme, Manifest, Requirement
from pywatt_host.manifest.model.auth import DEV_ALGORITHMS
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.health import Checks

_SECRET_KEYS = ("secret", "public_key", "keys", "users")


class Schemes:
    """The service with all schemes of a manifest. When it starts, it reads their keys from the secrets in use."""

    name = "auth"

    def __init__(
        self, manifest: Manifest, secret_values: Callable[[], Mapping[str, str]], dev_folder: Path | None = None
    ) -> None:
        """`dev_folder` is the folder that `dev` and `up` name; None under `run`."""
        self.counts: Counts = Counter()
        self.all: dict[str, Scheme] = {}
        self._secret_values = secret_values
        self._services: list[Any] = []
        self._dependants: list[SchemeDependant] = []
        self._of_messages: dict[tuple[str, ...], Guard] = {}  # by the schemes that a handler takes
        self._guards: dict[str, Guard] = {}
        self._realms = {name: scheme.realm or manifest.module_id for name, scheme in manifest.auth.items()}
        for name, options in manifest.auth.items():
            if options.uses_dev_issuer:
                scheme, services = _dev_tokens(name, options, manifest.directory, dev_folder)
            else:
                scheme, services = _MAKERS[options.type or name](name, options, manifest.directory)
            self.all[name] = scheme
            self._services += services
            names = _names(options)
            if names:
                self._dependants.append(SchemeDependant(scheme, names))

    def guard(self, requirement: Requirement | None) -> Guard | None:
        """Return the guard for endpoints with this requirement, or None if they need no credential."""
        if requirement is None or requirement.open:
            return None
        key = repr((requirement.scheme, requirement.scopes, sorted(requirement.claims.items())))
        guard = self._guards.get(key)
        if guard is None:
            schemes = [self.all[name] for name in requirement.scheme]
            guard = Guard(schemes, requirement.scopes, requirement.claims, self._realms, self.counts)
            self._guards[key] = guard
        return guard

    async def vouch(self, authorization: str, *, schemes: Sequence[str] = (), source: str = "") -> dict[str, Any]:
        """Verify a credential that came with a message by one of the schemes (none: by any), and return its claims.
        `source` is the module that sent the message. Raises MessagingError."""
        names = tuple(schemes) or tuple(self.all)
        guard = self._of_messages.get(names)
        if guard is None:
            each = tuple(self.all[name] for name in names)
            guard = self._of_messages[names] = Guard(each, (), {}, self._realms, self.counts)
        headers = [(b"authorization", authorization.encode("utf-8", "replace"))]
        verdict = await guard.examine({"headers": headers, "client": (f"module {source}", 0) if source else None})
        if isinstance(verdict, Refused):
            raise MessagingError("handler_failed", "the credential in the message is not valid for this module")
        return verdict.claims

    def dependants(self) -> list[SchemeDependant]:
        """Return the schemes whose keys are secrets."""
        return self._dependants

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        loaded = [scheme.prepare(self._secret_values()) for scheme in self.all.values()]
        for each in loaded:
            each.commit()
        async with AsyncExitStack() as stack:
            for service in self._services:
                await stack.enter_async_context(service.running(tasks))
            yield

    async def check(self) -> None:
        """Raise AuthError if the last fetch of an issuer's keys failed."""
        for service in self._services:
            await service.check()

    def add_checks(self, checks: Checks) -> None:
        """One health check for all keys that are fetched, where there are any."""
        if self.fetches:
            checks.add("auth", self.check, optional=True)

    @property
    def fetches(self) -> bool:
        """Whether any scheme fetches keys from an issuer, so that a health check makes sense."""
        return any(getattr(service, "remote", False) for service in self._services)


class SchemeDependant:
    """A scheme whose keys are secrets. After a rotation, the new keys are valid, and for some time the old ones too."""

    def __init__(self, scheme: Scheme, names: frozenset[str]) -> None:
        self.name = f"auth.{scheme.name}"
        self.names = names
        self._scheme = scheme

    async def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        """Parse the new values, in a thread, because hashing a password takes long. Raises AuthError."""
        return await asyncio.to_thread(self._scheme.prepare, secret_values)


Made: TypeAlias = tuple[Scheme, list[Any]]  # a scheme and the services that it needs


def _tokens(name: str, options: AuthScheme, directory: Path) -> Made:
    jwt = import_module("pywatt_host.auth.jwt")
    if options.secret is not None or options.public_key is not None:
        keys, services = import_module("pywatt_host.auth.keys").StaticKeys(), []
    else:
        keys = import_module("pywatt_host.auth.remote").RemoteKeys(name, options)
        services = [keys]
    return jwt.JwtScheme(name, options, keys, directory=directory), services


def _dev_tokens(name: str, options: AuthScheme, directory: Path, dev_folder: Path | None) -> Made:
    issuer = import_module("pywatt_host.auth.dev_issuer")
    algorithms = [each for each in options.algorithms or DEV_ALGORITHMS if each in DEV_ALGORITHMS]
    options = options.model_copy(update={"issuer": issuer.ISSUER, "algorithms": tuple(algorithms)})
    keys = issuer.DevKeys(name, directory, dev_folder)
    return import_module("pywatt_host.auth.jwt").JwtScheme(name, options, keys, directory=directory), [keys]


def _api_key(name: str, options: AuthScheme, directory: Path) -> Made:
    return import_module("pywatt_host.auth.api_key").ApiKeyScheme(name, options), []


def _basic(name: str, options: AuthScheme, directory: Path) -> Made:
    scheme = import_module("pywatt_host.auth.basic").BasicScheme(name, options)
    return scheme, [scheme]


def _mtls(name: str, options: AuthScheme, directory: Path) -> Made:
    return import_module("pywatt_host.auth.mtls").MutualTlsScheme(name, options), []


# The function that makes a scheme of each type. The modules that a type needs are imported only if it is declared.
_MAKERS: Mapping[str, Callable[[str, AuthScheme, Path], Made]] = {
    "jwt": _tokens,
    "oidc": _tokens,
    "api_key": _api_key,
    "basic": _basic,
    "mtls": _mtls,
}


def _names(options: AuthScheme) -> frozenset[str]:
    values = [getattr(options, key) for key in _SECRET_KEYS]
    return frozenset(name for value in values if isinstance(value, SecretTemplate) for name in value.names)
