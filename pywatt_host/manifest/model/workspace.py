"""wattson.yaml: several modules that `pywatt-host up` runs together on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.app import EnvText, ModuleId
from pywatt_host.manifest.model.base import Deferred, Document, Kind, Kinds, Names, Section, Short, key
from pywatt_host.manifest.model.operations import Logging
from pywatt_host.manifest.model.secrets import SecretKey, SecretSource
from pywatt_host.manifest.model.stores import Caches, Databases
from pywatt_host.manifest.model.tls import DeclaredTls, ServerTls, declared
from pywatt_host.manifest.model.tracing import Tracing
from pywatt_host.manifest.values import (
    AllowedHost,
    EnvName,
    Int,
    PositiveDuration,
    SecretName,
    SecretTemplate,
    Size,
    TcpAddress,
    TcpListen,
    Version,
)


class Gateway(Section):
    """One HTTP listener in front of all modules."""

    listen: TcpListen = key(TcpAddress("127.0.0.1", 9900), "Address that the gateway listens on.", "127.0.0.1:9900")
    allowed_hosts: tuple[AllowedHost, ...] = key(
        (),
        "Names that clients may use for the gateway and the modules in the Host header, beside loopback names and the"
        " name in `listen`: `name`, `*.name`, addresses, or `*` for any. A request with another Host is answered with"
        " 421.",
        ["box.lan"],
        strict=False,
    )
    tls: Annotated[ServerTls, Deferred()] | None = key(
        None,
        "TLS settings of the gateway: its certificate, and which clients it accepts. Paths are relative to this file."
        " If omitted, the gateway is plain HTTP.",
        {"cert": "tls/gateway.pem", "key": "tls/gateway.key"},
    )


class Dependency(Section):
    """The condition that another module must meet before this module is started."""

    condition: Literal["service_started", "service_healthy"] = key(
        "service_started",
        "`service_started`: the other module has announced itself. `service_healthy`: its checks pass as well.",
        "service_healthy",
    )


class WorkspaceModule(Section):
    """One module: the manifest of a PyWatt Host module, or the command of any program that speaks the protocol."""

    kinds = Kinds(
        (Kind("command", without=frozenset(("manifest", "profile"))),),
        required=("manifest",),
        without=frozenset(("working_dir", "command")),
    )

    manifest: str | None = key(
        None,
        "Path of a manifest, or of a Python file with a decorated function (`users.py`, or `users.py:create_app` if it"
        " has several), relative to this file. `up` runs it with pywatt-host run.",
        "users/pywatt.yaml",
        "users.py",
        min_length=1,
    )
    command: tuple[Annotated[str, Field(min_length=1)], ...] | None = key(
        None, "A program and its arguments. No shell is used.", ["./legacy-module"], strict=False, min_length=1
    )
    profile: str | None = key(None, "Profile of the manifest.", "dev", min_length=1)
    working_dir: str = key(".", "Working directory of the command, relative to this file.", "legacy", min_length=1)
    env: dict[EnvName, EnvText] = key(
        dict, "Variables in init.env, which override the environment of the module. Not for secrets.", {"MODE": "dev"}
    )
    depends_on: Annotated[dict[ModuleId, Annotated[Dependency, Short(text="condition")]], Names()] = key(
        dict,
        "Modules that must run before this one starts. A list of names is short for `service_started`.",
        {"billing": {"condition": "service_healthy"}},
        ["billing"],
    )
    replicas: Int = key(1, "Number of processes of this module. Each of them has its own port.", 2, ge=1, le=64)
    channel: Literal["stdio", "ipc", "tcp"] = key(
        "stdio", "Channel that carries the messages after the handshake on standard input and output.", "ipc"
    )
    restart: Literal["always", "on-failure", "no"] = key(
        "on-failure", "Whether the module is started again when it ends. The backoff is 1s to 30s.", "always"
    )
    secrets: tuple[SecretName, ...] | None = key(
        None,
        "The only secrets that the module may ask for. If omitted: the ones that its manifest declares or refers to,"
        " and none for a module with a command.",
        ["DATABASE_URL"],
        strict=False,
    )

    @model_validator(mode="after")
    def _one_kind(self) -> WorkspaceModule:
        if (self.manifest is None) == (self.command is None):
            raise PydanticCustomError("conflict", "a module needs exactly one of manifest and command", {})
        if self.command is not None and self.profile is not None:
            raise PydanticCustomError("conflict", "profile is only for a module with a manifest", {"key": "profile"})
        if self.manifest is not None and "working_dir" in self.model_fields_set:
            message = (
                "working_dir is only for a module with a command (paths in a manifest are relative to its own folder)"
            )
            raise PydanticCustomError("conflict", message, {"key": "working_dir"})
        return self


class WorkspaceSecrets(Section):
    """Where the secrets of the modules come from: the same sources as in a manifest, except `orchestrator`."""

    sources: tuple[Annotated[SecretSource, Short(text="kind")], ...] | None = key(
        None,
        "Where `up` looks for secrets. The first source that has a secret wins. If omitted: the environment, then"
        " .env beside this file.",
        ["env", {"dotenv": ".env"}],
        strict=False,
        min_length=1,
    )
    interval: PositiveDuration = key(5.0, "How often `up` polls the sources that do not report changes.", "30s")
    keys: Annotated[dict[SecretName, SecretKey], Names()] = key(
        dict,
        "Secrets that `up` must have before it starts any module. A list of names is short for secrets without"
        " options.",
        {"JWT": {}},
    )


class WorkspaceTimeouts(Section):
    """How long modules may take, and how often they get a heartbeat."""

    start: PositiveDuration = key(60.0, "How long a process may take from its start to its announce message.", "30s")
    stop: PositiveDuration = key(
        30.0, "How long a process may take from the `shutdown` message to its end. Then it is killed.", "10s"
    )
    heartbeat: PositiveDuration = key(5.0, "How often `up` sends a heartbeat to each module.", "1s")
    request: PositiveDuration = key(30.0, "How long a message between modules may take if it has no deadline.", "5s")


class WorkspaceLimits(Section):
    """Limits for the modules."""

    frame: Size = key(16 * 1024**2, "Maximum size of one message on a channel.", "1MiB")
    heartbeat_missed: Int = key(
        3, "Number of unanswered heartbeats after which a module is killed and started again.", 5, ge=1
    )


class Workspace(Document):
    """A whole wattson.yaml."""

    version: Version = Field(
        1, description="Version of the format of wattson.yaml. The only version is 1.", examples=[1]
    )
    gateway: Gateway = key(Gateway, "One HTTP listener in front of all modules.", {"listen": "127.0.0.1:9900"})
    control: str = key(
        "auto",
        "Control socket of `up`. It takes the same values as server.control in a manifest.",
        "run/wattson.sock",
        min_length=1,
    )
    secrets: Annotated[WorkspaceSecrets, Short(names="keys")] = key(
        WorkspaceSecrets, "Where the secrets of the modules come from.", {"sources": ["env", {"dotenv": ".env"}]}
    )
    databases: Databases = key(
        dict, "Databases that modules use as orchestrator:NAME.", {"shared": "postgresql://users@db/users"}
    )
    caches: Caches = key(dict, "Caches that modules use as orchestrator:NAME.", {"shared": "memory://"})
    modules: dict[ModuleId, WorkspaceModule] = Field(
        description="The modules, by id.", examples=[{"users": {"manifest": "users/pywatt.yaml"}}], min_length=1
    )
    timeouts: WorkspaceTimeouts = key(WorkspaceTimeouts, "How long modules may take.", {"stop": "10s"})
    limits: WorkspaceLimits = key(WorkspaceLimits, "Limits for the modules.", {"frame": "1MiB"})
    tracing: Annotated[Annotated[Tracing, Deferred()] | None, Short(text="endpoint", flag="enabled")] = key(
        None,
        "Traces. `up` collects the spans of all modules, and passes them on to the endpoint if one is given here or by"
        " the variables OTEL_*. `false` switches that off.",
        "http://127.0.0.1:4318",
        False,
    )
    logging: Logging = key(
        Logging, "Log settings of `up` itself. The logs of the modules are passed through.", {"level": "debug"}
    )

    def declared_tls(self) -> Iterator[DeclaredTls]:
        """The TLS section of the gateway, if there is one."""
        if self.gateway.tls is not None:
            yield declared(("gateway", "tls"), self.gateway.tls)

    @property
    def secret_keys(self) -> dict[str, SecretKey]:
        """Every secret that `up` must have: those that `secrets` declares, and those in the URLs of the stores, in the
        certificate of the gateway and in the headers of traces."""
        found = dict(self.secrets.keys)
        values: list[object] = [each.url for each in self.databases.values()]
        values += [each.url for each in self.caches.values()]
        for _, _, tls in self.declared_tls():
            values += [tls.cert, tls.key, tls.client_ca]
        values += self.tracing.headers.values() if self.tracing is not None else ()
        for value in values:
            for name in value.names if isinstance(value, SecretTemplate) else ():
                found.setdefault(name, SecretKey.model_construct())
        return found
