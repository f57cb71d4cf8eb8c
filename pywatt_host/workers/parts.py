"""The parts of a supervisor: each object that a host with workers has once, made and given what it needs."""

from __future__ import annotations

import os
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.none import NoChannels
from pywatt_host.build.parts import identity_of
from pywatt_host.build.tracing import make_tracing
from pywatt_host.devservices import dev_folder
from pywatt_host.http.redirect import RedirectApp
from pywatt_host.http.server.server import HttpServer
from pywatt_host.manifest.model import Manifest
from pywatt_host.net.tls_material import TlsMaterial
from pywatt_host.observability.health import Checks
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.spans import AnyTracer, NoTracer
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.protocol.messages import WorkerSpans
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.runtime.certificates import FailedHandshakes, certificates_of
from pywatt_host.runtime.host import bounds_of
from pywatt_host.runtime.shutdown import Shutdown
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.secrets.sources import make_sources
from pywatt_host.workers.admin import HostPathsOfNow, OwnServers
from pywatt_host.workers.channel_requests import ChannelRequestsToWorkers
from pywatt_host.workers.families import SupervisorFamilies
from pywatt_host.workers.generation import Generation
from pywatt_host.workers.health import HostHealth, WorkerHealth
from pywatt_host.workers.host_paths import SupervisorMetrics, SupervisorPaths
from pywatt_host.workers.outside import Outside
from pywatt_host.workers.pool import WorkerPool
from pywatt_host.workers.registrations import Registrations
from pywatt_host.workers.requests import WorkerRequests
from pywatt_host.workers.routing import WorkerRouting
from pywatt_host.workers.surroundings import AppInit, Follower, Surroundings
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.worker_secrets import WorkerSecrets
from pywatt_host.workers.zygote_process import environment_of_workers

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.manifest.values.names import Script
    from pywatt_host.messaging.incoming import Incoming
    from pywatt_host.observability.span_sender import SpanCounts


class SupervisorParts:
    """Makes all parts, each once. `manifest` and `schemes` are those in use: a reload replaces them.

    Where two parts need each other, the later one is given to the earlier as a function that is called when it is
    needed.
    """

    def __init__(
        self,
        manifest: Manifest,
        environ: Mapping[str, str],
        stream: LogStream,
        *,
        handshake: Handshake | None,
        trace: Path | None,
        script: Script | None,
    ) -> None:
        """`script` is the Python file with the decorated function that the manifest comes from. Raises ChannelError for
        channels that cannot be made, OSError for a trace that cannot be written."""
        self._init_env = handshake.init.env if handshake is not None else {}
        environ = {**environ, **self._init_env}
        self.manifest = manifest
        self.environ = environ
        self.schemes: Schemes | NoSchemes = NoSchemes()  # that guard the metrics, where the supervisor serves them
        self.reloads: Counter[str] = Counter()  # by result
        self._script = script
        self._created = time.time()
        self._first: Generation | None = None  # while it starts
        self._rotated_lately: set[str] = set()  # names of secrets, since a generation began to fetch its own
        self._generations = 0
        self._checks_tls = False
        self._span_counts: SpanCounts | None = None  # where tracing is or was on
        self.start_spans = StartSpans(lambda: self.tracer)
        self.masker = Masker()
        stream.mask_with(self.masker.mask_bytes)
        self.shutdown = Shutdown(manifest.server.timeouts, before_exit=self._kill_all)
        self.checks = Checks(manifest.health, identity_of(manifest), self.masker.mask)
        self.around = Surroundings(
            _app_init(environ, handshake),
            dict(environ),
            lambda: self.requests.dispatch,
            self._followers,
            manifest.channels.limits.frame,
            self._materials_of,
        )
        self.pool = WorkerPool(joined=self.around.joined, left=self.around.left, vanished=self.around.vanished)
        self.health = HostHealth(
            self.checks, self._health_of_workers, lambda: self.pool.wanted, lambda: self.pool.looping
        )
        self.channels = self._make_channels(handshake, trace)
        self.failed_handshakes = FailedHandshakes()  # of the supervisor's own servers
        families = SupervisorFamilies(self.pool, self.channels, self.reloads)
        self.metrics = SupervisorMetrics(self.pool.all, families, self.failed_handshakes)
        paths = self.paths = SupervisorPaths(
            lambda: self.manifest, self.health, self.metrics, lambda: self.schemes, environ
        )
        admin = HostPathsOfNow(paths.table, lambda: paths.hosts().admin_check())
        public = HostPathsOfNow(paths.table, lambda: paths.hosts().public_check(), paths.added)
        drain, failed = self.shutdown.drain, self.failed_handshakes
        beside = self.around.sockets.on_port_of
        self.admin = OwnServers("admin", "server.admin.listen", admin, drain, beside, failed)
        redirect = RedirectApp(self._secure_port, paths.host_allowed)
        self.redirect = OwnServers("redirect", "server.tls.redirect", redirect, drain, beside)
        self.around.sockets.beside(lambda: [*self.admin.listeners, *self.redirect.listeners])
        self.stand_in = HttpServer("stand-in", public, (), bounds_of(manifest), self.shutdown.drain)
        outside = Outside(self.channels)
        self.registrations = Registrations(manifest.module_id, self.channels.discovery)
        self.routing = WorkerRouting(manifest.module_id, outside, self.pool.candidates, outside.subscribe)
        self.requests = WorkerRequests(
            module_id=manifest.module_id,
            routing=self.routing,
            registrations=self.registrations,
            upstream=outside,
            secrets=self._secrets_of,
            snapshot=self.metrics.update,
            host_path=self.paths.for_worker,
            healthy=lambda: self.health.report()[0] == 200,
            drains=self.pool.drains,
            spans=self._take_spans,
        )

    def _make_channels(self, handshake: Handshake | None, trace: Path | None) -> HostChannels | NoChannels:
        """The channels that the host has once: to the orchestrator, and those where other modules connect."""
        channels = self.manifest.channels
        if handshake is None and channels.ipc is None and channels.tcp is None:
            return NoChannels(self.manifest.module_id)
        services = self.manifest.services.model_copy(update={"static": (), "register_": ()})
        manifest = self.manifest.model_copy(
            update={"channels": channels.model_copy(update={"http": None, "nats": None}), "services": services}
        )
        app = ChannelRequestsToWorkers(self.pool.candidates, lambda: self.manifest.server.timeouts.request)
        made: HostChannels = import_module("pywatt_host.build.channels").HostChannels(
            manifest,
            handshake,
            app=lambda: app,
            health=self.health.heartbeat,
            stop=self.shutdown.request,
            orchestrator_lost=self.shutdown.orchestrator_lost,
            secret_values=self._secret_values,
            masker=self.masker,
            trace=trace,
            take=self._take,
        )
        made.on_rotation(self._rotated)
        made.on_event(self._event)
        return made

    def new_generation(self, manifest: Manifest, environ: Mapping[str, str] | None = None) -> Generation:
        """A generation with secrets of its own, not started. `environ` is the environment as it was read anew; by
        default it is that of the start."""
        environ = self.environ if environ is None else {**environ, **self._init_env}
        secrets = manifest.secrets
        sources = make_sources(
            secrets.sources, directory=manifest.directory, environ=environ, fetch=self.channels.fetch
        )
        store = SecretStore(manifest.secret_keys, sources, self.masker)
        rotation = Rotation(store, rotate=secrets.rotate, interval=secrets.interval)
        rotation.register(*self.channels.dependants())
        self._generations += 1
        tracing = make_tracing(
            manifest,
            environ,
            masker=self.masker,
            secret_values=lambda: store.secret_values,
            time_left=self._time_for_spans,
            counts=self._span_counts,
        )
        self._span_counts = tracing.counts or self._span_counts
        generation = Generation(
            self._generations,
            manifest,
            rotation,
            self.around,
            certificates_of(manifest, lambda: store.secret_values),
            script=self._script,
            environ=environment_of_workers(dict(environ)),
            tracing=tracing,
            spans=self.start_spans,
        )
        if self.pool.current is None:
            self._first = generation
        return generation

    async def load_secrets(self, generation: Generation, tasks: TaskGroup) -> Schemes | NoSchemes:
        """Fetch the secrets and certificates of a generation, and watch them for as long as it lives. Returns the
        schemes that guard its metrics, where the supervisor serves them. Raises SecretError and TlsError."""
        manifest, rotation = generation.manifest, generation.rotation
        self._rotated_lately.clear()
        if generation.tracing.service is not None:
            await generation.stack.enter_async_context(generation.tracing.service.running(tasks))
        with self.start_spans.part("fetch secrets"):
            await generation.stack.enter_async_context(rotation.running(tasks))
        await generation.stack.enter_async_context(generation.tls.running(tasks))
        if not manifest.metrics.enabled or not manifest.metrics.auth:
            return NoSchemes()
        schemes: Schemes = import_module("pywatt_host.auth.schemes").Schemes(
            manifest, lambda: rotation.store.secret_values, dev_folder(self.environ)
        )
        rotation.register(*schemes.dependants())
        await generation.stack.enter_async_context(schemes.running(tasks))
        return schemes

    async def catch_up(self, generation: Generation) -> None:
        """Rotate what was rotated since a generation has fetched its secrets. Raises SecretError."""
        while names := self._rotated_lately:
            self._rotated_lately = set()
            await generation.rotation.rotate(names, "rotated during the reload")

    def add_checks(self) -> None:
        """The supervisor's own health checks."""
        self.channels.add_checks(self.checks)
        if self.manifest.secrets.rotate:
            self.checks.add("secrets", self._check_secrets, optional=True, known=True)

    def watch_certificates(self) -> None:
        """Add the health check of the certificates, once a generation has some."""
        if self.pool.current is not None and self.pool.current.tls.listening and not self._checks_tls:
            self._checks_tls = True
            self.checks.add("tls", self._check_tls, optional=True, known=True)

    def use(self, manifest: Manifest) -> None:
        """The manifest of another generation is in use."""
        self.manifest = manifest
        self.shutdown.use(manifest.server.timeouts)
        self.checks.use(manifest.health, identity_of(manifest))

    # What parts ask for while the host runs -------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """The number of the generation in use; 0 before the first one is."""
        return self.pool.current.number if self.pool.current is not None else 0

    @property
    def tracer(self) -> AnyTracer:
        """Makes the supervisor's own spans: that of the generation in use, or of the one that starts."""
        generation = self.pool.current or self._first
        return generation.tracing.tracer if generation is not None else NoTracer()

    def _time_for_spans(self) -> float:
        """Seconds to send the last spans of a generation. After a reload nothing asks for a stop, and none begins."""
        drain = self.shutdown.drain
        return drain.left() if drain.deadline is not None else self.manifest.server.timeouts.shutdown

    def _take_spans(self, message: WorkerSpans, worker: WorkerProcess) -> None:
        """Send the spans of a worker with the tracing of its generation."""
        for generation in self.pool.generations:
            if generation.number == worker.generation:
                generation.tracing.take(message.encoded, message.spans, message.dropped)

    def _followers(self) -> Iterable[Follower]:
        yield from (self.metrics, self.routing, self.requests, self.registrations)
        yield from (generation.secrets for generation in tuple(self.pool.generations))
        yield self.pool

    def _secrets_of(self, generation: int) -> WorkerSecrets:
        return next(each.secrets for each in self.pool.generations if each.number == generation)

    def _materials_of(self, generation: int) -> Mapping[str, TlsMaterial]:
        return next(each.materials for each in self.pool.generations if each.number == generation)

    def _secure_port(self) -> int:
        """The port of the first TLS listener."""
        address = next(each for each in self.around.sockets.addresses if each.startswith("https://"))
        return int(address.rpartition(":")[2])

    def _check_tls(self) -> None:
        if self.pool.current is not None:
            self.pool.current.tls.check()

    def _secret_values(self) -> Mapping[str, str]:
        generation = self.pool.current or self._first
        return generation.rotation.store.secret_values if generation is not None else {}

    def _check_secrets(self) -> None:
        if self.pool.current is not None:
            self.pool.current.rotation.check()

    def _health_of_workers(self) -> list[WorkerHealth]:
        current = self.pool.current
        workers = [each for each in current.workers if not each.replaced] if current is not None else []
        return [WorkerHealth(worker.name, worker.responsive, worker.report) for worker in workers]

    def _kill_all(self) -> None:
        """The process is about to end at once: nobody would stop the workers afterwards. This may run in a signal
        handler, or in another thread."""
        for generation in tuple(self.pool.generations):
            generation.kill_processes()

    # What the orchestrator, peers and the control socket ask for ----------------------------------------------------

    def _take(self, incoming: Incoming) -> None:
        self.routing.take(incoming)

    def _event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        self.routing.event(topic, source, payload, channel, vouched_by)

    async def _rotated(self, rotation_id: str, names: Sequence[str]) -> str:
        """Rotate secrets because the orchestrator says so. A reload may put another generation to use meanwhile, whose
        values were fetched before."""
        while (generation := self.pool.current or self._first) is not None:
            answer = await generation.rotation.rotated(rotation_id, names)
            if generation is (self.pool.current or self._first):
                self._rotated_lately.update(names if not answer else ())
                return answer
        return "the module is starting"

    async def rotate(self, name: str) -> dict[str, Any]:
        """Rotate a secret for the control socket. Raises HostError."""
        assert self.pool.current is not None
        changed = await self.pool.current.rotation.rotate_by_hand(name)
        self._rotated_lately.add(name)
        return {"name": name, "changed": name in changed}

    async def deliver(self, type: str, content: Mapping[str, Any], timeout: float) -> Any:
        """Give a message of the control socket to a worker, and return its reply. Raises MessagingError."""
        deadline = round(time.time() + timeout, 3)
        envelope = Envelope({**content, "type": type}, {"deadline": deadline}).seal()
        answer = await self.routing.ask("", Payload.of(envelope), "control", "process")
        return import_module("pywatt_host.messaging.messages").content_of(answer, self.manifest.module_id)

    def status(self) -> dict[str, Any]:
        """What the control socket answers, beside what is said about reloads."""
        _, report = self.health.report()
        return {
            **identity_of(self.manifest),
            "pid": os.getpid(),
            "started": round(self._created, 3),
            "manifest": os.fspath(self.manifest.source) if self.manifest.source else None,
            "status": "draining" if self.checks.draining else report["status"],
            "checks": report["checks"],
            "generation": self.number,
            "workers": [worker.status() for worker in self.pool.all()],
            "crash_loop": self.pool.looping,
            "listen": self.around.sockets.addresses,
            **({"tls": told} if self.pool.current is not None and (told := self.pool.current.tls.status()) else {}),
        }


def _app_init(environ: Mapping[str, str], handshake: Handshake | None) -> AppInit:
    if handshake is None:
        return AppInit(None, dict(environ), None, None)
    init = handshake.init
    return AppInit(init.orchestrator_api, dict(init.env), init.listen, init.auth_token)
