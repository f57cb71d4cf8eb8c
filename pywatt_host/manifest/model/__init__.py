"""The typed manifest: frozen data, with every default filled in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag

from pywatt_host.manifest.model.app import App, AppMount, DirectoryMount, Module, Mount
from pywatt_host.manifest.model.auth import AuthScheme, Client, ClientName, Requirement, SchemeName, named
from pywatt_host.manifest.model.base import Deferred, Document, Section, Short, key
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
from pywatt_host.manifest.model.tracing import Tracing
from pywatt_host.manifest.model.workers import Recycle, Workers
from pywatt_host.manifest.problems import KeyPath, display_path
from pywatt_host.manifest.values import Format, ImportPath, SecretTemplate, Version

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
    "Document",
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
    "Recycle",
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
    "Tracing",
    "Vault",
    "Workers",
]


def _schema_kind(value: Any) -> str:
    return "schema" if isinstance(value, dict) else "file"


# A file, or the schema itself.
ConfigSchema: TypeAlias = Annotated[
    Annotated[str, Field(min_length=1), Format("a file name", "write the name of a file, or a mapping"), Tag("file")]
    | Annotated[dict[str, Any], Tag("schema")],
    Discriminator(_schema_kind),
]


class Manifest(Document):
    """A whole manifest after interpolation, profile and overrides. `build` makes a Host from it."""

    version: Version = Field(1, description="Version of the manifest format. The only version is 1.", examples=[1])
    module: Module = key(
        Module,
        "The identity of the module: its id, version, description and labels.",
        {"id": "users", "version": "1.4.0"},
    )
    app: Annotated[App | None, Short(text="import_path")] = key(
        None,
        "The application to serve. A string is its import path, `module:attribute`. A mapping takes more options.",
        "users.api:create_app",
        {"import_path": "users.api:app"},
    )
    mounts: tuple[Mount, ...] = key(
        (),
        "Additional applications and folders of static files, each served under its own URL prefix.",
        [{"route_prefix": "/static", "directory": "./static"}],
        strict=False,
    )
    state: ImportPath | None = key(
        None,
        "Import path of a function `(init, secrets)`, sync or async. The host calls it before it loads the"
        " application, and the result becomes app_state.user_state.",
        "users.state:build",
    )
    config: dict[str, Any] = key(
        dict, "Free-form settings for the application, available as app_state.config.", {"page_size": 50}
    )
    config_schema: ConfigSchema | None = key(
        None,
        "JSON Schema (draft 2020-12) for `config`: a JSON or YAML file, relative to the manifest, or a mapping. The"
        " host checks `config` with it.",
        "config.schema.json",
        {"type": "object", "properties": {"page_size": {"type": "integer"}}},
    )
    server: Server = key(
        Server, "Where the host listens, which proxies it trusts, and its limits and timeouts.", {"listen": ":8080"}
    )
    secrets: Annotated[Secrets, Short(names="keys"), Deferred()] = key(
        Secrets,
        "The secrets by name, where the host looks for them, and whether they rotate. A list of names is short for"
        " `keys`.",
        ["DATABASE_URL", "JWT_SECRET"],
        {"rotate": True, "keys": {"DATABASE_URL": {"description": "Where users live"}}},
    )
    endpoints: Annotated[Endpoints, Short(text="from")] = key(
        AutoEndpoints,
        "Which paths and methods the module serves. `auto`: the application's own routes. A list: these endpoints"
        " and no others. `{from: auto, rules: [...]}`: the application's own routes, with options by path.",
        "auto",
        [{"path": "/api/users", "methods": ["GET", "POST"]}],
        {"from": "auto", "rules": [{"path": "/upload", "body": "1GiB"}]},
    )
    auth: Annotated[dict[SchemeName, Annotated[AuthScheme, Deferred()]], AfterValidator(named)] = key(
        dict,
        "Authentication schemes by name, which endpoints refer to: tokens (jwt, oidc), keys (api_key),"
        " passwords (basic) and client certificates (mtls).",
        {"jwt": {"secret": "${secret:JWT_SECRET}"}},
    )
    clients: dict[ClientName, Annotated[Client, Deferred()]] = key(
        dict,
        "OAuth 2 clients for outbound requests. app_state.http adds an access token to requests to these origins,"
        " and renews it.",
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
        "Databases by name. The one called `default` is app_state.db. A string is short for `{url: ...}`.",
        {"default": "sqlite:///app.db"},
        {"default": {"url": "${secret:DATABASE_URL}", "pool": {"max": 20}}},
    )
    caches: Caches = key(
        dict,
        "Caches by name. The one called `default` is app_state.cache. A string is short for `{url: ...}`.",
        {"default": "memory://"},
        {"default": {"url": "redis://127.0.0.1:6379/0", "ttl": "60s"}},
    )
    health: Annotated[Health, Short(text="path", flag="enabled")] = key(
        Health,
        "Paths for health, liveness and readiness. A path is short for `{path: ...}`. `false` switches all three off.",
        "/health",
        False,
        {"interval": "10s"},
    )
    metrics: Annotated[Metrics, Short(text="path", flag="enabled")] = key(
        lambda: Metrics.model_construct(enabled=False),
        "Prometheus metrics. `true` serves them at the default path, a string is the path, and a mapping takes"
        " more options.",
        True,
        "/metrics",
    )
    channels: Annotated[Channels, Deferred()] = key(
        Channels,
        "How the module communicates with its orchestrator and with its peers.",
        {"ipc": {"listen": "/run/users.sock"}},
    )
    services: Annotated[Services, Deferred()] = key(
        Services,
        "Services that this module offers, and services at fixed addresses that do not announce themselves.",
        {"register": [{"name": "users-api", "type": "api"}]},
    )
    resiliency: Annotated[Resiliency, Deferred()] = key(
        Resiliency,
        "Timeouts, retries and circuit breakers for the requests and messages that this module sends.",
        {
            "policies": {"timeouts": {"fast": "2s"}},
            "targets": {"modules": {"billing": {"timeout": "fast"}}},
        },
    )
    logging: Logging = key(Logging, "Log settings. The host always logs to standard error.", {"level": "debug"})
    tracing: Annotated[Annotated[Tracing, Deferred()] | None, Short(text="endpoint", flag="enabled")] = key(
        None,
        "Traces, sent over OTLP. A string is the endpoint; `true` takes it from the variables OTEL_*; `false` switches"
        " traces off. If omitted, the variables OTEL_* decide, and without them nothing is recorded.",
        "http://127.0.0.1:4318",
        {"endpoint": "http://127.0.0.1:4318", "sample": 0.1},
        False,
    )

    @property
    def module_id(self) -> str:
        """The `module.id`; if it is not set, the name of the manifest's folder."""
        return self.module.id or self.directory.name or "module"

    @property
    def secret_keys(self) -> dict[str, SecretKey]:
        """Every secret by name: the declared ones, and those that a `${secret:NAME}` in the manifest refers to.

        A secret that the manifest refers to is required, unless it is declared with a default.
        """
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
        """Map the path of each value that contains `${secret:NAME}`, such as `app.env.DATABASE_URL`, to the value."""
        return {display_path(path): template for path, template in _templates(self, ())}


def _templates(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, SecretTemplate]]:
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
