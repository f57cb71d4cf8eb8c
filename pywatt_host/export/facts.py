"""What a deployment has to know of a manifest, whatever it is written for. No value of a secret is among it: a manifest
has none but by reference, and sources that may hold one are left where they are."""

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

DRAIN_DELAY = 5.0  # seconds that a load balancer is given to notice that an instance goes
_MARGIN = 5  # seconds between the host's own limit and the kill
_LONGEST_NAME = 40  # a DNS label has 63, of which suffixes take some
_NATS = "PYWATT__CHANNELS__NATS__SERVERS"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the manifest does not say. `directory` is the module's folder on a machine of systemd's."""

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
    """File name to text, and what to know before they are used: a line each."""

    files: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecretMount:
    """Where secrets are as files, and the variables that make the host look there."""

    path: str
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """One manifest. `target` is what `run` is given in the module's folder, `variables` are those that the manifest
    reads and that have to be set, `command` is how the files are made again."""

    manifest: Manifest
    target: str
    profile: str
    variables: tuple[str, ...]
    command: str

    @property
    def name(self) -> str:
        """The module's id as a DNS label (RFC 1035), which is a name to all three."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.manifest.module_id.lower()).strip("-")
        plain = plain if plain[:1].isalpha() else f"module-{plain}"
        return plain[:_LONGEST_NAME].rstrip("-")

    @property
    def version(self) -> str:
        """The module's version as the tag of an image; `latest` without one."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.manifest.module.version or "").lstrip("-.")
        return plain[:60].rstrip("-._") or "latest"

    @property
    def required_secrets(self) -> list[str]:
        return [name for name, key in self.manifest.secret_keys.items() if key.required]

    @property
    def optional_secrets(self) -> list[str]:
        return [name for name, key in self.manifest.secret_keys.items() if not key.required]

    def drain_delay(self, *, balanced: bool) -> float:
        """Seconds; `balanced`: somebody chooses between instances and must notice that one goes."""
        declared = self.manifest.server.timeouts.drain_delay
        return max(declared, DRAIN_DELAY) if balanced else declared

    def grace(self, *, balanced: bool) -> int:
        """Seconds until a kill: what draining may take, and a margin."""
        return math.ceil(self.drain_delay(balanced=balanced) + self.manifest.server.timeouts.shutdown) + _MARGIN

    def settings(self, *, balanced: bool, nats: str | None) -> dict[str, str]:
        """The overrides that every kind of deployment needs."""
        found: dict[str, str] = {}
        if self.manifest.module.id is None:  # it is the folder's name, which may be another one there
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
        """Whether the manifest's NATS is on the machine that runs it."""
        nats = self.manifest.channels.nats
        servers = nats.servers if nats is not None else ()
        return any(url.startswith(DEV_NATS) or is_loopback(urlsplit(url).hostname or "") for url in servers)

    def secret_mount(self, usual: str, *, anywhere: bool = True) -> SecretMount | None:
        """Where to mount the secrets: at the folder that the manifest looks in, else at `usual`, which is put before
        the sources that it has. None where there are no secrets, or where they come from sources that may not be
        written out, since what stands in them may be secret itself. Not `anywhere`: only `usual` can be mounted."""
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
        """What to know before it is used: a line each."""
        return list(self._notes(container, replicas))

    def _notes(self, container: bool, replicas: int) -> Iterator[str]:
        manifest = self.manifest
        if self.variables:
            yield f"the manifest reads variables that must be set there: {', '.join(self.variables)}"
        for kind in ("databases", "caches"):
            for name, store in getattr(manifest, kind).items():
                scheme = scheme_of(store.url)
                if scheme is not None and scheme.endswith("+dev"):
                    yield f"{kind}.{name}: {scheme}:// is for dev and up only; give it another url in a profile"
                elif scheme == "sqlite" and container:
                    yield f"{kind}.{name}: a file in a container goes with it; mount a volume, and name that in the url"
                elif scheme == "sqlite" and replicas > 1:
                    yield f"{kind}.{name}: each instance has a file of its own"
        ipc = manifest.channels.ipc
        if ipc is not None and ipc.listen is not None and container:
            yield f"channels.ipc.listen: {ipc.listen} must be in a folder that can be written; mount one"
        if not manifest.health.enabled:
            yield "health is off: whether an instance is ready can only be told by its port"
        tls = getattr(manifest.server, "tls", None)
        if getattr(tls, "client_ca", None) is not None and manifest.server.admin is None:
            yield "server.tls.client_ca: probes have no certificate; give them a server.admin"
        if "unix" in manifest.server.trusted_proxies and container:
            yield "server.trusted_proxies: a container listens on TCP; name the network of the proxy in place of unix"


def _written(source: SecretSource) -> Any:
    return source.kind if source.kind is not None else {"dotenv": source.dotenv}
