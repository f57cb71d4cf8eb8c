"""From the manifest's `auth` to schemes that run, and to the guards of endpoints. Loaded only where there is any."""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from pywatt_host.auth.guard import Counts, Guard, Refused
from pywatt_host.auth.scheme import Loaded, Scheme
from pywatt_host.exceptions import MessagingError
from pywatt_host.manifest.model import AuthScheme, Manifest, Requirement
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.health import Checks

_SECRET_KEYS = ("secret", "public_key", "keys", "users")


class Schemes:
    """All schemes of one manifest, as a service: their keys are read on entering, from the secrets that are in use."""

    name = "auth"

    def __init__(self, manifest: Manifest, secret_values: Callable[[], Mapping[str, str]]) -> None:
        self.counts: Counts = Counter()
        self.all: dict[str, Scheme] = {}
        self._texts = secret_values
        self._services: list[Any] = []
        self._dependants: list[SchemeDependant] = []
        self._any: Guard | None = None
        self._guards: dict[str, Guard] = {}
        self._realms = {name: scheme.realm or manifest.module_id for name, scheme in manifest.auth.items()}
        for name, options in manifest.auth.items():
            scheme, services = _MAKERS[options.type or name](name, options, manifest.directory)
            self.all[name] = scheme
            self._services += services
            names = _names(options)
            if names:
                self._dependants.append(SchemeDependant(scheme, names))

    def guard(self, requirement: Requirement | None) -> Guard | None:
        """What stands before an endpoint with this requirement; None where everybody may ask."""
        if requirement is None or requirement.open:
            return None
        key = repr((requirement.scheme, requirement.scopes, sorted(requirement.claims.items())))
        guard = self._guards.get(key)
        if guard is None:
            schemes = [self.all[name] for name in requirement.scheme]
            guard = Guard(schemes, requirement.scopes, requirement.claims, self._realms, self.counts)
            self._guards[key] = guard
        return guard

    async def vouch(self, authorization: str) -> dict[str, Any]:
        """The claims of a credential that came with a message, by any of the schemes. Raises MessagingError."""
        if self._any is None:
            self._any = Guard(tuple(self.all.values()), (), {}, self._realms, self.counts)
        verdict = await self._any.examine({"headers": [(b"authorization", authorization.encode("utf-8", "replace"))]})
        if isinstance(verdict, Refused):
            raise MessagingError("handler_failed", "the credential that came along does not hold here")
        return verdict.claims

    def dependants(self) -> list[SchemeDependant]:
        """What follows when a secret rotates."""
        return self._dependants

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        loaded = [scheme.prepare(self._texts()) for scheme in self.all.values()]
        for each in loaded:
            each.commit()
        async with AsyncExitStack() as stack:
            for service in self._services:
                await stack.enter_async_context(service.running(tasks))
            yield

    async def check(self) -> None:
        """Raises where keys that are fetched cannot be had."""
        for service in self._services:
            await service.check()

    def add_checks(self, checks: Checks) -> None:
        """One health check for all keys that are fetched, where there are any."""
        if self.fetches:
            checks.add("auth", self.check, optional=True)

    @property
    def fetches(self) -> bool:
        """Whether any scheme depends on somebody else's answers, so that its health is worth a check."""
        return any(getattr(service, "remote", False) for service in self._services)


class SchemeDependant:
    """A scheme whose keys are secrets: on rotation the new ones hold, and the old ones for a while."""

    def __init__(self, scheme: Scheme, names: frozenset[str]) -> None:
        self.name = f"auth.{scheme.name}"
        self.names = names
        self._scheme = scheme

    async def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        """Raises AuthError for a value that is no usable key. In a thread: a hash of a password takes its time."""
        return await asyncio.to_thread(self._scheme.prepare, secret_values)


Made: TypeAlias = tuple[Scheme, list[Any]]  # a scheme, and the services that it needs


def _tokens(name: str, options: AuthScheme, directory: Path) -> Made:
    jwt = import_module("pywatt_host.auth.jwt")
    if options.secret is not None or options.public_key is not None:
        keys, services = import_module("pywatt_host.auth.keys").StaticKeys(), []
    else:
        keys = import_module("pywatt_host.auth.remote").RemoteKeys(name, options)
        services = [keys]
    return jwt.JwtScheme(name, options, keys, directory=directory), services


def _api_key(name: str, options: AuthScheme, directory: Path) -> Made:
    return import_module("pywatt_host.auth.api_key").ApiKeyScheme(name, options), []


def _basic(name: str, options: AuthScheme, directory: Path) -> Made:
    scheme = import_module("pywatt_host.auth.basic").BasicScheme(name, options)
    return scheme, [scheme]


# Type -> what makes a scheme of it. What a type needs is loaded only where one is declared.
_MAKERS: Mapping[str, Callable[[str, AuthScheme, Path], Made]] = {
    "jwt": _tokens,
    "oidc": _tokens,
    "api_key": _api_key,
    "basic": _basic,
}


def _names(options: AuthScheme) -> frozenset[str]:
    values = [getattr(options, key) for key in _SECRET_KEYS]
    return frozenset(name for value in values if isinstance(value, SecretTemplate) for name in value.names)
