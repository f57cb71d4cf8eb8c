"""A worker: an ordinary host whose orchestrator is its supervisor, and whose sockets are given to it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pywatt_host.app.state import InitData
from pywatt_host.build.host import build
from pywatt_host.channels.stdio import Descriptors, Handshake
from pywatt_host.exceptions import AppLoadError, HostError
from pywatt_host.http.edge import Answer
from pywatt_host.http.server.place import Place
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.secrets import SecretSource
from pywatt_host.manifest.values import Address
from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import PassingChannel
from pywatt_host.net.shared_limits import SharedLimits, WorkerLimits
from pywatt_host.net.tls_material import ListenerTls, TlsTerms
from pywatt_host.observability.context import parse_traceparent
from pywatt_host.observability.logs import configured, standard_error
from pywatt_host.peers.client import PeerClient, WorkerHandlers
from pywatt_host.protocol.codec import line
from pywatt_host.protocol.messages import EXTENSIONS, GetHostPath, HostPathAnswer, Init, WorkerFailed
from pywatt_host.runtime.event_loop import loop_factory, tune_collector
from pywatt_host.runtime.host import Host, Ready
from pywatt_host.workers.link import WorkerSetup
from pywatt_host.workers.renewal import material_of
from pywatt_host.workers.supervisor_watch import ORPHAN_GRACE, SupervisorWatch

logger = logging.getLogger("pywatt.host")

_SOONER = 0.3  # seconds before the supervisor's limit, at which a worker cuts what still runs, and says so
_ASK_TIMEOUT = 2.0  # seconds for the supervisor to answer
_MAX_TRACE = 20_000  # characters of a traceback that the supervisor is told


def worker_manifest(manifest: Manifest, workers: int) -> Manifest:
    """The manifest of a worker: what the supervisor does for all workers is left out. Secrets come from the supervisor;
    certificates, channels where other modules connect, the orchestrator, and the endpoint of traces are the
    supervisor's. Each worker takes its share of the connections, and has stopped before the supervisor would kill
    it."""
    server, channels, secrets, tracing = manifest.server, manifest.channels, manifest.secrets, manifest.tracing
    limits, timeouts = server.limits, server.timeouts
    shutdown = max(timeouts.shutdown - _SOONER, timeouts.shutdown / 2)
    share = None if limits.connections is None else -(-limits.connections // workers)
    return manifest.model_copy(
        update={
            "server": server.model_copy(
                update={
                    "control": "off",
                    "listeners": server.listen,
                    "tls": None,
                    "admin": server.admin.model_copy(update={"tls": None}) if server.admin is not None else None,
                    "limits": limits.model_copy(update={"connections": share}),
                    "timeouts": timeouts.model_copy(update={"drain_delay": 0.0, "shutdown": shutdown}),
                }
            ),
            "channels": channels.model_copy(update={"stdio": "required", "ipc": None, "tcp": None}),
            "secrets": secrets.model_copy(update={"sources": (SecretSource(kind="orchestrator"),)}),
            "tracing": tracing.model_copy(update={"headers": {}}) if tracing is not None else None,
        }
    )


def run_worker(
    manifest: Manifest,
    environ: Mapping[str, str],
    objects: Mapping[str, Any],
    setup: WorkerSetup,
    descriptors: Sequence[int],
) -> int:
    """Run a worker until its supervisor ends it, and return the exit code. `manifest` is the one that `worker_manifest`
    has made. `descriptors` are those of `link.Start`; they belong to the worker from now on."""
    uplink, passing, shared, *sockets = descriptors
    report = socket.socket(fileno=os.dup(uplink))
    SupervisorWatch(report.fileno(), ORPHAN_GRACE).start()
    try:
        return _Worker(manifest, environ, objects, setup).run(uplink, passing, shared, sockets, report)
    finally:
        report.close()


class _Worker:
    def __init__(
        self, manifest: Manifest, environ: Mapping[str, str], objects: Mapping[str, Any], setup: WorkerSetup
    ) -> None:
        self._manifest = manifest
        self._environ = environ
        self._objects = objects
        self._setup = setup
        self._host: Host | None = None

    def run(self, uplink: int, passing: int, shared: int, sockets: Sequence[int], report: socket.socket) -> int:
        setup, manifest = self._setup, self._manifest
        stream, terminal = standard_error(), sys.stderr.isatty()
        colour = terminal and "NO_COLOR" not in self._environ
        limits = SharedLimits.attach(shared, setup.slot)
        channel = PassingChannel(socket.socket(fileno=passing), alone=limits.alone)
        listeners = [
            Listener(socket.socket(fileno=descriptor), owned=False, number=number)
            for descriptor, number in zip(sockets, setup.listeners, strict=True)
        ]
        sections = {key: ListenerTls(key, TlsTerms(material)) for key, material in setup.materials.items()}
        tls = {number: sections[key] for number, key in setup.tls.items()}
        for listener in listeners:
            listener.secure(tls.get(listener.number))
        place = Place(channel, limits.connections, lambda: self._least(limits), listeners, setup.addresses, tls)
        init = Init("", manifest.module_id, {}, auth_token=setup.auth_token, extensions=tuple(sorted(EXTENSIONS)))
        always = {"worker": setup.place + 1}
        with configured(manifest.logging, stream, terminal=terminal, colour=colour, always=always):
            try:
                host = self._host = build(
                    manifest,
                    self._environ,
                    stream,
                    handshake=Handshake(init, b"", Descriptors(uplink, os.dup(uplink)), supervised=True),
                    objects=self._objects,
                    init=InitData(
                        manifest.module_id, setup.orchestrator_api, MappingProxyType(setup.init_env), setup.init_listen
                    ),
                    limits=limits,
                    host_answers=self._ask,
                    worker=WorkerHandlers(
                        number=setup.place + 1,
                        accept=lambda: self._accept(place, limits),
                        retire=lambda why: self._retire(place, limits, why),
                        snapshot=self._snapshot,
                        renew=lambda message: sections[message.section].use(TlsTerms(material_of(message))),
                        started_by=parse_traceparent(setup.traceparent),
                    ),
                )
            except HostError as error:
                self._failed(error, report)
                return error.exit_code
            given: dict[str, Sequence[Address]] = {"server.admin.listen": ()}
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                failed = False
                try:
                    code = runner.run(host.serve(_ready, ends_process=True, sockets=given, place=place))
                except HostError as error:
                    self._failed(error, report)
                    code, failed = error.exit_code, True
            if failed:
                host.unwound()
            return code

    # Between the supervisor and the host ------------------------------------------------------------------------------

    @staticmethod
    def _accept(place: Place, limits: WorkerLimits) -> None:
        place.accept()
        limits.accepting(True)

    def _least(self, limits: WorkerLimits) -> int | None:
        """None while it drains: then it gives no connection away."""
        draining = self._host is not None and self._host.state.draining.is_set()
        return None if draining else limits.least_connections()

    def _retire(self, place: Place, limits: WorkerLimits, why: str) -> None:
        assert self._host is not None
        limits.accepting(False)
        place.retire()
        self._host.stop(why)

    async def _snapshot(self) -> list[Any]:
        assert self._host is not None
        snapshots = import_module("pywatt_host.observability.snapshots")
        found: list[Any] = await asyncio.to_thread(snapshots.snapshot, self._host.state.metrics.registry)
        return found

    async def _ask(self, path: str, accept: str, details: bool | None) -> Answer:
        """The supervisor's answer to one of the host's own paths. Raises HostError."""
        assert self._host is not None
        client: PeerClient = self._host.channels.orchestrator  # type: ignore[attr-defined]
        answer: HostPathAnswer = await client.request(GetHostPath(path, accept, details), _ASK_TIMEOUT)
        body = answer.content.encode()
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        return answer.status, [*headers, (b"content-length", b"%d" % len(body))], body

    def _failed(self, error: HostError, report: socket.socket) -> None:
        """Log why the worker cannot start, and tell the supervisor, before the event loop closes."""
        cause = error.__cause__ if isinstance(error, AppLoadError) else None
        logger.critical("%s", error, exc_info=cause)
        trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
        message = WorkerFailed(error.exit_code, str(error)[:_MAX_TRACE], trace[-_MAX_TRACE:])
        with suppress(OSError):
            report.sendall(line(message, frozenset()))


def _ready(ready: Ready) -> None:
    tune_collector()
