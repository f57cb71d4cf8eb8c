"""systemd: a service that reports when it is ready, and that systemd restarts depending on its exit code. With
`--socket`, also a socket unit, which stays open while the service restarts. For several instances, a template and a
target that starts all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pywatt_host.export.facts import Exported, ExportOptions, Facts
from pywatt_host.export.text import head
from pywatt_host.export.tls_files import Placed, TlsFiles, listed, tls_files
from pywatt_host.export.units import HARDENED, assignment, command, unit
from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model.server import Server
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.manifest.values.addresses import dump_address

_PRIVILEGED_PORTS_END = 1024  # ports below need a privilege
_HARD_LIMIT = 524288  # of file descriptors: the default of systemd
_VARIABLE = re.compile(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes into the units. `own` is the name of the service's folders, which contains the instance if there are
    several; `listen` and `admin` are its addresses; `instances` are the names of the instances; `socket`: systemd holds
    the sockets."""

    facts: Facts
    options: ExportOptions
    own: str
    listen: tuple[Address, ...]
    admin: tuple[Address, ...]
    instances: tuple[int, ...]

    @property
    def unit(self) -> str:
        return f"{self.facts.name}@" if self.instances else self.facts.name

    @property
    def socket(self) -> bool:
        handed = any(isinstance(each, SystemdAddress | FdAddress) for each in self.facts.manifest.server.listen)
        return self.options.socket or handed

    @property
    def folder(self) -> str:
        return self.options.directory or f"/srv/{self.facts.name}"


def systemd(facts: Facts, options: ExportOptions) -> Exported:
    """The systemd units for a module."""
    plan = _planned(facts, options)
    notes = facts.notes(container=False, replicas=options.replicas)
    if facts.manifest.secret_keys and facts.secret_mount("%d", anywhere=False) is None:
        notes.append("no credentials are loaded; the module reads them from secrets.sources of the manifest")
    elif facts.manifest.secret_keys:
        names = ", ".join([*facts.required_secrets, *facts.optional_secrets])
        notes.append(
            f"put each secret into a file in /etc/{facts.name}/secrets that only root can read (0600): {names}"
        )
    notes += _tls_notes(plan)
    if plan.instances and len(facts.manifest.server.listen) > 1:
        notes.append("server.listen: each instance has one address, derived from the first")
    files = {f"{plan.unit}.service": head(facts.name, facts.command, notes) + _service(plan)}
    if plan.socket:
        files[f"{plan.unit}.socket"] = head(facts.name, facts.command, []) + _socket(plan)
    if plan.instances:
        files[f"{facts.name}.target"] = head(facts.name, facts.command, []) + _target(plan)
    return Exported(files, tuple(notes))


def _tls_notes(plan: _Plan) -> list[str]:
    server = plan.facts.manifest.server
    notes = []
    if tls_files(plan.facts.manifest):
        notes.append(
            "certificates are credentials, which systemd reads at the start: restart the service to renew them"
        )
    if server.tls is not None and server.tls.redirect is not None and plan.instances:
        notes.append("server.tls.redirect: instances have none, since they would need the same port")
    if plan.socket and len({repr(server.own_tls(number)) for number in range(len(server.listen))}) > 1:
        notes.append("server.listen: with a socket unit, all listeners have the same TLS settings")
    return notes


def _credential(files: TlsFiles, name: str) -> str:
    """The name of a file of a certificate as a credential."""
    return name if files.name in ("tls", "client-ca") else f"{files.name}.{name}"


def _placed_files(plan: _Plan) -> Placed:
    return Placed(plan.facts.manifest, lambda files, name: f"%d/{_credential(files, name)}")


def _planned(facts: Facts, options: ExportOptions) -> _Plan:
    server, several = facts.manifest.server, options.replicas > 1
    own = f"{facts.name}-%i" if several else facts.name
    listen = tuple(_placed(each, own, 8080, "http.sock") for each in server.listen)
    admin = tuple(_placed(each, own, 9090, "admin.sock") for each in server.admin.listen) if server.admin else ()
    instances: tuple[int, ...] = ()
    if several:
        # One address for each instance: the name of the instance is its port, or the number in the name of its folder.
        first = listen[0]
        start = first.port if isinstance(first, TcpAddress) else 1
        instances = tuple(range(start, start + options.replicas))
        listen = (first,)
        if any(isinstance(each, TcpAddress) for each in admin):
            admin = (UnixAddress(f"/run/{own}/admin.sock"),)
    return _Plan(facts, options, own, listen, admin, instances)


def _placed(address: Address, own: str, port: int, name: str) -> Address:
    """The address of the service: Unix sockets move to its folder in /run, and a port 0 becomes the default port."""
    if isinstance(address, UnixAddress):
        path = PurePosixPath(address.path)
        kept = str(path.parent) == f"/run/{own}"
        return address if kept else replace(address, path=f"/run/{own}/{path.name.replace('%', '%%') or name}")
    if isinstance(address, TcpAddress):
        return address if address.port else replace(address, port=port)
    return TcpAddress("127.0.0.1", port)


def _written(address: Address, plan: _Plan) -> str | dict[str, str]:
    """An address in the form of the manifest, for a unit. `%` begins a specifier."""
    if isinstance(address, TcpAddress) and plan.instances:
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:%i"
    return dump_address(address)


def _secured(server: Server) -> int:
    """The number of the first listener with TLS, else of the first one: the sockets of systemd get its settings."""
    return next((number for number in range(len(server.listen)) if server.tls_of(number) is not None), 0)


def _environment(plan: _Plan) -> dict[str, str]:
    """The environment variables of the service. `%` begins a specifier."""
    facts, server = plan.facts, plan.facts.manifest.server
    several = bool(plan.instances)
    found = {"PYWATT_PROFILE": facts.profile} if facts.profile else {}
    found |= facts.settings(balanced=several, nats=plan.options.nats)
    found = {name: value.replace("%", "%%") for name, value in found.items()}
    placed = _placed_files(plan)
    if plan.socket:
        if server.listen != (SystemdAddress(),) or placed.listeners_have_files:
            found["PYWATT__SERVER__LISTEN"] = listed([placed.listener(_secured(server), SystemdAddress())])
    elif several or plan.listen != server.listen or placed.listeners_have_files:
        found["PYWATT__SERVER__LISTEN"] = listed(
            placed.listener(number, each, _written(each, plan)) for number, each in enumerate(plan.listen)
        )
    if server.admin is not None and plan.admin != server.admin.listen:
        found["PYWATT__SERVER__ADMIN__LISTEN"] = listed(dump_address(each) for each in plan.admin)
    if server.tls is not None and server.tls.redirect is not None and several:
        found["PYWATT__SERVER__TLS__REDIRECT"] = "127.0.0.1:0"  # the same port cannot be taken twice
    found |= placed.variables()
    if server.control != "off":
        found["XDG_RUNTIME_DIR"] = f"/run/{plan.own}"
        if server.control != "auto":
            found["PYWATT__SERVER__CONTROL"] = "auto"
    if _depends_on_the_machine(facts.manifest):
        found["PYWATT__SERVER__RELOAD"] = "signal"
    mount = facts.secret_mount("%d", anywhere=False)
    if mount is not None:
        found |= mount.variables
    return found | _files(plan)


def _files(plan: _Plan) -> dict[str, str]:
    """Variables that move the files beside the manifest (databases and sockets) to the folders of the service, since it
    cannot write beside the manifest."""
    found: dict[str, str] = {}
    ipc = plan.facts.manifest.channels.ipc
    if ipc is not None and ipc.listen is not None and not ipc.listen.startswith("/"):
        found["PYWATT__CHANNELS__IPC__LISTEN"] = f"/run/{plan.own}/{PurePosixPath(ipc.listen).name.replace('%', '%%')}"
    for name, database in plan.facts.manifest.databases.items():
        url = database.url
        if not isinstance(url, str) or not _VARIABLE.match(name):
            continue
        match = re.match(r"sqlite:///(?![/:?])(?:\./)?([^?]+)(.*)\Z", url)
        if match is not None:
            path = PurePosixPath(match[1]).name.replace("%", "%%")
            rest = match[2].replace("%", "%%")
            found[f"PYWATT__DATABASES__{name.upper()}__URL"] = f"sqlite:////var/lib/{plan.own}/{path}{rest}"
    return found


def _service(plan: _Plan) -> str:
    facts = plan.facts
    manifest = facts.manifest
    several = bool(plan.instances)
    about = {"Description": (manifest.module.description or facts.name).replace("%", "%%")}
    about |= {"After": "network-online.target", "Wants": "network-online.target"}
    if plan.socket:
        about["Requires"] = f"{facts.name}@%i.socket" if several else f"{facts.name}.socket"
    if several:
        about["PartOf"] = f"{facts.name}.target"
    arguments = [f"{plan.folder}/.venv/bin/pywatt-host", "run", _target_of(plan)]
    lines = [
        *_kind(facts.manifest),
        command("ExecStart", arguments),
        f"WorkingDirectory={plan.folder.replace('%', '%%')}",
        *(assignment(name, value) for name, value in _environment(plan).items()),
        f"# Variables that the manifest reads: {', '.join(facts.variables) or 'none at present'}",
        f"EnvironmentFile={'' if facts.variables else '-'}/etc/{facts.name}/env",
        *_credentials(plan),
        "",
        "# No restart after an invalid manifest (2): a restart does not repair it.",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "RestartSec=5s",
        "# systemd restarts the service if its event loop hangs",
        "WatchdogSec=30s",
        "# longer than server.timeouts drain_delay and shutdown together",
        f"TimeoutStopSec={facts.grace(balanced=several)}s",
        "KillMode=mixed",
        "# enough for server.limits.connections; the application may raise it further",
        f"LimitNOFILE={facts.descriptors}:{max(facts.descriptors, _HARD_LIMIT)}",
        "",
        "DynamicUser=yes",
        *_groups(plan),
        f"RuntimeDirectory={plan.own}",
        f"StateDirectory={plan.own}",
        *_hardening(plan),
    ]
    wanted = f"{facts.name}.target" if several else "multi-user.target"
    return unit({"Unit": [f"{key}={value}" for key, value in about.items()], "Service": lines}, wanted)


def _reloads(manifest: Manifest) -> bool:
    """Whether the service reloads, whatever machine it runs on: `workers: auto` may be one worker there."""
    return manifest.server.reload_mode != "off" or _depends_on_the_machine(manifest)


def _depends_on_the_machine(manifest: Manifest) -> bool:
    return manifest.server.workers.count == "auto" and manifest.server.reload is None


def _kind(manifest: Manifest) -> list[str]:
    if not _reloads(manifest):
        return ["Type=notify"]
    return [
        "# systemctl reload sends SIGHUP and waits until the reload has ended. Before 253, systemd does not know this",
        "# type and keeps the first one: add ExecReload=/bin/kill -HUP $MAINPID there, which does not wait.",
        "Type=notify",
        "Type=notify-reload",
        "NotifyAccess=main",
    ]


def _target_of(plan: _Plan) -> str:
    target = plan.facts.target
    return target if ":" in target else str(PurePosixPath(plan.folder) / target)


def _credentials(plan: _Plan) -> list[str]:
    return [*_secrets(plan.facts), *_certificates(plan)]


def _certificates(plan: _Plan) -> list[str]:
    """Certificates and keys as credentials: root alone may read them elsewhere, and the user of the service is new at
    each start."""
    lines = []
    for each in tls_files(plan.facts.manifest):
        lines.append(f"# the files of {' and '.join(each.keys)}")
        for name, path in each.files.items():
            source = str(PurePosixPath(plan.folder) / path)
            lines.append(f"LoadCredential={_credential(each, name)}:{source.replace('%', '%%')}")
    return lines


def _secrets(facts: Facts) -> list[str]:
    if facts.secret_mount("%d", anywhere=False) is None:
        return []
    lines = ["# Credentials are read when the service starts; a changed secret needs a restart."]
    lines += [f"LoadCredential={name}:/etc/{facts.name}/secrets/{name}" for name in facts.required_secrets]
    # The service does not start if a credential is listed and its file is missing.
    return lines + [f"#LoadCredential={name}:/etc/{facts.name}/secrets/{name}" for name in facts.optional_secrets]


def _groups(plan: _Plan) -> list[str]:
    """The groups of the Unix sockets: the service must be a member of a group to give it a socket."""
    if plan.socket:
        return []
    groups = {each.group for each in (*plan.listen, *plan.admin) if isinstance(each, UnixAddress) and each.group}
    return [f"SupplementaryGroups={' '.join(sorted(groups))}"] if groups else []


def _hardening(plan: _Plan) -> list[str]:
    found = dict(HARDENED)
    bound = [each for each in (*(() if plan.socket else plan.listen), *plan.admin) if isinstance(each, TcpAddress)]
    tls = plan.facts.manifest.server.tls
    if tls is not None and tls.redirect is not None and not plan.instances:
        bound.append(tls.redirect)
    if any(each.port < _PRIVILEGED_PORTS_END for each in bound):
        found |= {"AmbientCapabilities": "CAP_NET_BIND_SERVICE", "CapabilityBoundingSet": "CAP_NET_BIND_SERVICE"}
    if plan.folder.startswith(("/home/", "/root/", "/run/user/")):
        found["ProtectHome"] = "read-only"
    return [f"{key}={value}" for key, value in sorted(found.items())]


def _socket(plan: _Plan) -> str:
    """The socket unit. Connections wait in the kernel while the service restarts."""
    facts = plan.facts
    lines: list[str] = []
    for number, address in enumerate(plan.listen):
        if isinstance(address, UnixAddress):
            # Not in the service's folder in /run, which is removed with the service.
            path = f"/run/{plan.own}{f'-{number}' if number else ''}.sock"
            lines += [f"ListenStream={path}", f"SocketMode={address.mode:04o}"]
            lines += [f"SocketGroup={address.group}"] if address.group else []
        else:
            text = _written(address, plan)
            assert isinstance(text, str)
            lines.append(f"ListenStream={text.removeprefix(':')}")  # a port alone: every interface
    lines.append(f"Backlog={facts.manifest.server.limits.backlog}")
    about = [f"Description=Sockets of {facts.name}"]
    if plan.instances:
        about.append(f"PartOf={facts.name}.target")
    return unit({"Unit": about, "Socket": lines}, f"{facts.name}.target" if plan.instances else "sockets.target")


def _target(plan: _Plan) -> str:
    """The target, which starts, stops and enables all instances together."""
    kinds = ("socket", "service") if plan.socket else ("service",)
    wants = [f"Wants={plan.unit}{number}.{kind}" for kind in kinds for number in plan.instances]
    about = [f"Description=All instances of {plan.facts.name}", *wants]
    return unit({"Unit": about}, "multi-user.target")
