"""The parts of one host: each object that its manifest asks for, made and given what it needs."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywatt_host.app.applications import Applications, WsgiThreads
from pywatt_host.app.blocking import Bridge
from pywatt_host.app.hooks import Hooks
from pywatt_host.app.state import AppState, InitData
from pywatt_host.app.tasks import Tasks
from pywatt_host.app.user_state import UserState
from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.edge import HostEdge
from pywatt_host.build.host_metrics import HostMetrics
from pywatt_host.build.none import NoChannels
from pywatt_host.build.tracing import make_tracing
from pywatt_host.clients.http import HttpClients
from pywatt_host.clients.none import NoResilience
from pywatt_host.devservices import DEV_SCHEME, dev_folder
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.net.limits import Limits, LocalLimits
from pywatt_host.observability.app_metrics import AppMetrics
from pywatt_host.observability.health import Checks
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.metrics import NoRequestMetrics, RequestMetrics
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.runtime.certificates import FailedHandshakes, certificates_of
from pywatt_host.runtime.shutdown import Shutdown
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import EnvironmentDependant, Rotation
from pywatt_host.secrets.sources import make_sources
from pywatt_host.service import Dependant
from pywatt_host.stores.none import NoStores

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.clients.resilience.providers import ProviderAddress
    from pywatt_host.clients.resilience.targets import Resilience
    from pywatt_host.clients.tokens import TokenAuth
    from pywatt_host.devservices.services import DevServices
    from pywatt_host.http.host_answers import HostAnswers
    from pywatt_host.messaging.local import LocalMessages
    from pywatt_host.messaging.messages import Messages
    from pywatt_host.messaging.traced import TracedMessages
    from pywatt_host.peers.client import WorkerHandlers
    from pywatt_host.stores.service import Datastores


class HostParts:
    """Makes all parts of a host, each once, in an order in which every part gets what it needs in its constructor.

    Where two parts need each other, the later one is registered with the earlier: `Rotation.register`,
    `HostChannels.on_rotation`, `LogStream.mask_with`. What exists only in a started host (values of secrets, the edge)
    is given as a function that is called then. A part that the manifest does not ask for is not loaded.
    """

    def __init__(
        self,
        manifest: Manifest,
        environ: Mapping[str, str],
        stream: LogStream,
        *,
        handshake: Handshake | None,
        trace: Path | None,
        objects: Mapping[str, Any],
        init: InitData | None,
        explain: bool,
        limits: Limits | None = None,
        host_answers: HostAnswers | None = None,
        worker: WorkerHandlers | None = None,
    ) -> None:
        """`limits`: see `build`."""
        self.manifest = manifest
        self._environ = environ
        self._worker = worker
        self._limits = limits or LocalLimits()
        self._created = time.time()
        masker = Masker()
        stream.mask_with(masker.mask_bytes)
        self.shutdown = Shutdown(manifest.server.timeouts)
        self.checks = Checks(manifest.health, identity_of(manifest), masker.mask)
        self.tracing = make_tracing(
            manifest,
            environ,
            masker=masker,
            secret_values=self._secret_values,
            time_left=self.shutdown.time_left,
            worker=worker.number if worker is not None else None,
            hand_spans=self._hand_spans if worker is not None else None,
        )
        self.tracer = self.tracing.tracer
        self.start_spans = StartSpans(lambda: self.tracer, worker.started_by if worker is not None else None)
        self.hooks = Hooks(self.start_spans)
        self.private_servers = self._make_private_servers()
        self.resilience = self._make_resilience()
        self.schemes = self._make_schemes()
        self.channels = self._make_channels(handshake, masker, trace, worker)
        self.rotation = self._make_rotation(masker)
        self.channels.on_rotation(self.rotation.rotated)
        self.tasks, self.bridge = Tasks(self.checks, self.tracer), Bridge()
        self.tokens = self._make_tokens(masker)
        self.outbound = HttpClients(
            self.tokens,
            resilience=self.resilience,
            resolve=self._locate,
            resolve_blocking=lambda name: self.bridge.call("http", lambda: self._locate(name)),
            tracer=self.tracer,
        )
        self.stores = self._make_stores()
        self.tls = certificates_of(manifest, self._secret_values)
        self.failed_handshakes = FailedHandshakes()
        requests = RequestMetrics(manifest.metrics.buckets) if manifest.metrics.enabled else NoRequestMetrics()
        metrics = AppMetrics(self._make_metrics(requests).register)
        self.state = AppState(
            manifest,
            metrics=metrics,
            checks=self.checks,
            hooks=self.hooks,
            rotation=self.rotation,
            messages=self._traced(self.channels.messages),
            discovery=self.channels.discovery,
            tasks=self.tasks,
            bridge=self.bridge,
            outbound=self.outbound,
            stores=self.stores,
            init=init or _init_data(manifest, environ, handshake),
        )
        self.applications = Applications(
            manifest,
            self.state,
            self.tasks,
            self._secret_values,
            objects,
            stop_failed=self.shutdown.fail,
            spans=self.start_spans,
        )
        self.wsgi_threads = WsgiThreads(self.applications, self.shutdown)
        self.user_state = UserState(manifest, self.state, objects, self._put_environment)
        self.edge = HostEdge(
            manifest,
            applications=self.applications,
            schemes=self.schemes,
            checks=self.checks,
            requests=requests,
            metrics=metrics,
            messages=self.channels.http_server,
            limits=self._limits,
            environ=environ,
            stream=stream,
            explain=explain,
            tracer=self.tracer,
            host_answers=host_answers,
            worker=worker.number if worker is not None else None,
        )
        self._add_checks()
        self.rotation.register(
            *self._environments(),
            *self.channels.dependants(),
            *self.schemes.dependants(),
            *self.stores.dependants(),
            *(self.tokens.dependants() if self.tokens is not None else ()),
        )

    def _secret_values(self) -> Mapping[str, str]:
        """The values of all secrets, by name, once they have been fetched."""
        return self.rotation.store.secret_values

    def _add_checks(self) -> None:
        """The host's own health checks, in the order in which reports list them."""
        self.resilience.add_checks(self.checks)
        self.channels.add_checks(self.checks)
        if self.manifest.secrets.rotate:
            self.checks.add("secrets", self.rotation.check, optional=True, known=True)
        self.schemes.add_checks(self.checks)
        self.stores.add_checks(self.checks)

    # What a manifest may ask for ------------------------------------------------------------------------------------

    def _make_private_servers(self) -> DevServices | None:
        """Servers for development, where `dev` or `up` allows them and a store or NATS may ask for one."""
        nats = self.manifest.channels.nats
        folder = dev_folder(self._environ)
        urls = [store.url for store in self.manifest.databases.values()]
        urls += [store.url for store in self.manifest.caches.values()]
        urls += nats.servers if nats is not None else ()
        if folder is None or not any(DEV_SCHEME in str(url) or isinstance(url, SecretTemplate) for url in urls):
            return None
        services: DevServices = import_module("pywatt_host.devservices.services").DevServices(folder, self._environ)
        return services

    @property
    def _private_server(self) -> Callable[[str, str], Awaitable[str]] | None:
        return self.private_servers.url if self.private_servers is not None else None

    def _make_resilience(self) -> Resilience | NoResilience:
        targets = self.manifest.resiliency.targets
        if not targets.modules and not targets.clients:
            return NoResilience()
        resilience: Resilience = import_module("pywatt_host.clients.resilience.targets").Resilience(self.manifest)
        return resilience

    def _make_schemes(self) -> Schemes | NoSchemes:
        if not self.manifest.auth:
            return NoSchemes()
        schemes: Schemes = import_module("pywatt_host.auth.schemes").Schemes(
            self.manifest, self._secret_values, dev_folder(self._environ)
        )
        return schemes

    def _make_channels(
        self, handshake: Handshake | None, masker: Masker, trace: Path | None, worker: WorkerHandlers | None
    ) -> HostChannels | NoChannels:
        channels, services = self.manifest.channels, self.manifest.services
        declared = (handshake, channels.ipc, channels.tcp, channels.http, channels.nats)
        if all(each is None for each in declared) and not services.static and not services.register_:
            return NoChannels(self.manifest.module_id, self.schemes.vouch, self.tracer)
        made: HostChannels = import_module("pywatt_host.build.channels").HostChannels(
            self.manifest,
            handshake,
            app=lambda: self.edge.edge,
            health=self._health,
            stop=self.shutdown.request,
            orchestrator_lost=self.shutdown.orchestrator_lost,
            secret_values=self._secret_values,
            masker=masker,
            trace=trace,
            policy=self.resilience.for_messages,
            private_server=self._private_server,
            vouch=self.schemes.vouch,
            worker=worker,
            host_limits=self._limits,
            tracer=self.tracer,
        )
        return made

    def _traced(self, messages: Messages | LocalMessages) -> Messages | LocalMessages | TracedMessages:
        """The messages of the application, with spans where tracing is on."""
        if not self.tracer.enabled:
            return messages
        traced: TracedMessages = import_module("pywatt_host.messaging.traced").TracedMessages(messages, self.tracer)
        return traced

    def _make_rotation(self, masker: Masker) -> Rotation:
        secrets = self.manifest.secrets
        sources = make_sources(
            secrets.sources, directory=self.manifest.directory, environ=self._environ, fetch=self.channels.fetch
        )
        store = SecretStore(self.manifest.secret_keys, sources, masker)
        return Rotation(store, rotate=secrets.rotate, interval=secrets.interval)

    def _make_tokens(self, masker: Masker) -> TokenAuth | None:
        if not self.manifest.clients:
            return None
        tokens: TokenAuth = import_module("pywatt_host.clients.tokens").TokenAuth(
            self.manifest, self._secret_values, masker.add, self.tracer
        )
        return tokens

    def _make_stores(self) -> Datastores | NoStores:
        manifest = self.manifest
        if not manifest.databases and not manifest.caches:
            return NoStores()
        context = import_module("pywatt_host.stores.kinds").StoreContext(
            manifest.directory, manifest.module_id, self.channels.stores, self._private_server
        )
        stores: Datastores = import_module("pywatt_host.stores.service").Datastores(
            manifest.databases,
            manifest.caches,
            self._secret_values,
            context,
            start_period=manifest.health.start_period,
            rotates=manifest.secrets.rotate,
            tracer=self.tracer,
        )
        return stores

    def _make_metrics(self, requests: RequestMetrics | NoRequestMetrics) -> HostMetrics:
        return HostMetrics(
            requests,
            running=self._running_requests,
            parts=(
                self.stores,
                self.channels,
                self.tasks,
                self.resilience,
                self.tracing,
                self.tls,
                self.failed_handshakes,
            ),
            rotations=self.rotation.counts,
            refusals=self.schemes.counts if self.manifest.auth else None,
        )

    # What parts ask for while the host runs -------------------------------------------------------------------------

    async def _locate(self, name: str) -> list[ProviderAddress]:
        """The addresses that answer for module://NAME. Raises MessagingError."""
        address = import_module("pywatt_host.clients.resilience.providers").ProviderAddress
        return [address(url, healthy) for url, healthy in await self.channels.discovery.locate(name)]

    def _environments(self) -> Iterator[Dependant]:
        """Each `env` of an application that has secrets in it."""
        for application in self.applications.all:
            templates = [value for value in application.environment.values() if isinstance(value, SecretTemplate)]
            names = frozenset(name for template in templates for name in template.names)
            if names:
                yield EnvironmentDependant(f"{application.key}.env", names, application.put_environment)

    def _put_environment(self) -> None:
        """Put `app.env` in place, for code of the user's that runs before the application is loaded."""
        if self.manifest.app is not None:
            self.applications.all[0].put_environment(self._secret_values())

    def _health(self) -> dict[str, Any]:
        """The report that heartbeats are answered with (protocol extension `health`)."""
        _, report = self.checks.report()
        status = report["status"] if report["status"] in ("healthy", "degraded") else "unhealthy"
        told = {"status": "unhealthy" if self.checks.draining else status, "checks": report["checks"]}
        return told if self._worker is None else {**told, "requests": self.edge.served_requests()}

    def _hand_spans(self, encoded: bytes, spans: int, dropped: int) -> bool:
        """Give spans to the supervisor of this worker."""
        return self.channels.hand_spans(encoded, spans, dropped)

    def _running_requests(self) -> int:
        return self.edge.running_requests()

    def status(self) -> dict[str, Any]:
        """What the control socket answers."""
        _, report = self.checks.report()
        return {
            "module": identity_of(self.manifest)["module"],
            "pid": os.getpid(),
            "started": round(self._created, 3),
            "manifest": os.fspath(self.manifest.source) if self.manifest.source else None,
            "status": "draining" if self.checks.draining else report["status"],
            "checks": report["checks"],
            "running_requests": self.edge.running_requests(),
            **({"tls": told} if (told := self.tls.status()) else {}),
        }


def _init_data(manifest: Manifest, environ: Mapping[str, str], handshake: Handshake | None) -> InitData:
    if handshake is None:
        return InitData(manifest.module_id, None, MappingProxyType(dict(environ)), None)
    init = handshake.init
    return InitData(init.module_id, init.orchestrator_api, MappingProxyType(dict(init.env)), init.listen)


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """What health reports and the control socket say about the module."""
    module = manifest.module
    identity: dict[str, Any] = {"id": manifest.module_id}
    for name in ("version", "description"):
        if getattr(module, name) is not None:
            identity[name] = getattr(module, name)
    if module.labels:
        identity["labels"] = dict(module.labels)
    return {"module": identity}
