"""The host's own paths, answered by the supervisor for all workers: health, probes and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.allowed_hosts import HostsOf
from pywatt_host.build.edge import added_headers
from pywatt_host.build.host_metrics import HasFamilies
from pywatt_host.http.edge import Answer, HostPath
from pywatt_host.http.host_paths import by_listener, guarded
from pywatt_host.manifest.model import Manifest
from pywatt_host.net.limits import GUESSES, LocalLimits
from pywatt_host.observability.app_metrics import AppMetrics
from pywatt_host.observability.metrics import Family, Histogram
from pywatt_host.protocol.messages import GetHostPath
from pywatt_host.types import Headers, Scope
from pywatt_host.workers.health import HostHealth
from pywatt_host.workers.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.observability.snapshots import MergedMetrics

_FRESH = 0.1  # seconds for which snapshots of workers count as new, where several scrapes arrive together
_JSON = "application/json"


class SupervisorMetrics:
    """The metrics of the host: the sum over its workers, and the supervisor's own."""

    def __init__(
        self,
        workers: Callable[[], Iterable[WorkerProcess]],
        own: Callable[[], Iterable[Family | Histogram]],
        counted: HasFamilies,
    ) -> None:
        """`own` are the families that the supervisor alone has. `counted` are added to those of the workers."""
        self._workers = workers
        self._own = own
        self._counted = counted
        self._loaded: MergedMetrics | None = None
        self._pulled = 0.0
        self._one_pull = asyncio.Lock()

    @property
    def _merged(self) -> MergedMetrics:
        """prometheus-client is loaded with the first use."""
        if self._loaded is None:
            module = import_module("pywatt_host.observability.snapshots")
            self._loaded = module.MergedMetrics(AppMetrics(self._register).registry)
        return self._loaded

    def _register(self, registry: Any) -> None:
        exposition = import_module("pywatt_host.observability.exposition")
        registry.register(exposition.FamilyCollector(self._counted.families))

    def update(self, worker: WorkerProcess, families: list[Any]) -> None:
        """Take the metrics that a worker has sent by itself."""
        self._merged.update(str(worker.key), families)

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: what it has counted stays in the sum."""
        if self._loaded is not None:
            self._loaded.ended(str(worker.key))

    async def pull(self) -> None:
        """Fetch the metrics of all workers. One that does not answer counts with what it sent last."""
        async with self._one_pull:
            if time.monotonic() - self._pulled < _FRESH:
                return
            workers = [worker for worker in self._workers() if worker.announce is not None]
            found = await asyncio.gather(*(worker.snapshot() for worker in workers))
            for worker, families in zip(workers, found, strict=True):
                if families is not None and not worker.ended.done():  # on this thread: it may end while one waits
                    self._merged.update(str(worker.key), families)
            self._pulled = time.monotonic()

    async def scrape(self, manifest: Manifest, accept: str) -> tuple[bytes, str]:
        """The text of all metrics and its content type."""
        await self.pull()
        own = list(self._own())
        return await asyncio.to_thread(self._merged.render, own, manifest.metrics.labels, accept)

    async def keep_pulling(self, interval: float) -> None:
        """Fetch the metrics every `interval` seconds, for as long as this is awaited: a worker that is killed takes
        with it only what it has counted since."""
        while True:
            await asyncio.sleep(interval)
            await self.pull()


class SupervisorPaths:
    """Answers the paths of the manifest in use, on the admin listener and for workers."""

    def __init__(
        self,
        manifest: Callable[[], Manifest],
        health: HostHealth,
        metrics: SupervisorMetrics,
        schemes: Callable[[], Schemes | NoSchemes],
        environ: Mapping[str, str],
    ) -> None:
        self._manifest = manifest
        self._health = health
        self._metrics = metrics
        self._schemes = schemes
        self._environ = environ
        self._guesses = LocalLimits().rate_limiter("guesses on metrics", GUESSES)

    def names(self) -> frozenset[str]:
        """The paths of probes and metrics."""
        return frozenset(self._paths())

    def hosts(self) -> HostsOf:
        """The hosts that the listeners answer to."""
        return HostsOf(self._manifest(), self._environ)

    def host_allowed(self, host: str) -> bool:
        """Whether a Host is one that the public listeners answer to."""
        return self.hosts().allowed.host_allowed(host)

    def added(self) -> Headers:
        """The headers of every response on a public listener."""
        return added_headers(self._manifest().server.headers)

    def _paths(self) -> Iterator[str]:
        health, metrics = self._manifest().health, self._manifest().metrics
        if health.enabled:
            yield from (health.path, health.liveness, health.readiness)
        if metrics.enabled:
            yield metrics.path

    def table(self) -> dict[str, HostPath]:
        """The paths as the supervisor serves them itself."""
        manifest = self._manifest()
        health, metrics = manifest.health, manifest.metrics
        found: dict[str, HostPath] = {}
        if health.enabled:
            found[health.path] = self._report()
            found[health.liveness] = _answering(self._health.liveness)
            found[health.readiness] = _answering(self._health.readiness)
        if metrics.enabled:
            found[metrics.path] = guarded(self._scraped, self._schemes().guard(metrics.auth), self._guesses)
        return found

    def _report(self) -> HostPath:
        full = _answering(lambda: self._health.report(details=True))
        brief = _answering(lambda: self._health.report(details=False))
        details = self._manifest().health.details
        if details is None and self._manifest().server.admin is None:
            return by_listener(full, brief, self.hosts().allowed)
        return brief if details is False else full

    async def _scraped(self, scope: Scope) -> Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
        text, content_type = await self._metrics.scrape(self._manifest(), accept)
        return 200, [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(text))], text

    async def for_worker(self, message: GetHostPath) -> tuple[int, dict[str, str], str]:
        """The answer that a worker gives on its own listener."""
        health, metrics = self._manifest().health, self._manifest().metrics
        if metrics.enabled and message.path == metrics.path:
            text, content_type = await self._metrics.scrape(self._manifest(), message.accept)
            return 200, {"content-type": content_type}, text.decode()
        if health.enabled and message.path == health.liveness:
            status, document = self._health.liveness()
        elif health.enabled and message.path == health.readiness:
            status, document = self._health.readiness()
        else:
            status, document = self._health.report(details=message.details is not False)
        return status, {"content-type": _JSON, "cache-control": "no-store"}, json.dumps(document)


def _answering(report: Callable[[], tuple[int, dict[str, Any]]]) -> HostPath:
    async def answer(scope: Scope) -> Answer:
        status, document = report()
        body = json.dumps(document).encode()
        return (
            status,
            [
                (b"content-type", _JSON.encode()),
                (b"cache-control", b"no-store"),
                (b"content-length", b"%d" % len(body)),
            ],
            body,
        )

    return answer
