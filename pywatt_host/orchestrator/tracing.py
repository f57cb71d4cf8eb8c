"""The traces of a workspace: what its modules and its gateway send is kept, and passed on to an endpoint if there is
one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import Any

from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.values import TcpAddress
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.observability.otlp import SpanEncoder
from pywatt_host.observability.span_export import SpanExport
from pywatt_host.observability.span_sender import SpanCounts, SpanSender, SpanSink
from pywatt_host.observability.spans import AnyTracer, NoTracer, SpanBuffer, Tracer
from pywatt_host.observability.trace_settings import (
    COLLECTOR,
    TOKEN_HEADER,
    Destination,
    read_settings,
    rendered,
    switched_off,
)
from pywatt_host.orchestrator.collector import PATH, CollectorApp
from pywatt_host.orchestrator.kept_traces import KeptTraces, arrived
from pywatt_host.secrets import Masker

logger = logging.getLogger("pywatt.wattson")

SERVICE = "wattson"  # the name of the gateway in traces
_SHORT = 32 * 1024  # bytes of spans that are read on the event loop: about a millisecond
_BOUNDS = Bounds(keep_alive=60.0)
# The variables with which a program says itself where its spans go.
_OWN = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


class NoWorkspaceTracing:
    """Stands in where `tracing` of the workspace is off."""

    tracer: AnyTracer = NoTracer()
    kept: KeptTraces | None = None

    def bind(self) -> list[Listener]:
        return []

    def variables(self, module: str, env: Mapping[str, str], *, ours: bool) -> dict[str, str]:
        return {}

    @asynccontextmanager
    async def running(self, tasks: TaskGroup, drain: Drain) -> AsyncIterator[None]:
        yield


class WorkspaceTracing:
    """The collector, the tracer of the gateway, and where both keep their spans."""

    def __init__(
        self,
        workspace: Workspace,
        environ: Mapping[str, str],
        secret_values: Callable[[], Mapping[str, str]],
        masker: Masker,
        time_left: Callable[[], float],
    ) -> None:
        """`time_left` is in seconds, and called at the stop."""
        self._directory = workspace.directory
        self._environ = environ
        version = str(import_module("pywatt_host").__version__)
        settings = read_settings(
            workspace.tracing, environ, name=SERVICE, version="", directory=workspace.directory, sdk=version
        )
        for warning in settings.warnings:
            logger.warning("%s", warning)
        self.kept: KeptTraces | None = KeptTraces()
        self._kept = self.kept
        self._token = secrets.token_urlsafe(32)
        masker.add("collector", self._token)
        self._listeners: list[Listener] = []
        self._url = ""
        counts, batching = SpanCounts(), settings.batching
        self._senders: list[SpanSender] = []
        self._passed_on = settings.destinations
        for destination in settings.destinations:
            for name, value in destination.headers.items():
                if isinstance(value, str):
                    masker.add(f"tracing.headers.{name}", value)
            headers = partial(_rendered, destination, secret_values)
            self._senders.append(SpanSender(destination, headers, counts, batching, f"pywatt-host/{version}"))
        buffer = SpanBuffer(batching.queue, batching.slice)
        self.tracer: AnyTracer = Tracer(buffer, settings.ratio, parent_based=settings.parent_based)
        sinks: list[SpanSink] = [self._kept, *self._senders]
        self._export = SpanExport(
            buffer,
            SpanEncoder(masker.mask),
            settings.resource,
            sinks,
            counts,
            version=version,
            delay=batching.delay,
            batch=batching.slice,
            time_left=time_left,
            secrets_version=lambda: masker.version,
        )

    def bind(self) -> list[Listener]:
        """Bind the port of the collector. Raises BindError."""
        self._listeners = bind([TcpAddress("127.0.0.1", 0)], key="tracing", directory=self._directory, backlog=128)
        self._url = self._listeners[0].address
        return self._listeners

    def variables(self, module: str, env: Mapping[str, str], *, ours: bool) -> dict[str, str]:
        """The variables that lead a module's spans here. `env` is what the workspace gives it, beside what it inherits.
        A host of this package has them beside its own endpoint; another program that names an endpoint, or whose
        variables switch traces off, is left alone."""
        if ours:
            passed_on = [
                each.fingerprint(self._token, headers=headers) for each in self._passed_on for headers in (True, False)
            ]
            return {COLLECTOR: " ".join([self._url, self._token, *passed_on])}
        if any(name in env for name in _OWN) or switched_off({**self._environ, **env}):
            return {}
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{self._url}{PATH}",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"{TOKEN_HEADER}={self._token}",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": env.get("OTEL_SERVICE_NAME", module),
        }

    @asynccontextmanager
    async def running(self, tasks: TaskGroup, drain: Drain) -> AsyncIterator[None]:
        """Take spans until the block ends; what is to be passed on is sent then."""
        server = HttpServer("traces", CollectorApp(self._token, self._take), self._listeners, _BOUNDS, drain)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._export.running(tasks))
            await stack.enter_async_context(server.running(tasks))
            yield

    async def _take(self, request: bytes) -> None:
        """Keep what has arrived, and pass it on. Raises ProtobufError."""
        read = partial(arrived, request)
        spans = self._kept.keep(read() if len(request) < _SHORT else await asyncio.to_thread(read))
        for sender in self._senders:
            sender.put(request, spans)


def _rendered(destination: Destination, secret_values: Callable[[], Mapping[str, str]]) -> Mapping[str, str] | None:
    return rendered(destination.headers, secret_values())


def make_workspace_tracing(workspace: Workspace, *arguments: Any) -> WorkspaceTracing | NoWorkspaceTracing:
    """The tracing of a workspace: on, unless `tracing: false` says otherwise."""
    if workspace.tracing is not None and not workspace.tracing.enabled:
        return NoWorkspaceTracing()
    return WorkspaceTracing(workspace, *arguments)
