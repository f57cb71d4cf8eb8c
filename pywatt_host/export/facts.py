"""What a deployment of any kind needs to know about a manifest. It contains no value of a secret: a manifest only
refers to secrets, and secret sources whose settings may be secret are not written out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model import SecretSource
from pywatt_host.manifest.model.channels import DEV_NATS
from pywatt_host.manifest.model.stores import scheme_of
from pywatt_host.manifest.values import format_duration
from pywatt_host.manifest.values.addresses import is_loopback
from pywatt_host.net.descriptors import descriptors_needed

DRAIN_DELAY = 5.0  # seconds for a load balancer to notice that an instance stops
_KILL_MARGIN = 5  # seconds between the end of the host's own timeouts and SIGKILL
_MAX_NAME = 40  # characters; a DNS label may have 63, and suffixes need some of them
_NATS = "PYWATT__CHANNELS__NATS__SERVERS"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the manifest does not say about a deployment. `cpu` and `memory` are quantities of Kubernetes; `directory`
    is the module's folder on a machine with systemd."""

    replicas: int = 1
    image: str | None = None
    secret: str | None = None
    nats: str | None = None
    cpu: str | None = None
    memory: str | None = None
    directory: str | None = None
    socket: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """The generated files by name, and notes for the reader, one line each. `beside` has further files, which are
    written into a folder only, and only where they do not exist."""

    files: Mapping[str, str]
    notes: tuple[str, ...]
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecretMount:
    """The folder that has the secrets as files, and the environment variables that make the host read it."""

    path: str
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a deployment needs to know about one manifest. `target` is the argument of `run` in the module's folder,
    `variables` are the environment variables that the manifest reads, `command` generates the files again."""

    manifest: Manifest
    target: str
    profile: str
    variables: tuple[str, ...]
    command: str

    @property
    def name(self) -> str:
        """The module's id as a DNS label (RFC 1035), which is a valid name in all three kinds of deployment."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.manifest.module_id.lower()).strip("-")
        plain = plain if plain[:1].isalpha() else f"module-{plain}"
        return plain[:_MAX_NAME].rstrip("-")

    @property
    def version(self) -> str:
        """The module's version as the tag of an image; `latest` if it has none."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.manifest.module.version or "").lstrip("-.")
        return plain[:60].rstrip("-._") or "latest"

    @property
    def required_secrets(self) -> list[str]:
        return [name for name, key in self.manifest.secret_keys.items() if key.required]

    @property
    def optional_secrets(self) -> list[str]:
        return [name for name, key in self.manifest.secret_keys.items() if not key.required]

    def drain_delay(self, *, balanced: bool) -> float:
        """The drain delay in seconds. `balanced`: a load balancer chooses between instances, and needs time to notice
        that one stops."""
        declared = self.manifest.server.timeouts.drain_delay
        return max(declared, DRAIN_DELAY) if balanced else declared

    def grace(self, *, balanced: bool) -> int:
        """The seconds from the stop signal to SIGKILL: the longest time that draining takes, and a margin."""
        return math.ceil(self.drain_delay(balanced=balanced) + self.manifest.server.timeouts.shutdown) + _KILL_MARGIN

    @property
    def descriptors(self) -> int:
        """How many file descriptors the host needs."""
        limits = self.manifest.server.limits
        return descriptors_needed(limits.connections, limits.concurrency)

    def settings(self, *, balanced: bool, nats: str | None) -> dict[str, str]:
        """The environment variables that override the manifest in every kind of deployment."""
        found: dict[str, str] = {}
        if self.manifest.module.id is None:  # the id is the folder's name, which may differ in the deployment
            found["PYWATT__MODULE__ID"] = self.manifest.module_id
        delay = self.drain_delay(balanced=balanced)
        if delay != self.manifest.server.timeouts.drain_delay:
            found["PYWATT__SERVER__TIMEOUTS__DRAIN_DELAY"] = format_duration(delay)
        if nats is not None and self.uses_nats:
            found[_NATS] = nats
        return found

    @property
    def uses_nats(self) -> bool:
        return self.manifest.channels.nats is not None

    @property
    def nats_is_local(self) -> bool:
        """Whether the manifest uses a NATS server on its own machine."""
        nats = self.manifest.channels.nats
        servers = nats.servers if nats is not None else ()
        return any(url.startswith(DEV_NATS) or is_loopback(urlsplit(url).hostname or "") for url in servers)

    def secret_mount(self, usual: str, *, anywhere: bool = True) -> SecretMount | None:
        """Where to mount the secrets: in the folder that the manifest reads, else in `usual`, which becomes the first
        of the sources. Without `anywhere`, only `usual` can be mounted. None if there are no secrets, or if a source is
        not written out because its settings may be secret."""
        if not self.manifest.secret_keys:
            return None
        declared = self.manifest.secrets.sources
        if declared is None:
            declared = (SecretSource(kind="orchestrator"), SecretSource(kind="env"))
        folders = [source.directory for source in declared if source.directory is not None]
        if anywhere:
            for folder in folders:
                if folder.startswith("/"):
                    return SecretMount(folder)
        if any(source.vault or source.command or source.file for source in declared):
            return None
        sources = [_written(source) for source in declared if source.directory is None]
        return SecretMount(usual, {"PYWATT__SECRETS__SOURCES": json.dumps([{"directory": usual}, *sources])})

    def notes(self, *, container: bool, replicas: int) -> list[str]:
        """Notes for the reader of the files, one line each."""
        return list(self._notes(container, replicas))

    def _notes(self, container: bool, replicas: int) -> Iterator[str]:
        manifest = self.manifest
        if self.variables:
            yield f"set the variables that the manifest reads: {', '.join(self.variables)}"
        for kind in ("databases", "caches"):
            for name, store in getattr(manifest, kind).items():
                scheme = scheme_of(store.url)
                if scheme is not None and scheme.endswith("+dev"):
                    yield f"{kind}.{name}: {scheme}:// works under dev and up only; set another url in a profile"
                elif scheme == "sqlite" and container:
                    yield f"{kind}.{name}: the database file is lost with its container; set a url on a mounted volume"
                elif scheme == "sqlite" and replicas > 1:
                    yield f"{kind}.{name}: each instance has its own database file"
        ipc = manifest.channels.ipc
        if ipc is not None and ipc.listen is not None and container:
            yield f"channels.ipc.listen: {ipc.listen} needs a folder that can be written to; mount one"
        if not manifest.health.enabled:
            yield "health is off: the probes only check whether the port accepts connections"
        if "unix" in manifest.server.trusted_proxies and container:
            yield "server.trusted_proxies: a container listens on TCP; replace unix by the network of the proxy"


def _written(source: SecretSource) -> Any:
    return source.kind if source.kind is not None else {"dotenv": source.dotenv}
