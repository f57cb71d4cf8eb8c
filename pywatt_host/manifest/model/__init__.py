"""The typed manifest: frozen data, all of it, with every default filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from pywatt_host.manifest.model.app import App, AppMount, DirectoryMount, Module, Mount
from pywatt_host.manifest.model.base import Section, Short, key
from pywatt_host.manifest.model.endpoints import AutoEndpoints, Endpoint, Endpoints, Rule
from pywatt_host.manifest.model.operations import AccessLog, Health, Logging, Metrics
from pywatt_host.manifest.model.server import Admin, Cors, Limits, Server, Timeouts
from pywatt_host.manifest.values import to_int

__all__ = [
    "AccessLog",
    "Admin",
    "App",
    "AppMount",
    "AutoEndpoints",
    "Cors",
    "DirectoryMount",
    "Endpoint",
    "Health",
    "Limits",
    "Logging",
    "Manifest",
    "Metrics",
    "Module",
    "Mount",
    "Rule",
    "Section",
    "Server",
    "Short",
    "Timeouts",
]


class Manifest(Section):
    """A whole manifest after interpolation, profile and overrides: the recipe that `build` makes a Host from."""

    version: Annotated[Literal[1], BeforeValidator(to_int)] = Field(
        1, description="Version of this format.", examples=[1]
    )
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
    config: dict[str, Any] = key(dict, "Free-form, for the application: app_state.config.", {"page_size": 50})
    server: Server = key(Server, "Where the host listens, whom it trusts and what it bounds.", {"listen": ":8080"})
    endpoints: Annotated[Endpoints, Short(text="from")] = key(
        AutoEndpoints,
        "`auto`: the application's own routes. A list: these and nothing else. `{from: auto, rules}`: the"
        " application's own routes, with options by path.",
        "auto",
        [{"path": "/api/users", "methods": ["GET", "POST"]}],
        {"from": "auto", "rules": [{"path": "/upload", "body": "1GiB"}]},
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
    logging: Logging = key(Logging, "Logs, always on standard error.", {"level": "debug"})

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)

    @property
    def directory(self) -> Path:
        """The folder that every relative path of the manifest is relative to. Absolute."""
        return self._directory

    @property
    def source(self) -> Path | None:
        """The file it was read from; None when it was made in code."""
        return self._source

    @property
    def module_id(self) -> str:
        """`module.id`, else the name of the manifest's folder."""
        return self.module.id or self._directory.name or "module"

    def resolve(self, path: str) -> Path:
        """A path of the manifest, absolute."""
        return self._directory / path
