"""wattson.yaml: several modules that `pywatt-host up` runs together on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.app import MODULE_ID, EnvText
from pywatt_host.manifest.model.base import Names, Section, Short, key
from pywatt_host.manifest.model.operations import Logging
from pywatt_host.manifest.model.secrets import SecretKey, SecretSource
from pywatt_host.manifest.model.stores import Caches, Databases
from pywatt_host.manifest.values import (
    SECRET_NAME,
    Int,
    PositiveDuration,
    SecretTemplate,
    Size,
    TcpAddress,
    TcpListen,
    Version,
)

ModuleName: TypeAlias = Annotated[str, Field(pattern=MODULE_ID)]


class Gateway(Section):
    """One HTTP listener in front of all modules."""

    listen: TcpListen = key(TcpAddress("127.0.0.1", 9900), "Where it listens.", "127.0.0.1:9900")


class Dependency(Section):
    """What a module waits for before it is started."""

    condition: Literal["service_started", "service_healthy"] = key(
        "service_started",
        "`service_started`: the other has announced itself; `service_healthy`: its checks pass as well.",
        "service_healthy",
    )


class WorkspaceModule(Section):
    """One module: ours by its manifest, or any program that speaks the protocol by its command."""

    manifest: str | None = key(
        None, "A manifest, relative to this file; run as pywatt-host run.", "users/pywatt.yaml", min_length=1
    )
    command: tuple[Annotated[str, Field(min_length=1)], ...] | None = key(
        None, "A program and its arguments; it is no shell.", ["./legacy-module"], strict=False, min_length=1
    )
    profile: str | None = key(None, "Profile of the manifest.", "dev", min_length=1)
    working_dir: str = key(".", "Working directory of the command, relative to this file.", "legacy", min_length=1)
    env: dict[str, EnvText] = key(
        dict, "init.env: laid over the environment of the module. Not for secrets.", {"MODE": "dev"}
    )
    depends_on: Annotated[dict[ModuleName, Annotated[Dependency, Short(text="condition")]], Names()] = key(
        dict,
        "Modules that must run first. A list of names is short for it.",
        {"billing": {"condition": "service_healthy"}},
        ["billing"],
    )
    replicas: Int = key(1, "How many processes of it run; each has a port of its own.", 2, ge=1, le=64)
    channel: Literal["stdio", "ipc", "tcp"] = key(
        "stdio", "What its messages run over after the handshake on standard input and output.", "ipc"
    )
    restart: Literal["always", "on-failure", "no"] = key(
        "on-failure", "Whether it is started again when it ends: with a backoff of 1s to 30s.", "always"
    )
    secrets: tuple[Annotated[str, Field(pattern=SECRET_NAME)], ...] | None = key(
        None, "The only secrets that it may ask for. Left out: all.", ["DATABASE_URL"], strict=False
    )

    @model_validator(mode="after")
    def _one_kind(self) -> WorkspaceModule:
        if (self.manifest is None) == (self.command is None):
            raise PydanticCustomError("conflict", "a module has either manifest or command", {})
        if self.command is not None and self.profile is not None:
            raise PydanticCustomError("conflict", "only a manifest has profiles", {"key": "profile"})
        if self.manifest is not None and "working_dir" in self.model_fields_set:
            message = "only a command has a working directory; a manifest stays where it is"
            raise PydanticCustomError("conflict", message, {"key": "working_dir"})
        return self


class WorkspaceSecrets(Section):
    """Where the secrets of the modules come from: the same sources as in a manifest, but for `orchestrator`."""

    sources: tuple[Annotated[SecretSource, Short(text="kind")], ...] | None = key(
        None,
        "The first that has a secret wins. Left out: the environment, then .env beside this file.",
        ["env", {"dotenv": ".env"}],
        strict=False,
        min_length=1,
    )
    interval: PositiveDuration = key(5.0, "How often sources that can only be asked are looked at.", "30s")
    keys: Annotated[dict[Annotated[str, Field(pattern=SECRET_NAME)], SecretKey], Names()] = key(
        dict, "Secrets that `up` must have before it starts anything. A list of names is short for it.", {"JWT": {}}
    )


class WorkspaceTimeouts(Section):
    """How long modules may take, and how often they are asked."""

    start: PositiveDuration = key(60.0, "From the start of a process to its announce.", "30s")
    stop: PositiveDuration = key(30.0, "From `shutdown` to the end of a process, before it is killed.", "10s")
    heartbeat: PositiveDuration = key(5.0, "How often each module is sent a heartbeat.", "1s")
    request: PositiveDuration = key(
        30.0, "How long a message between modules may take where it carries no deadline.", "5s"
    )


class WorkspaceLimits(Section):
    """What a module may cost."""

    frame: Size = key(16 * 1024**2, "Most octets of one message on a channel.", "1MiB")
    heartbeat_missed: Int = key(3, "Unanswered heartbeats after which a module is killed and started again.", 5, ge=1)


class Workspace(Section):
    """A whole wattson.yaml."""

    version: Version = Field(1, description="Version of this format.", examples=[1])
    gateway: Gateway = key(Gateway, "One HTTP listener in front of all modules.", {"listen": "127.0.0.1:9900"})
    control: str = key("auto", "The control socket, as server.control of a manifest.", "run/wattson.sock", min_length=1)
    secrets: Annotated[WorkspaceSecrets, Short(names="keys")] = key(
        WorkspaceSecrets, "Where the secrets of the modules come from.", {"sources": ["env", {"dotenv": ".env"}]}
    )
    databases: Databases = key(
        dict, "Databases that modules use as orchestrator:NAME.", {"shared": "postgresql://users@db/users"}
    )
    caches: Caches = key(dict, "Caches that modules use as orchestrator:NAME.", {"shared": "memory://"})
    modules: dict[ModuleName, WorkspaceModule] = Field(
        description="The modules, by id.", examples=[{"users": {"manifest": "users/pywatt.yaml"}}], min_length=1
    )
    timeouts: WorkspaceTimeouts = key(WorkspaceTimeouts, "How long modules may take.", {"stop": "10s"})
    limits: WorkspaceLimits = key(WorkspaceLimits, "What a module may cost.", {"frame": "1MiB"})
    logging: Logging = key(Logging, "Logs of `up` itself; those of the modules pass through.", {"level": "debug"})

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)

    @property
    def directory(self) -> Path:
        """The folder that every relative path is relative to. Absolute."""
        return self._directory

    @property
    def source(self) -> Path | None:
        """The file it was read from; None when it was made of manifests."""
        return self._source

    @property
    def secret_keys(self) -> dict[str, SecretKey]:
        """Every secret that `up` must have: those that `secrets` declares, and those in the URLs of its stores."""
        found = dict(self.secrets.keys)
        urls = [*(each.url for each in self.databases.values()), *(each.url for each in self.caches.values())]
        for url in urls:
            for name in url.names if isinstance(url, SecretTemplate) else ():
                found.setdefault(name, SecretKey.model_construct())
        return found

    def resolve(self, path: str) -> Path:
        """A path of the file, absolute."""
        return self._directory / path
