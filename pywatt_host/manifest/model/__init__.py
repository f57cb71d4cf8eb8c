"""The typed manifest: frozen data, all of it, with every default filled in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr

from pywatt_host.manifest.model.app import App, AppMount, DirectoryMount, Module, Mount
from pywatt_host.manifest.model.auth import SCHEME_NAME, AuthScheme, Client, Requirement, named
from pywatt_host.manifest.model.base import Deferred, Section, Short, key
from pywatt_host.manifest.model.channels import (
    ChannelLimits,
    Channels,
    ChannelTls,
    HttpChannel,
    IpcChannel,
    NatsChannel,
    TcpChannel,
)
from pywatt_host.manifest.model.endpoints import AutoEndpoints, Endpoint, Endpoints, Rule
from pywatt_host.manifest.model.operations import AccessLog, Health, Logging, Metrics
from pywatt_host.manifest.model.resiliency import CircuitBreaker, Resiliency, RetryPolicy
from pywatt_host.manifest.model.resiliency import Target as ResilienceTarget
from pywatt_host.manifest.model.secrets import SecretKey, Secrets, SecretSource, Vault
from pywatt_host.manifest.model.server import Admin, Cors, Limits, Server, Timeouts
from pywatt_host.manifest.model.services import RegisteredService, Services, StaticService
from pywatt_host.manifest.model.stores import Cache, Caches, Database, Databases, Pool
from pywatt_host.manifest.problems import display_path
from pywatt_host.manifest.values import ImportPath, SecretTemplate, Version

__all__ = [
    "AccessLog",
    "Admin",
    "App",
    "AppMount",
    "AuthScheme",
    "AutoEndpoints",
    "Cache",
    "ChannelLimits",
    "ChannelTls",
    "Channels",
    "CircuitBreaker",
    "Client",
    "Cors",
    "Database",
    "DirectoryMount",
    "Endpoint",
    "Health",
    "HttpChannel",
    "IpcChannel",
    "Limits",
    "Logging",
    "Manifest",
    "Metrics",
    "Module",
    "Mount",
    "NatsChannel",
    "Pool",
    "RegisteredService",
    "Requirement",
    "ResilienceTarget",
    "Resiliency",
    "RetryPolicy",
    "Rule",
    "SecretKey",
    "SecretSource",
    "Secrets",
    "Section",
    "Server",
    "Services",
    "Short",
    "StaticService",
    "TcpChannel",
    "Timeouts",
    "Vault",
]


class Manifest(Section):
    """A whole manifest after interpolation, profile and overrides: the recipe that `build` makes a Host from."""

    version: Version = Field(1, description="Version of this format.", examples=[1])
    module: Module = key(Module, "Who this module is.", {"id": "users", "version": "1.4.0"})
    app: Annotated[App | None, Short(text="import_path")] = key(
        None,
        "The application: `module:attribute`, or a mapping.",
        "users.api:create_app",
        {"import_path": "users.api:app"},
    )
    mounts: tuple[Mount, ...] = key(
        (),
        "Further applications and folders of static files, each under its prefix.",
        [{"route_prefix": "/static", "directory": "./static"}],
        strict=False,
    )
    state: ImportPath | None = key(
        None,
        "Function (init, secrets) that makes the application's own state, app_state.user_state, before the application"
        " is loaded. Sync or async.",
        "users.state:build",
    )
    config: dict[str, Any] = key(dict, "Free-form, for the application: app_state.config.", {"page_size": 50})
    server: Server = key(Server, "Where the host listens, whom it trusts and what it bounds.", {"listen": ":8080"})
    secrets: Annotated[Secrets, Short(names="keys"), Deferred()] = key(
        Secrets,
        "Secrets by name, where they come from and whether they rotate. A list of names is short for `keys`.",
        ["DATABASE_URL", "JWT_SECRET"],
        {"rotate": True, "keys": {"DATABASE_URL": {"description": "Where users live"}}},
    )
    endpoints: Annotated[Endpoints, Short(text="from")] = key(
        AutoEndpoints,
        "`auto`: the application's own routes. A list: these and nothing else. `{from: auto, rules}`: the"
        " application's own routes, with options by path.",
        "auto",
        [{"path": "/api/users", "methods": ["GET", "POST"]}],
        {"from": "auto", "rules": [{"path": "/upload", "body": "1GiB"}]},
    )
    auth: Annotated[
        dict[Annotated[str, Field(pattern=SCHEME_NAME)], Annotated[AuthScheme, Deferred()]], AfterValidator(named)
    ] = key(
        dict,
        "Schemes by name, which endpoints then ask for: tokens (jwt, oidc), keys (api_key), passwords (basic).",
        {"jwt": {"secret": "${secret:JWT_SECRET}"}},
    )
    clients: dict[Annotated[str, Field(pattern=SCHEME_NAME)], Annotated[Client, Deferred()]] = key(
        dict,
        "Outbound OAuth 2: app_state.http adds and renews the token for these origins.",
        {
            "billing": {
                "base_url": "https://billing.example",
                "token_url": "https://id.example/token",
                "client_id": "users",
                "client_secret": "${secret:BILLING_SECRET}",
            }
        },
    )
    databases: Databases = key(
        dict,
        "Databases by name; `default` is app_state.db. A text is short for `{url: ...}`.",
        {"default": "sqlite:///app.db"},
        {"default": {"url": "${secret:DATABASE_URL}", "pool": {"max": 20}}},
    )
    caches: Caches = key(
        dict,
        "Caches by name; `default` is app_state.cache. A text is short for `{url: ...}`.",
        {"default": "memory://"},
        {"default": {"url": "redis://127.0.0.1:6379/0", "ttl": "60s"}},
    )
    health: Annotated[Health, Short(text="path", flag="enabled")] = key(
        Health,
        "Health, liveness and readiness paths: a path, `false`, or a mapping.",
        "/health",
        False,
        {"interval": "10s"},
    )
    metrics: Annotated[Metrics, Short(text="path", flag="enabled")] = key(
        lambda: Metrics.model_construct(enabled=False),
        "Prometheus metrics: `true`, a path, or a mapping.",
        True,
        "/metrics",
    )
    channels: Annotated[Channels, Deferred()] = key(
        Channels,
        "How the module talks with its orchestrator and with its peers.",
        {"ipc": {"listen": "/run/users.sock"}},
    )
    services: Annotated[Services, Deferred()] = key(
        Services,
        "Services that this module offers, and those of others that nobody announces.",
        {"register": [{"name": "users-api", "type": "api"}]},
    )
    resiliency: Annotated[Resiliency, Deferred()] = key(
        Resiliency,
        "Timeouts, retries and circuit breakers of requests and messages to others.",
        {
            "policies": {"timeouts": {"fast": "2s"}},
            "targets": {"modules": {"billing": {"timeout": "fast"}}},
        },
    )
    logging: Logging = key(Logging, "Logs, always on standard error.", {"level": "debug"})

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)
    _overridden: frozenset[tuple[str | int, ...]] = PrivateAttr(default=frozenset())

    @property
    def directory(self) -> Path:
        """The folder that every relative path of the manifest is relative to. Absolute."""
        return self._directory

    @property
    def source(self) -> Path | None:
        """The file it was read from; None when it was made in code."""
        return self._source

    @property
    def overridden(self) -> frozenset[tuple[str | int, ...]]:
        """Paths of the values that a profile, a variable, `--set` or the orchestrator has laid over the file's."""
        return self._overridden

    @property
    def module_id(self) -> str:
        """`module.id`, else the name of the manifest's folder."""
        return self.module.id or self._directory.name or "module"

    @property
    def secret_keys(self) -> dict[str, SecretKey]:
        """Every secret by name: those that `secrets` declares, and those that `${secret:NAME}` names, which are
        required where they have no default."""
        found = dict(self.secrets.keys)
        for template in self.secret_references().values():
            for name in template.names:
                declared = found.get(name)
                if declared is None:
                    found[name] = SecretKey.model_construct()
                elif not declared.required and declared.default is None:
                    found[name] = declared.model_copy(update={"required": True})
        return found

    def secret_references(self) -> dict[str, SecretTemplate]:
        """Path of each value with `${secret:NAME}` in it, such as `app.env.DATABASE_URL`, to that value."""
        return {display_path(path): template for path, template in _templates(self, ())}

    def resolve(self, path: str) -> Path:
        """A path of the manifest, absolute."""
        return self._directory / path


def _templates(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], SecretTemplate]]:
    if isinstance(value, SecretTemplate):
        yield path, value
    elif isinstance(value, Section):
        for name, info in type(value).model_fields.items():
            yield from _templates(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _templates(item, (*path, name))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _templates(item, (*path, number))
