"""Which module serves a path of the gateway."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from pywatt_host.http.endpoints import Table, allowed, lookup
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values.paths import covers
from pywatt_host.orchestrator.module import Module
from pywatt_host.protocol.messages import Announce, AnnouncedEndpoint
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.gateway")

MESSAGES_PREFIX = "/_pywatt"
_DEFAULT_HIDDEN = frozenset({"/health", "/livez", "/readyz", "/metrics"})
# Parameters as other frameworks write them: `:id`, `<id>`, `*rest`, `{*rest}`.
_OTHER_REST = re.compile(r"^(?:\*(\w*)|\{\*(\w+)\}|<path:(\w+)>)$")
_OTHER_PARAMETER = re.compile(r"^(?::(\w+)|<(?:\w+:)?(\w+)>)$")


def hidden_paths(manifest: Manifest | None) -> frozenset[str]:
    """The paths of a module's health, metrics and messages; the usual ones for a program without a manifest."""
    if manifest is None:
        return _DEFAULT_HIDDEN
    messages = {manifest.channels.http.path} if manifest.channels.http is not None else set()
    if manifest.server.admin is not None:
        return frozenset(messages)  # the others are on the admin listener
    health, metrics = manifest.health, manifest.metrics
    found = {health.path, health.liveness, health.readiness} if health.enabled else set()
    return frozenset(found | messages | ({metrics.path} if metrics.enabled else set()))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes: the module, the path there (decoded, and as the client sent it), the prefix before it, and
    the template of the path as far as it is known, with the prefix."""

    module: Module
    path: str
    raw: bytes
    prefix: str = ""
    route: str = ""


class Served(NamedTuple):
    """What a table has for a path: the module, and the path template as the module announced it."""

    module: Module
    template: str


@dataclass(frozen=True, slots=True)
class NoPlace:
    """No module serves the request: the status 404 or 405, and the allowed methods."""

    status: int
    allow: str = ""


class Paths:
    """Finds the module of a path: by its name in `/{module}/...`, then by the paths that modules have announced. The
    last announce of a module counts, also while it is started again."""

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self._modules = modules
        self._seen: list[Announce | None] = []
        self._own: dict[str, Table[Served]] = {}  # by module; a module without a table serves every path
        self._announced: Table[Served] = Table()
        self._endpoints: dict[str, tuple[AnnouncedEndpoint, ...]] = {}
        self._warned: set[str] = set()

    def find(self, path: str, raw: bytes, method: str, preflight: bool) -> Place | NoPlace:
        """`preflight` is a CORS preflight request, which goes to the module for any method."""
        self._follow()
        first, _, rest = path[1:].partition("/")
        module = self._modules.get(first)
        if module is not None:
            below = raw[1:].partition(b"/")[2]
            place = Place(module, f"/{rest}", b"/" + below, f"/{first}")
            table = self._own.get(first)
            everything = Served(module, "")
            methods = _match(table, place.path) if table is not None else {"*": everything, "WEBSOCKET": everything}
        else:
            methods = _match(self._announced, path)
            if not methods:
                return NoPlace(404)
            place = Place(next(iter(methods.values())).module, path, raw)
        if methods is None or _is_hidden(place):
            return NoPlace(404)
        found = lookup(methods, method) or (lookup(methods, "GET") if method == "WEBSOCKET" else None)
        if found is None and not preflight:
            return NoPlace(405, allowed(methods))
        if found is None:
            return replace(place, route=place.prefix)
        return replace(place, module=found.module, route=place.prefix + found.template)

    def _follow(self) -> None:
        announces = [replica.announce for module in self._modules.values() for replica in module.replicas]
        if len(announces) == len(self._seen) and all(a is b for a, b in zip(announces, self._seen, strict=True)):
            return
        self._seen = announces
        for module in self._modules.values():
            announce = next((replica.announce for replica in module.replicas if replica.announce is not None), None)
            if announce is not None:
                self._endpoints[module.id] = announce.endpoints
        self._own, self._announced = {}, Table()
        for id, endpoints in self._endpoints.items():
            if endpoints:
                self._own[id] = self._table(id, endpoints, Table())
        for id in self._modules:  # in the order of the file: the first module that announced a path gets it
            self._table(id, self._endpoints.get(id, ()), self._announced)

    def _table(self, id: str, endpoints: tuple[AnnouncedEndpoint, ...], table: Table[Served]) -> Table[Served]:
        for endpoint in endpoints:
            template = _template(endpoint.path)
            if template is None:
                self._warn(f"{id} announced {cut(endpoint.path)}, which is not a path")
                continue
            if table is self._announced and template.count("/") == 1 and template.endswith(":path}"):
                continue  # served only below the name of the module, or it would take every path
            for method in dict.fromkeys(method.upper() for method in endpoint.methods) or {"GET": None}:
                try:
                    table.add(template, (method,), Served(self._modules[id], endpoint.path))
                except ValueError:
                    if table is self._announced and not _is_hidden(Place(self._modules[id], template, b"")):
                        self._warn(
                            f"{id} announced {method} {cut(endpoint.path)}, which another module has already; it is"
                            f" only at /{id}{cut(endpoint.path)}"
                        )
        return table

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 1000:
            self._warned.add(text)
            logger.warning("%s", text)


def _match(table: Table[Served], path: str) -> dict[str, Served] | None:
    found = table.match(path)
    return table.match(path[:-1]) if found is None and path.endswith("/") and path != "/" else found


def _is_hidden(place: Place) -> bool:
    path = place.path.rstrip("/") or "/"
    return path in place.module.hidden or covers(MESSAGES_PREFIX, path)


def _template(path: str) -> str | None:
    """An announced path as a template of ours; None where it is not a path."""
    if not path.startswith("/") or len(path) > 1024:
        return None
    segments: list[str] = []
    for segment in path.split("/")[1:]:
        if segment.endswith(":path}"):
            segments.append(segment)
            break
        rest, parameter = _OTHER_REST.match(segment), _OTHER_PARAMETER.match(segment)
        if rest is not None:
            segments.append("{rest:path}")
            break
        if parameter is not None:
            segments.append("{x}")
        elif "{" in segment or "}" in segment:
            if not (segment.startswith("{") and segment.endswith("}")):
                return None
            segments.append("{x}")
        else:
            segments.append(segment)
    return "/" + "/".join(segments)
