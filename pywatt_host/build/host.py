"""build(): from a frozen manifest to a Host. The one function that knows every kind; it makes objects and touches
nothing of the world."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywatt_host.app.applications import Applications
from pywatt_host.app.blocking import Bridge
from pywatt_host.app.hooks import Hooks
from pywatt_host.app.state import AppState, InitData
from pywatt_host.app.tasks import Tasks
from pywatt_host.app.user_state import UserState
from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.edge import add_route, cors, takes_everything
from pywatt_host.build.none import NoChannels
from pywatt_host.build.routes import announced, compile_routes
from pywatt_host.clients.http import Outbound
from pywatt_host.clients.none import NoResilience
from pywatt_host.devservices import DEV_SCHEME, DEV_SERVICES
from pywatt_host.http.accesslog import AccessLog, LineAccessLog, NoAccessLog
from pywatt_host.http.edge import Answer, Edge, HostPath
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.explanation import Explanations
from pywatt_host.http.forwarding import Forwarding
from pywatt_host.http.host_paths import HostPathsApp, guarded, reported
from pywatt_host.http.inprocess import request
from pywatt_host.http.routes import Routes
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.app_metrics import Metrics
from pywatt_host.observability.health import Checks
from pywatt_host.observability.logs import LogStream, standard_error, style_for
from pywatt_host.observability.metrics import Family, Histogram, NoRequestMetrics, RequestMetrics
from pywatt_host.runtime.host import Host, Surface
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import EnvironmentDependant, Rotation
from pywatt_host.secrets.sources import make_sources
from pywatt_host.service import Dependant
from pywatt_host.stores.none import NoStores
from pywatt_host.types import Scope

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.clients.resilience.providers import Address
    from pywatt_host.clients.resilience.targets import Resilience
    from pywatt_host.clients.tokens import Tokens
    from pywatt_host.devservices.services import DevServices
    from pywatt_host.stores.service import Datastores


def build(
    manifest: Manifest,
    environ: Mapping[str, str] | None = None,
    stream: LogStream | None = None,
    *,
    handshake: Handshake | None = None,
    trace: Path | None = None,
    objects: Mapping[str, Any] = MappingProxyType({}),
    init: InitData | None = None,
    explain: bool = False,
) -> Host:
    """Make the Host that a manifest describes. `environ` (default: os.environ) is read for FORWARDED_ALLOW_IPS, for
    what systemd handed over, for where the control socket goes and by the secret source `env`; `stream` (default:
    standard error) takes the access log, and masks secrets from now on. `shaken` is what an orchestrator said on
    standard input; `trace` takes the conversation with it and with peers, masked. `objects` holds what import paths of
    the manifest stand for, where that need not be imported: a function that was decorated in this process. `init` is
    for the application to see, where it does not come from `shaken`. With `explain`, answers of the host say which
    manifest key would change them.

    Raises ChannelError for channels that cannot be (TLS files that are missing), OSError for the trace.
    """
    environ = os.environ if environ is None else environ
    if handshake is not None:
        environ = {**environ, **handshake.init.env}
    stream = stream or standard_error()
    maker = _Maker(manifest, environ, stream, handshake, trace, objects, init)
    maker.explain = explain
    host = Host(
        manifest,
        state=maker.state,
        hooks=maker.hooks,
        checks=maker.checks,
        applications=maker.applications,
        schemes=maker.schemes,
        before=(
            maker.bridge,
            maker.stores,
            *((maker.clients,) if maker.clients is not None else ()),
            maker.outbound,
        ),
        user_state=UserState(manifest, maker.state, objects, maker.put_environment),
        tasks=maker.tasks,
        early=(maker.dev,) if maker.dev is not None else (),
        links=maker.links,
        rotation=maker.rotation,
        announced=lambda: announced(manifest, maker.applications.all, maker.routes),
        surface=maker.surface,
        status=maker.status,
        environ=environ,
        stream=stream,
    )
    maker.links.attend(maker.rotation.rotated, host.asked_to_stop, host.lost)
    return host


class _Maker:
    """What belongs to one host, and how the edge is put together once the applications are there."""

    def __init__(
        self,
        manifest: Manifest,
        environ: Mapping[str, str],
        stream: LogStream,
        handshake: Handshake | None,
        trace: Path | None,
        objects: Mapping[str, Any],
        init: InitData | None,
    ) -> None:
        self.manifest = manifest
        self.environ = environ
        self.stream = stream
        self.started = time.time()
        self.requests: RequestMetrics | NoRequestMetrics = (
            RequestMetrics(manifest.metrics.buckets) if manifest.metrics.enabled else NoRequestMetrics()
        )
        self.edge: Edge | None = None
        self.routes: Routes | None = None
        self.explain = False
        self.dev: DevServices | None = None
        masker = Masker()
        stream.mask = masker.mask_bytes
        self.metrics = Metrics(self._register_stock)
        self.checks = Checks(manifest.health, _identity(manifest), masker.mask)
        self.hooks = Hooks()
        self.private = self._private_servers()
        self.resilience = self._resilience()
        self.links = self._links(handshake, masker, trace)
        self.rotation = self._rotation(masker)
        self.schemes = self._schemes()
        self.links.inbox.vouch = self.schemes.vouch
        self.tasks, self.bridge = Tasks(self.checks), Bridge()
        self.clients = self._clients(masker)
        self.outbound = Outbound(
            self.clients,
            resilience=self.resilience,
            resolve=self._located,
            resolve_blocking=lambda name: self.bridge.call("http", lambda: self._located(name)),
        )
        self.stores = self._stores()
        self.state = AppState(
            manifest,
            metrics=self.metrics,
            checks=self.checks,
            hooks=self.hooks,
            rotation=self.rotation,
            messages=self.links.messages,
            discovery=self.links.discovery,
            tasks=self.tasks,
            bridge=self.bridge,
            outbound=self.outbound,
            stores=self.stores,
            init=init or _init_data(manifest, environ, handshake),
        )
        self.applications = Applications(manifest, self.state, self._texts, objects)
        self.rotation.dependants += [
            *self._environments(),
            *self.links.dependants(),
            *self.schemes.dependants(),
            *self.stores.dependants(),
            *(self.clients.dependants() if self.clients is not None else ()),
        ]

    def _texts(self) -> Mapping[str, str]:
        return self.rotation.store.secret_values

    def _links(self, handshake: Handshake | None, masker: Masker, trace: Path | None) -> HostChannels | NoChannels:
        channels, services = self.manifest.channels, self.manifest.services
        ways = (handshake, channels.ipc, channels.tcp, channels.http, channels.nats)
        if all(way is None for way in ways) and not services.static and not services.register_:
            return NoChannels(self.manifest.module_id)
        links: HostChannels = import_module("pywatt_host.build.channels").HostChannels(
            self.manifest,
            handshake,
            app=lambda: self.edge,
            health=self.health,
            secret_values=self._texts,
            masker=masker,
            trace=trace,
            policy=self.resilience.for_messages,
            private=self.private,
        )
        links.add_checks(self.checks)
        return links

    def _rotation(self, masker: Masker) -> Rotation:
        secrets = self.manifest.secrets
        sources = make_sources(
            secrets.sources, directory=self.manifest.directory, environ=self.environ, fetch=self.links.fetch
        )
        store = SecretStore(self.manifest.secret_keys, sources, masker)
        rotation = Rotation(store, rotate=secrets.rotate, interval=secrets.interval)
        if secrets.rotate:
            self.checks.add("secrets", rotation.check, optional=True)
        return rotation

    def _schemes(self) -> Schemes | NoSchemes:
        if not self.manifest.auth:
            return NoSchemes()
        schemes: Schemes = import_module("pywatt_host.auth.schemes").Schemes(self.manifest, self._texts)
        if schemes.fetches:
            self.checks.add("auth", schemes.check, optional=True)
        return schemes

    def _clients(self, masker: Masker) -> Tokens | None:
        if not self.manifest.clients:
            return None
        tokens: Tokens = import_module("pywatt_host.clients.tokens").Tokens(self.manifest, self._texts, masker.add)
        return tokens

    async def _located(self, name: str) -> list[Address]:
        """Who answers for module://NAME. Raises MessagingError."""
        address = import_module("pywatt_host.clients.resilience.providers").Address
        return [address(url, healthy) for url, healthy in await self.links.discovery.locate(name)]

    def _resilience(self) -> Resilience | NoResilience:
        targets = self.manifest.resiliency.targets
        if not targets.modules and not targets.clients:
            return NoResilience()
        resilience: Resilience = import_module("pywatt_host.clients.resilience.targets").Resilience(self.manifest)
        resilience.add_checks(self.checks)
        return resilience

    def _stores(self) -> Datastores | NoStores:
        manifest = self.manifest
        if not manifest.databases and not manifest.caches:
            return NoStores()
        around = import_module("pywatt_host.stores.kinds").StoreContext(
            manifest.directory, manifest.module_id, self.links.stores, self.private
        )
        stores: Datastores = import_module("pywatt_host.stores.service").Datastores(
            manifest.databases,
            manifest.caches,
            self._texts,
            around,
            start_period=manifest.health.start_period,
            rotates=manifest.secrets.rotate,
        )
        stores.add_checks(self.checks)
        return stores

    def _private_servers(self) -> Callable[[str, str], Awaitable[str]] | None:
        """Where `dev` and `up` say that there may be such, and a store or a channel may ask for one."""
        nats = self.manifest.channels.nats
        folder = self.environ.get(DEV_SERVICES)
        urls = [store.url for store in self.manifest.databases.values()]
        urls += [store.url for store in self.manifest.caches.values()]
        urls += nats.servers if nats is not None else ()
        if folder is None or not any(DEV_SCHEME in str(url) or isinstance(url, SecretTemplate) for url in urls):
            return None
        services: DevServices = import_module("pywatt_host.devservices.services").DevServices(
            Path(folder), self.environ
        )
        self.dev = services
        return services.url

    def _environments(self) -> Iterator[Dependant]:
        """`app.env` with secrets in it."""
        for application in self.applications.all:
            templates = [value for value in application.environment.values() if isinstance(value, SecretTemplate)]
            names = frozenset(name for template in templates for name in template.names)
            if names:
                yield EnvironmentDependant(f"{application.key}.env", names, application.put_environment)

    def put_environment(self) -> None:
        """`app.env`, for what is called before the application is loaded."""
        if self.manifest.app is not None:
            self.applications.all[0].put_environment(self._texts())

    def health(self) -> dict[str, Any]:
        """What a heartbeat is answered with (extension `health`)."""
        _, report = self.checks.report()
        status = report["status"] if report["status"] in ("healthy", "degraded") else "unhealthy"
        return {"status": "unhealthy" if self.checks.draining else status, "checks": report["checks"]}

    def _register_stock(self, registry: Any) -> None:
        exposition = import_module("pywatt_host.observability.exposition")
        if isinstance(self.requests, RequestMetrics):
            registry.register(exposition.RequestCollector(self.requests, self._active))
        registry.register(exposition.FamilyCollector(self._families))

    def _families(self) -> Iterator[Family | Histogram]:
        yield from self.stores.families()
        yield from self.links.families()
        yield from self.tasks.families()
        yield from self.resilience.families()
        results: dict[tuple[str, ...], float] = {
            (result,): float(self.rotation.counts[result]) for result in ("success", "error")
        }
        if self.manifest.auth:
            refused: dict[tuple[str, ...], float] = {key: float(count) for key, count in self.schemes.counts.items()}
            doc = "Requests refused for their credential, by scheme and reason."
            yield Family("counter", "pywatt_auth_failures", doc, ("scheme", "reason"), refused)
        yield Family("counter", "pywatt_secret_rotations", "Rotations of secrets, by result.", ("result",), results)

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
        health = manifest.health
        beside = health.enabled and server.admin is None and await self._app_serves(health.path)
        if beside:
            own[health.path] = self._health_beside_app
            self.checks.add("app", self._ask_app)
        self.routes = compile_routes(manifest, self.applications.all, self.requests, self.schemes.guard, health=beside)
        door, http = self.links.door, manifest.channels.http
        self.edge = Edge(
            mounts=self.applications.mounts(),
            routes=self.routes,
            own={} if server.admin is not None else own,
            doors={http.path: door} if door is not None and http is not None else {},
            forwarding=Forwarding(self._trusted(), guarded=bool(manifest.auth)),
            access_log=self._access_log(),
            concurrency=server.limits.concurrency,
            cors=cors(server.cors) if server.cors is not None else None,
            explain=Explanations(manifest) if self.explain else None,
        )
        return Surface(self.edge, HostPathsApp(own) if server.admin is not None else None)

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

    def _own_paths(self) -> dict[str, HostPath]:
        health, metrics = self.manifest.health, self.manifest.metrics
        own: dict[str, HostPath] = {}
        if health.enabled:
            own[health.path] = reported(self.checks.report)
            own[health.liveness] = reported(self.checks.liveness)
            own[health.readiness] = reported(self.checks.readiness)
        if metrics.enabled:
            own[metrics.path] = guarded(self._scrape, self.schemes.guard(metrics.auth))
        return own

    async def _scrape(self, scope: Scope) -> Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        text, content_type = await asyncio.to_thread(self._render, accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(text)).encode())]
        return 200, headers, text

    def _render(self, accept: str) -> tuple[bytes, str]:
        exposition = import_module("pywatt_host.observability.exposition")
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
                if not takes_everything(route.path, application.prefix):
                    add_route(table, route.path, method)
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
        return None if self.checks.passing(but="app") else await reported(self.checks.report)(scope)


def _init_data(manifest: Manifest, environ: Mapping[str, str], handshake: Handshake | None) -> InitData:
    if handshake is None:
        return InitData(manifest.module_id, None, MappingProxyType(dict(environ)), None)
    init = handshake.init
    return InitData(init.module_id, init.orchestrator_api, MappingProxyType(dict(init.env)), init.listen)


def _identity(manifest: Manifest) -> dict[str, Any]:
    module = manifest.module
    identity: dict[str, Any] = {"id": manifest.module_id}
    for name in ("version", "description"):
        if getattr(module, name) is not None:
            identity[name] = getattr(module, name)
    if module.labels:
        identity["labels"] = dict(module.labels)
    return {"module": identity}
