"""Compose: one service, its secrets as files, and a NATS server if the manifest uses a local one."""

from __future__ import annotations

from typing import Any

from pywatt_host.export.container import SCRATCH, Container, container, folder_of, health_command
from pywatt_host.export.facts import Exported, ExportOptions, Facts, SecretMount
from pywatt_host.export.text import document, head

FILE = "compose.yaml"
_SECRETS = "/run/secrets"  # the folder in which Compose mounts secrets
_NATS_URL = "nats://nats:4222"


def compose(facts: Facts, options: ExportOptions) -> Exported:
    """The file compose.yaml for a module."""
    own_nats = facts.nats_is_local and options.nats is None
    nats = _NATS_URL if own_nats else options.nats
    several = options.replicas > 1
    inside = container(facts, balanced=several, nats=nats)
    mount = facts.secret_mount(_SECRETS)
    notes = facts.notes(container=True, replicas=options.replicas)
    if facts.manifest.secret_keys and mount is None:
        notes.append("no secrets are mounted; the module reads them from secrets.sources of the manifest")
    if mount is not None:
        names = ", ".join([*facts.required_secrets, *facts.optional_secrets])
        notes.append(f"put each secret into a file in ./secrets that the user of the container can read: {names}")
    for each in inside.certificates:
        files = ", ".join(f"{name} ({path})" for name, path in each.files.items())
        notes.append(f"put the files of {' and '.join(each.keys)} into ./{each.name}: {files}")
    if not inside.probed.answers_probes:
        notes.append(
            "clients need a certificate, and the health check has none: it only checks whether the port accepts"
            " connections; add server.admin for it"
        )
    services: dict[str, Any] = {facts.name: _service(facts, options, inside, mount)}
    volumes: dict[str, Any] = {}
    if own_nats:
        services[facts.name]["depends_on"] = ["nats"]
        services["nats"], volumes["nats"] = _nats(), {}
    data: dict[str, Any] = {"name": facts.name, "services": services}
    if mount is not None:
        data |= _secrets(facts)
    if volumes:
        data["volumes"] = volumes
    return Exported({FILE: head(facts.name, facts.command, notes) + document(data)}, tuple(notes))


def _service(facts: Facts, options: ExportOptions, inside: Container, mount: SecretMount | None) -> dict[str, Any]:
    several = options.replicas > 1
    variables = inside.variables | (mount.variables if mount is not None else {})
    found: dict[str, Any] = {} if options.image is not None else {"build": "."}
    found["image"] = options.image or f"{facts.name}:{facts.version}"
    found[
        "# Compose does not look at exit codes: it also restarts after an invalid manifest (2), with growing delays."
    ] = None
    found["restart"] = "on-failure"
    found["# longer than server.timeouts drain_delay and shutdown together"] = None
    found["stop_grace_period"] = f"{facts.grace(balanced=several)}s"
    found["# enough for server.limits.connections"] = None
    found["ulimits"] = {"nofile": facts.descriptors}
    found["environment"] = {name: _plain(value) for name, value in variables.items()} | {
        name: f"${{{name}:?the manifest reads it}}" for name in facts.variables
    }
    ports = [*(port.number for port in inside.http), *_others(inside)]
    found["ports"] = [_published(port, inside, options.replicas) for port in ports]
    found["healthcheck"] = _health(facts, inside)
    found |= {
        "read_only": True,
        "tmpfs": [SCRATCH],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    if mount is not None and facts.required_secrets:
        found["secrets"] = [_mounted(name, mount) for name in facts.required_secrets]
    if inside.certificates:
        found["# The folders as a whole: the host sees new files in them."] = None
        found["volumes"] = [f"./{each.name}:{folder_of(each)}:ro" for each in inside.certificates]
    if several:
        found["deploy"] = {"replicas": options.replicas}
    return found


def _plain(text: str) -> str:
    """Escape the text, since Compose replaces variables in values."""
    return text.replace("$", "$$")


def _others(inside: Container) -> list[int]:
    return [port for port in (inside.redirect, inside.channel) if port is not None]


def _published(port: int, inside: Container, replicas: int) -> dict[str, Any]:
    """The port on the machine. Only this machine can reach it if the manifest listens on local addresses only. Several
    containers share a range of ports, and each of them takes one."""
    found: dict[str, Any] = {
        "target": port,
        "published": f"{port}-{port + replicas - 1}" if replicas > 1 else port,
    }
    return found | ({"host_ip": "127.0.0.1"} if inside.local and port != inside.channel else {})


def _mounted(name: str, mount: SecretMount) -> Any:
    return name if mount.path == _SECRETS else {"source": name, "target": f"{mount.path.rstrip('/')}/{name}"}


def _health(facts: Facts, inside: Container) -> dict[str, Any]:
    """The health check runs Python, which every image with the host has. It checks readiness, since `depends_on` waits
    for it."""
    return {
        "test": ["CMD", *map(_plain, health_command(facts, inside))],
        "interval": "5s",
        "timeout": "3s",
        "retries": 3,
        "start_period": "30s",
    }


def _secrets(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"file": f"./secrets/{name}"} for name in facts.required_secrets}
    for name in facts.optional_secrets:
        found[f"# {name}: {{file: ./secrets/{name}}} # not required; to use it, also list it in the service"] = None
    if not facts.required_secrets:
        return dict.fromkeys(found)
    return {"secrets": found}


def _nats() -> dict[str, Any]:
    return {
        "image": "nats:2",
        "command": ["-js", "-sd", "/data"],
        "restart": "unless-stopped",
        "volumes": ["nats:/data"],
    }
