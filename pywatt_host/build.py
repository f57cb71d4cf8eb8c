"""build(): from a frozen manifest to a Host. The one function that knows every kind; it makes objects and touches
nothing of the world."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pywatt_host.app import Applications
from pywatt_host.hooks import Hooks
from pywatt_host.host import Host, Surface
from pywatt_host.http.accesslog import AccessLog, LineAccessLog, NoAccessLog
from pywatt_host.http.appmetrics import Metrics
from pywatt_host.http.edge import Answer, Edge, OwnPath
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.forwarding import Forwarding
from pywatt_host.http.health import Checks
from pywatt_host.http.inprocess import request
from pywatt_host.http.metrics import NoRequestMetrics, RequestMetrics
from pywatt_host.http.problem import send_problem
from pywatt_host.logs import LogStream, standard_error, style_for
from pywatt_host.manifest.model import Cors, Manifest
from pywatt_host.routing import compile_routes
from pywatt_host.state import AppState
from pywatt_host.types import ASGIApp, Receive, Scope, Send


def build(manifest: Manifest, environ: Mapping[str, str] | None = None, stream: LogStream | None = None) -> Host:
    """Make the Host that a manifest describes. `environ` (default: os.environ) is read for FORWARDED_ALLOW_IPS, for
    what systemd handed over and for where the control socket goes; `stream` (default: standard error) takes the access
    log."""
    environ = os.environ if environ is None else environ
    stream = stream or standard_error()
    maker = _Maker(manifest, environ, stream)
    return Host(
        manifest,
        state=maker.state,
        hooks=maker.hooks,
        checks=maker.checks,
        applications=maker.applications,
        surface=maker.surface,
        status=maker.status,
        environ=environ,
        stream=stream,
    )


class _Maker:
    """What belongs to one host, and how the edge is put together once the applications are there."""

    def __init__(self, manifest: Manifest, environ: Mapping[str, str], stream: LogStream) -> None:
        self.manifest = manifest
        self.environ = environ
        self.stream = stream
        self.started = time.time()
        self.requests: RequestMetrics | NoRequestMetrics = (
            RequestMetrics(manifest.metrics.buckets) if manifest.metrics.enabled else NoRequestMetrics()
        )
        self.metrics = Metrics(self._register_requests)
        self.checks = Checks(manifest.health, _identity(manifest))
        self.hooks = Hooks()
        self.state = AppState(manifest, self.metrics, self.checks, self.hooks)
        self.applications = Applications(manifest, self.state)
        self.edge: Edge | None = None

    def _register_requests(self, registry: Any) -> None:
        if isinstance(self.requests, RequestMetrics):
            exposition = import_module("pywatt_host.http.exposition")
            registry.register(exposition.RequestCollector(self.requests, self._active))

    def _active(self) -> int:
        return self.edge.running if self.edge is not None else 0

    def status(self) -> dict[str, Any]:
        """What the control socket tells."""
        _, report = self.checks.report()
        return {
            "module": _identity(self.manifest)["module"],
            "pid": os.getpid(),
            "started": round(self.started, 3),
            "manifest": os.fspath(self.manifest.source) if self.manifest.source else None,
            "status": "draining" if self.checks.draining else report["status"],
            "checks": report["checks"],
            "running_requests": self._active(),
        }

    async def surface(self) -> Surface:
        """The edge, for applications that have been loaded and started."""
        manifest, server = self.manifest, self.manifest.server
        own = self._own_paths()
        routes = compile_routes(manifest, self.applications.all, self.requests)
        self.edge = Edge(
            mounts=self.applications.mounts(),
            routes=routes,
            own={} if server.admin is not None else own,
            forwarding=Forwarding(self._trusted()),
            access_log=self._access_log(),
            concurrency=server.limits.concurrency,
            cors=_cors(server.cors) if server.cors is not None else None,
        )
        health = manifest.health
        if health.enabled and server.admin is None and await self._app_serves(health.path):
            own[health.path] = self._health_beside_app
            if lookup(routes.table.match(health.path) or {}, "GET") is None:
                # A list of endpoints need not name what `health` does already.
                routes.table.add(health.path, ("GET",), routes.unmatched)
            self.checks.add("app", self._ask_app)
        return Surface(self.edge, OwnApp(own) if server.admin is not None else None)

    def _trusted(self) -> list[str]:
        allowed = self.environ.get("FORWARDED_ALLOW_IPS", "")
        return [
            *self.manifest.server.trusted_proxies,
            *(entry.strip() for entry in allowed.split(",") if entry.strip()),
        ]

    def _access_log(self) -> AccessLog:
        logging = self.manifest.logging
        if not logging.access.enabled:
            return NoAccessLog()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        colour = terminal and "NO_COLOR" not in self.environ
        return LineAccessLog(self.stream, style_for(logging, terminal), logging.access.exclude, colour)

    # The host's own paths -------------------------------------------------------------------------------------------

    def _own_paths(self) -> dict[str, OwnPath]:
        health, metrics = self.manifest.health, self.manifest.metrics
        own: dict[str, OwnPath] = {}
        if health.enabled:
            own[health.path] = _json(self.checks.report)
            own[health.liveness] = _json(self.checks.liveness)
            own[health.readiness] = _json(self.checks.readiness)
        if metrics.enabled:
            own[metrics.path] = self._scrape
        return own

    async def _scrape(self, scope: Scope) -> Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        text, content_type = await asyncio.to_thread(self._render, accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(text)).encode())]
        return 200, headers, text

    def _render(self, accept: str) -> tuple[bytes, str]:
        exposition = import_module("pywatt_host.http.exposition")
        rendered: tuple[bytes, str] = exposition.render(self.metrics.registry, self.manifest.metrics.labels, accept)
        return rendered

    # Where the application serves the health path itself ------------------------------------------------------------

    async def _app_serves(self, path: str) -> bool:
        """By its route table; an application whose table cannot be read is asked, and 404 is a no."""
        application = self.applications.at(path)
        if application is None:
            return False
        if application.routes is None:
            try:
                return (await self._request_health())[0] != 404
            except Exception:  # named boundary: the user's application; it serves the path, and badly
                return True
        table: Table[bool] = Table()
        for route in application.routes:
            for method in route.methods:
                if not _takes_everything(route.path, application.prefix):
                    _add(table, route.path, method)
        methods = table.match(path)
        return methods is not None and bool(lookup(methods, "GET"))

    async def _request_health(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        path = self.manifest.health.path
        application = self.applications.at(path)
        assert application is not None
        assert application.mount is not None
        return await request(application.mount, path)

    async def _ask_app(self) -> None:
        status, _, _ = await self._request_health()
        if status >= 400:
            raise RuntimeError(f"the application answers {status} on {self.manifest.health.path}")

    async def _health_beside_app(self, scope: Scope) -> Answer | None:
        """The application's own body; the host's report where a check other than it does not pass."""
        return None if self.checks.passing(but="app") else await _json(self.checks.report)(scope)


def _takes_everything(template: str, prefix: str) -> bool:
    """Whether it is a catch-all, which says nothing about any one path."""
    rest = template.removeprefix(prefix.rstrip("/"))
    return rest.count("/") == 1 and rest.endswith(":path}")


def _add(table: Table[bool], path: str, method: str) -> None:
    try:
        table.add(path, (method,), True)
    except ValueError:
        return  # an application may have one path twice


def _identity(manifest: Manifest) -> dict[str, Any]:
    module = manifest.module
    identity: dict[str, Any] = {"id": manifest.module_id}
    for name in ("version", "description"):
        if getattr(module, name) is not None:
            identity[name] = getattr(module, name)
    if module.labels:
        identity["labels"] = dict(module.labels)
    return {"module": identity}


def _json(report: Callable[[], tuple[int, dict[str, Any]]]) -> OwnPath:
    async def answer(scope: Scope) -> Answer:
        status, document = report()
        body = json.dumps(document).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", str(len(body)).encode()),
        ]
        return status, headers, body

    return answer


def _cors(settings: Cors) -> Callable[[ASGIApp], ASGIApp]:
    def wrap(app: ASGIApp) -> ASGIApp:
        middleware = import_module("starlette.middleware.cors").CORSMiddleware
        wrapped: ASGIApp = middleware(
            app,
            allow_origins=settings.allow_origins,
            allow_origin_regex=settings.allow_origin_regex,
            allow_methods=settings.allow_methods,
            allow_headers=settings.allow_headers,
            allow_credentials=settings.allow_credentials,
            expose_headers=settings.expose_headers,
            max_age=int(settings.max_age),
        )
        return wrapped

    return wrap


class OwnApp:
    """The host's own paths as an application of their own: what the admin listener serves."""

    def __init__(self, own: Mapping[str, OwnPath]) -> None:
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        answering = self._own.get(scope["path"])
        if answering is None:
            await send_problem(send, 404)
        elif scope["method"] not in ("GET", "HEAD"):
            await send_problem(send, 405, headers=[(b"allow", b"GET, HEAD")])
        else:
            answer = await answering(scope)
            assert answer is not None
            status, headers, body = answer
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
