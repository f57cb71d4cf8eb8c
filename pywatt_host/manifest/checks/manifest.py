"""Checks of a manifest beyond its types: how its parts fit each other and the folder that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pywatt_host.manifest.checks.auth import AuthChecks
from pywatt_host.manifest.checks.exposure import ExposureChecks
from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.checks.resiliency import ResiliencyChecks
from pywatt_host.manifest.checks.sockets import SocketChecks
from pywatt_host.manifest.checks.stores import StoreChecks
from pywatt_host.manifest.checks.tracing import TracingChecks
from pywatt_host.manifest.checks.workers import WorkerChecks
from pywatt_host.manifest.model import AutoEndpoints, DirectoryMount, Endpoint, Manifest, Rule
from pywatt_host.manifest.model.services import MODULE
from pywatt_host.manifest.problems import KeyPath, Report, Severity, cut_list, near_miss, quote
from pywatt_host.manifest.schema.typing import locate
from pywatt_host.manifest.values import Address, TcpAddress, UnixAddress
from pywatt_host.manifest.values.addresses import is_loopback
from pywatt_host.manifest.values.paths import everything_below, overlap, shape
from pywatt_host.manifest.yaml.node import INIT, Node

_EVERY_INTERFACE = frozenset({"", "0.0.0.0", "::"})


class ManifestChecks:
    """Reports the parts of a manifest that do not fit together. `tree` has the place of each part, `left_out` what is
    unknown. `token_offered`: the orchestrator's init has a token, which is the default of channels.http."""

    def __init__(
        self, manifest: Manifest, tree: Node, report: Report, left_out: LeftOut, *, token_offered: bool = False
    ) -> None:
        self._left_out = left_out
        self._token_offered = token_offered
        self._manifest = manifest
        self._tree = tree
        self._report = report

    def check(self) -> None:
        """Run all checks."""
        self._something_is_served()
        self._prefixes()
        self._endpoints()
        self._host_paths()
        self._addresses()
        self._folders()
        self._sources()
        self._service_names()
        self._open_tcp_channel()
        self._open_http_channel()
        AuthChecks(self._manifest, self._add, self._left_out, listeners_known=self._listeners_are_known()).check()
        StoreChecks(self._manifest, self._add, self._is_unset).check()
        ResiliencyChecks(self._manifest, self._add, self._left_out).check()
        ExposureChecks(self._manifest, self._add, self._is_unset).check()
        SocketChecks(self._manifest, self._add).check()
        WorkerChecks(self._manifest, self._add, self._is_unset).check()
        TracingChecks(self._manifest, self._add, self._is_unset).check()

    def _is_unset(self, path: KeyPath) -> bool:
        """Whether a value is unknown, because it is faulty or a variable is not set."""
        return self._left_out.holds(path)

    def _add(self, path: KeyPath, code: str, message: str, hint: str = "", severity: Severity = "error") -> None:
        if self._left_out.holds(path):
            return  # the problem may be a consequence of the one that was reported there
        node, written, real = locate(self._tree, path)
        rest = path[len(real) :]
        if rest[:1] == (0,) and not isinstance(node.value, list):
            rest = rest[1:]  # a single value in place of a list
        shown = (*written, *rest)
        self._report.add(node.problem(shown, code, message, hint, severity=severity))

    def _shown(self, path: KeyPath, value: object) -> str:
        """Show a value in a message. A value from the environment is shown by the name of its source."""
        node, _, real = locate(self._tree, path)
        if len(real) < len(path) or not node.masked:
            return quote(value)
        return node.shown()

    def _line(self, path: KeyPath) -> str:
        node, written, _ = locate(self._tree, path)
        return f" in line {node.mark.line}" if node.origin.kind == "file" and written else ""

    def _something_is_served(self) -> None:
        # The application may be in a part that was left out because of another error or an unset variable.
        unread = self._tree.unset or any(self._left_out.touches((key,)) for key in ("app", "mounts"))
        if self._manifest.app is None and not self._manifest.mounts and not unread:
            hint = "the smallest manifest is `app: main:app`"
            self._add(("app",), "no-app", "neither `app` nor `mounts` is given, so there is nothing to serve", hint)

    def _prefixes(self) -> None:
        seen: dict[str, KeyPath] = {}
        for path, prefix in self._mounted():
            if self._is_unset(path):
                continue
            if prefix not in seen:
                seen[prefix] = path
                continue
            where = self._line(seen[prefix]) if seen[prefix] != ("app", "route_prefix") else " by `app`"
            message = f"the prefix {self._shown(path, prefix)} is already used{where}"
            self._add(path, "prefix-conflict", message, "give each application a different prefix")

    def _mounted(self) -> Iterator[tuple[KeyPath, str]]:
        if self._manifest.app is not None:
            yield ("app", "route_prefix"), self._manifest.app.route_prefix
        for number, mount in enumerate(self._manifest.mounts):
            yield ("mounts", number, "route_prefix"), mount.route_prefix

    def _declared(self) -> Iterator[tuple[KeyPath, Endpoint | Rule]]:
        endpoints = self._manifest.endpoints
        if isinstance(endpoints, AutoEndpoints):
            for number, rule in enumerate(endpoints.rules):
                yield ("endpoints", "rules", number), rule
        else:
            for number, endpoint in enumerate(endpoints):
                yield ("endpoints", number), endpoint

    def _endpoints(self) -> None:
        seen: dict[str, list[tuple[KeyPath, Endpoint | Rule]]] = {}
        mounted = list(self._mounted())
        known = not any(self._is_unset(path) for path in (("app",), ("mounts",), *(path for path, _ in mounted)))
        known = known and not any(len(part) == 1 for part in self._left_out.parts(("mounts",)))
        prefixes = [prefix for _, prefix in mounted] if known else []
        for path, endpoint in self._declared():
            if self._is_unset((*path, "path")):
                continue
            same = seen.setdefault(shape(endpoint.path), [])
            for other_path, other in same:
                methods = _common(endpoint.methods, other.methods)
                if methods:
                    message = f"{self._shown((*path, 'path'), endpoint.path)} matches the same requests"
                    message += f" ({', '.join(methods)}) as the path{self._line(other_path) or ' before it'}"
                    self._add((*path, "path"), "tie", message, "remove one of them, or give them different methods")
                    break
            same.append((path, endpoint))
            if prefixes and not any(overlap(endpoint.path, everything_below(prefix)) for prefix in prefixes):
                message = f"no application is mounted at a prefix of {self._shown((*path, 'path'), endpoint.path)}"
                hint = f"write the full path, including the prefix; mounted: {cut_list(sorted(set(prefixes)), 8)}"
                self._add((*path, "path"), "not-mounted", message, hint)

    def _host_paths(self) -> None:
        health, metrics, admin = self._manifest.health, self._manifest.metrics, self._manifest.server.admin
        own: dict[str, str] = {}
        if health.enabled:
            own |= {health.liveness: "health.liveness", health.readiness: "health.readiness"}
        if metrics.enabled:
            taken = own | ({health.path: "health.path"} if health.enabled else {})
            if metrics.path in taken:
                message = (
                    f"{self._shown(('metrics', 'path'), metrics.path)} is already the path of {taken[metrics.path]}"
                )
                self._add(("metrics", "path"), "conflict", message, "change one of them")
            own[metrics.path] = "metrics.path"
        http = self._manifest.channels.http
        if http is not None:
            taken = own | ({health.path: "health.path"} if health.enabled else {})
            if http.path in taken:
                message = (
                    f"{self._shown(('channels', 'http', 'path'), http.path)} is already the path of {taken[http.path]}"
                )
                self._add(("channels", "http", "path"), "conflict", message, "change one of them")
        if admin is not None or self._is_unset(("server", "admin")):
            return
        for path, endpoint in self._declared():
            if endpoint.path in own:
                message = (
                    f"the host answers this path itself ({own[endpoint.path]}), so requests never reach the application"
                )
                hint = f"change {own[endpoint.path]}, or serve it on server.admin"
                self._add((*path, "path"), "host-path", message, hint, severity="warning")
        if metrics.enabled and (metrics.auth is None or metrics.auth.open) and not self._is_unset(("metrics", "auth")):
            hint = "set server.admin.listen to serve them on a separate listener, or set metrics.auth"
            message = "the metrics are served to every client of the public listener"
            self._add(("metrics",), "metrics-public", message, hint, severity="warning")

    def _addresses(self) -> None:
        server = self._manifest.server
        known = not self._is_unset(("server", "listen"))
        for number, address in enumerate(server.admin.listen if server.admin is not None and known else ()):
            if any(_same(address, other) for other in server.listen):
                path: KeyPath = ("server", "admin", "listen", number)
                message = f"{self._shown(path, str(address))} is already used by server.listen"
                self._add(path, "conflict", message, "use a different port or path")
        self._redirect()

    def _listeners_are_known(self) -> bool:
        """Whether the manifest says how its listeners are protected: no orchestrator does, and `server` was read."""
        sections = [("server", "tls"), ("server", "listen"), ("server", "admin")]
        return not any(self._left_out.touches(path) for path in sections) and not self._listeners_are_given()

    def _listeners_are_given(self) -> bool:
        """Whether an orchestrator has chosen the listeners."""
        return locate(self._tree, ("server", "listen"))[0].origin.name == INIT

    def _redirect(self) -> None:
        server, path = self._manifest.server, ("server", "tls", "redirect")
        redirect = server.tls.redirect if server.tls is not None else None
        if redirect is None or self._left_out.touches(("server", "listen")):
            return
        numbers = range(len(server.listen))
        if not self._listeners_are_given() and not any(server.tls_of(number) for number in numbers):
            message = "there is no TLS listener to redirect to"
            self._add(path, "no-tls-listener", message, "add a TCP address without `tls: off` to server.listen")
        admin = server.admin.listen if server.admin is not None else ()
        for key, addresses in (("server.listen", server.listen), ("server.admin.listen", admin)):
            if any(_same(redirect, other) for other in addresses):
                message = f"{self._shown(path, str(redirect))} is already used by {key}"
                self._add(path, "conflict", message, "use a different port")

    def _folders(self) -> None:
        manifest = self._manifest
        wanted: list[tuple[KeyPath, str]] = []
        if manifest.app is not None:
            wanted.append((("app", "working_dir"), manifest.app.working_dir))
        for number, mount in enumerate(manifest.mounts):
            if isinstance(mount, DirectoryMount):
                wanted.append((("mounts", number, "directory"), mount.directory))
            else:
                wanted.append((("mounts", number, "working_dir"), mount.working_dir))
        for path, name in wanted:
            if self._is_unset(path):
                continue
            folder = manifest.resolve(name)
            try:
                there = folder.is_dir()
            except (OSError, ValueError):  # the name is not valid: too long, or with a NUL
                there = False
            if not there:
                self._add(path, "no-folder", f"folder not found: {self._shown(path, name)}", self._nearby(path, folder))

    def _sources(self) -> None:
        seen: dict[str, int] = {}
        for number, source in enumerate(self._manifest.secrets.sources or ()):
            if source.kind is None:
                continue
            path: KeyPath = ("secrets", "sources", number, "kind")
            if source.kind in seen:
                line = self._line(("secrets", "sources", seen[source.kind]))
                message = f"the source `{source.kind}` is listed twice{f', first{line}' if line else ''}"
                self._add(path, "conflict", message, "remove one of them")
            seen.setdefault(source.kind, number)

    def _service_names(self) -> None:
        """A service may not have the id of another module as its name: module://ID would be ambiguous."""
        services, own = self._manifest.services, self._manifest.module_id.casefold()
        ids = {each.name.casefold() for each in services.static if each.type.lower() == MODULE} - {own}
        for number, service in enumerate(services.register_):
            if service.name.casefold() in ids:
                path: KeyPath = ("services", "register", number, "name")
                message = f"{self._shown(path, service.name)} is the id of another module in services.static"
                self._add(path, "conflict", message, "give the service another name, such as NAME-api")

    def _open_tcp_channel(self) -> None:
        tcp = self._manifest.channels.tcp
        if tcp is None or tcp.listen is None or tcp.token is not None or is_loopback(tcp.listen.host):
            return
        token: KeyPath = ("channels", "tcp", "token")
        unset = self._is_unset(token) or self._left_out.touches(("channels", "tcp", "tls"))
        reported = any(problem.path == "channels.tcp.token" for problem in self._report.problems)
        if reported or unset or (tcp.tls is not None and tcp.tls.client_ca is not None):
            return
        shown = self._shown(("channels", "tcp", "listen"), str(tcp.listen))
        message = f"a token is required, because other machines can connect to {shown} and pose as a peer"
        hint = "set token: ${secret:CHANNEL_TOKEN} or tls.client_ca, or listen on 127.0.0.1"
        self._add(token, "open-channel", message, hint)

    def _open_http_channel(self) -> None:
        http, token = self._manifest.channels.http, ("channels", "http", "token")
        if http is None or http.token is not None or self._token_offered or self._is_unset(token):
            return
        beyond = [each for each in self._manifest.server.listen if not isinstance(each, UnixAddress)]
        reported = any(problem.path == "channels.http.token" for problem in self._report.problems)
        if beyond and not reported and not self._is_unset(("server", "listen")):
            shown = self._shown(("server", "listen", self._manifest.server.listen.index(beyond[0])), str(beyond[0]))
            clients = "processes and browsers on this machine" if _is_of_loopback(beyond[0]) else "other machines"
            message = f"a token is required, because {clients} can connect to {shown} and pose as a peer"
            hint = "set token: ${secret:CHANNEL_TOKEN}, or listen on a Unix socket"
            self._add(token, "open-channel", message, hint)

    def _nearby(self, path: KeyPath, folder: Path) -> str:
        hint = "the path is relative to the manifest's folder"
        if locate(self._tree, path)[0].masked:
            return hint
        try:
            if folder.is_file():
                return "there is a file with this name"
            meant = near_miss(folder.name, [each.name for each in folder.parent.iterdir() if each.is_dir()])
        except (OSError, ValueError):
            return hint
        return f'did you mean "{meant}"?' if meant else hint


def _is_of_loopback(address: Address) -> bool:
    """Whether only this machine can connect to a port. For an inherited socket, the answer is no: it is unknown."""
    return isinstance(address, TcpAddress) and is_loopback(address.host)


def _common(methods: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    if "*" in methods and "*" in others:
        return ["*"]
    if "*" in methods or "*" in others:
        return []
    return [method for method in methods if method in others]


def _same(address: Address, other: Address) -> bool:
    """Whether it is impossible to listen on both addresses at the same time."""
    if isinstance(address, TcpAddress) and isinstance(other, TcpAddress):
        hosts = {address.host, other.host}
        return address.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & _EVERY_INTERFACE))
    return address == other
