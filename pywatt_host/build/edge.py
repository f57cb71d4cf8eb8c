"""The edge of a host and its own paths, made once the applications have started."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from pywatt_host.app.applications import Applications
from pywatt_host.app.route_report import hidden_routes
from pywatt_host.app.unmatched_rules import unmatched_rules
from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.allowed_hosts import HostsOf
from pywatt_host.build.health_path import app_serves_health
from pywatt_host.build.routes import Announced, announced, compile_routes
from pywatt_host.http.accesslog import AccessLog, LineAccessLog, NoAccessLog
from pywatt_host.http.edge import Answer, Edge, HostPath
from pywatt_host.http.explanation import Explanations
from pywatt_host.http.forwarding import GATEWAY, Forwarding
from pywatt_host.http.host_answers import AskingPaths, HostAnswers, accept
from pywatt_host.http.host_paths import HostPathsApp, by_listener, guarded, reported
from pywatt_host.http.inprocess import request
from pywatt_host.http.routes import Routes
from pywatt_host.http.spans import RequestSpans
from pywatt_host.manifest.model import Cors, Manifest
from pywatt_host.manifest.values.addresses import everybody
from pywatt_host.net.limits import GUESSES, Limits
from pywatt_host.observability.app_metrics import AppMetrics
from pywatt_host.observability.health import Checks
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import style_for
from pywatt_host.observability.metrics import NoRequestMetrics, RequestMetrics
from pywatt_host.observability.spans import AnyTracer, Tracer
from pywatt_host.runtime.host import Surface
from pywatt_host.types import ASGIApp, Headers, Scope

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.http.compression import Compression


logger = logging.getLogger("pywatt.edge")


class HostEdge:
    """The edge as a service: it starts after the applications, whose routes it needs. `edge` and `surface` are there
    from then on."""

    name = "edge"

    def __init__(
        self,
        manifest: Manifest,
        *,
        applications: Applications,
        schemes: Schemes | NoSchemes,
        checks: Checks,
        requests: RequestMetrics | NoRequestMetrics,
        metrics: AppMetrics,
        messages: ASGIApp | None,
        limits: Limits,
        environ: Mapping[str, str],
        stream: LogStream,
        explain: bool,
        tracer: AnyTracer,
        host_answers: HostAnswers | None = None,
        worker: int | None = None,
    ) -> None:
        """`messages` takes messages over HTTP, where `channels.http` declares that. `limits` makes all limits on
        requests. With `explain`, refusals of the host say which manifest key would change them. `host_answers` answers
        the host's own paths in a worker, and `worker` is the number of that in logs."""
        self.edge: Edge | None = None
        self._manifest = manifest
        self._applications = applications
        self._schemes = schemes
        self._checks = checks
        self._requests = requests
        self._metrics = metrics
        self._messages = messages
        self._limits = limits
        self._environ = environ
        self._stream = stream
        self._explain = explain
        self._tracer = tracer
        self._worker = worker
        self._hosts = HostsOf(manifest, environ)
        self._asking = AskingPaths(host_answers) if host_answers is not None else None
        self._routes: Routes | None = None
        self._surface: Surface | None = None

    @property
    def surface(self) -> Surface:
        """The ASGI applications of the started host."""
        assert self._surface is not None
        return self._surface

    def host_allowed(self, host: str) -> bool:
        """Whether a Host is one that the public listeners answer to."""
        return self._hosts.allowed.host_allowed(host)

    def running_requests(self) -> int:
        """How many requests run; 0 before the edge has started."""
        return self.edge.running if self.edge is not None else 0

    def served_requests(self) -> int:
        """How many requests the applications have answered."""
        return self.edge.served if self.edge is not None else 0

    def announced(self) -> Sequence[Announced]:
        """The endpoints to announce to an orchestrator."""
        return announced(self._manifest, self._applications.all, self._routes)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        manifest, server = self._manifest, self._manifest.server
        self._tracer.follow_app()
        paths = self._host_paths()
        health = manifest.health
        health_of_app = (
            health.enabled
            and server.admin is None
            and await app_serves_health(self._applications, health.path, health.timeout)
        )
        if health_of_app:
            paths[health.path] = self._health_beside_app
            self._checks.add("app", self._check_app)
        self._routes = compile_routes(
            manifest,
            self._applications.all,
            self._requests,
            self._schemes.guard,
            self._limits,
            health=health_of_app,
        )
        http, mounts, compression = manifest.channels.http, self._applications.mounts(), self._compression()
        if compression is not None:
            mounts = [mount.around(compression.app) for mount in mounts]
            paths = {name: compression.path(path) for name, path in paths.items()}
        self.edge = Edge(
            mounts=mounts,
            routes=self._routes,
            host_paths={} if server.admin is not None else paths,
            host_apps={http.path: self._messages} if self._messages is not None and http is not None else {},
            forwarding=Forwarding(self._trusted_proxies(), guarded=bool(manifest.auth)),
            access_log=self._access_log(),
            concurrency=self._limits.gate("server.limits.concurrency", server.limits.concurrency),
            cors=cors(server.cors) if server.cors is not None else None,
            hosts=self._hosts.public_check(),
            origins=self._hosts.origins(),
            added=added_headers(server.headers),
            explain=Explanations(manifest) if self._explain else None,
            spans=RequestSpans(self._tracer) if isinstance(self._tracer, Tracer) else None,
        )
        for hidden in hidden_routes(manifest, self._applications.all):
            logger.warning("%s: %s (%s)", hidden.key, hidden, hidden.hint, extra={"key": hidden.key})
        for rule in unmatched_rules(manifest, self._applications.all):
            logger.warning("%s: %s (%s)", rule.key, rule, rule.hint, extra={"key": rule.key})
        self._surface = Surface(self.edge, HostPathsApp(paths, self._hosts.admin_check()) if server.admin else None)
        try:
            yield
        finally:
            if compression is not None:
                compression.close()

    def _compression(self) -> Compression | None:
        """What compresses responses; None where the manifest does not ask for it."""
        settings = self._manifest.server.compress
        if not settings.enabled:
            return None
        made: Compression = import_module("pywatt_host.http.compression").Compression(
            settings.min_size, settings.types, settings.level
        )
        return made

    def _trusted_proxies(self) -> list[str]:
        allowed = self._environ.get("FORWARDED_ALLOW_IPS", "")
        added = [entry.strip() for entry in allowed.split(",") if entry.strip()]
        declared = self._manifest.server.trusted_proxies
        if everybody([*declared, *added]) and not everybody(declared):
            logger.warning(
                "FORWARDED_ALLOW_IPS makes every client a trusted proxy, so that clients choose their own address:"
                " list the addresses of your proxies",
                extra={"key": "server.trusted_proxies"},
            )
        gateway = [entry for entry in self._environ.get(GATEWAY, "").split(",") if entry]
        return [*declared, *added, *gateway]

    def _access_log(self) -> AccessLog:
        logging = self._manifest.logging
        if not logging.access.enabled:
            return NoAccessLog()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        colour = terminal and "NO_COLOR" not in self._environ
        style = style_for(logging, terminal)
        return LineAccessLog(self._stream, style, logging.access.exclude, colour, worker=self._worker)

    # The host's own paths -------------------------------------------------------------------------------------------

    def _host_paths(self) -> dict[str, HostPath]:
        health, metrics = self._manifest.health, self._manifest.metrics
        paths: dict[str, HostPath] = {}
        if health.enabled:
            paths[health.path] = self._health_report()
            paths[health.liveness] = self._of_host(health.liveness, reported(self._checks.liveness))
            paths[health.readiness] = self._of_host(health.readiness, reported(self._checks.readiness))
        if metrics.enabled:
            guesses = self._limits.rate_limiter("guesses on metrics", GUESSES)
            scrape = self._of_host(metrics.path, self._scrape)
            paths[metrics.path] = guarded(scrape, self._schemes.guard(metrics.auth), guesses)
        return paths

    def _of_host(self, path: str, own: HostPath, details: bool | None = None) -> HostPath:
        """The path as the host answers it: in a worker that is its supervisor, and everywhere else `own`."""
        return own if self._asking is None else self._asking.path(path, own, details)

    def _health_report(self) -> HostPath:
        path = self._manifest.health.path
        full = self._of_host(path, reported(self._checks.report), True)
        brief = self._of_host(path, reported(partial(self._checks.report, details=False)), False)
        details = self._manifest.health.details
        if details is None and self._manifest.server.admin is None:
            return by_listener(full, brief, self._hosts.allowed)
        return brief if details is False else full

    async def _scrape(self, scope: Scope) -> Answer:
        text, content_type = await asyncio.to_thread(self._render, accept(scope))
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(text)).encode())]
        return 200, headers, text

    def _render(self, accept: str) -> tuple[bytes, str]:
        exposition = import_module("pywatt_host.observability.exposition")
        rendered: tuple[bytes, str] = exposition.render(self._metrics.registry, self._manifest.metrics.labels, accept)
        return rendered

    # Where the application serves the health path itself ------------------------------------------------------------

    async def _request_health(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        path = self._manifest.health.path
        application = self._applications.at(path)
        assert application is not None
        assert application.mount is not None
        return await request(application.mount, path)

    async def _check_app(self) -> None:
        status, _, _ = await self._request_health()
        if status >= 400:
            raise RuntimeError(f"the application answers {status} on {self._manifest.health.path}")

    async def _health_beside_app(self, scope: Scope) -> Answer | None:
        """The application answers itself while all other checks pass; else the answer is the host's report. In a
        worker, the checks of the whole host have to pass as well."""
        if not self._checks.passing(but="app"):
            return await self._health_report()(scope)
        if self._asking is None or not self._checks.passing():
            return None
        answer = await self._health_report()(scope)
        return answer if answer is not None and answer[0] >= 400 else None


def added_headers(headers: Mapping[str, str]) -> Headers:
    """`server.headers` as the edge takes them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def cors(settings: Cors) -> Callable[[ASGIApp], ASGIApp]:
    """Starlette's CORS middleware with the settings of `server.cors`."""

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
