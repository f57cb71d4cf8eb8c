"""A server in a thread of its own, behind an edge, or behind the gateway of `up`; what it logs is kept."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from pywatt_host.http.edge import Edge
from pywatt_host.http.endpoints import Table
from pywatt_host.http.exchange import Exchange, Plan
from pywatt_host.http.forwarding import Forwarding
from pywatt_host.http.routes import Mount, Routes
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.model.workspace import Gateway as GatewayManifest
from pywatt_host.manifest.model.workspace import Workspace as WorkspaceManifest
from pywatt_host.manifest.model.workspace import WorkspaceModule
from pywatt_host.net.limits import LocalGate
from pywatt_host.net.listeners import Listener
from pywatt_host.net.tls_material import ListenerTls, TlsMaterial, TlsTerms
from pywatt_host.observability.context import current_request
from pywatt_host.observability.metrics import NoCells
from pywatt_host.orchestrator.gateway import Gateway
from pywatt_host.orchestrator.gateway_log import GatewayHandler
from pywatt_host.orchestrator.module import Module
from pywatt_host.protocol.messages import Announce, AnnouncedEndpoint
from pywatt_host.types import ASGIApp
from tests.certificates import TlsClient, material
from tests.hosting import PATIENCE
from tests.http.server.answers import Client
from tests.http.server.application import Application
from tests.orchestrator.conversing import Around, Peer

BODY = 100_000  # bytes of a body of a request that are allowed; on `/small`, SMALL
SMALL = 1000
BOUNDS = Bounds(header_bytes=4096, keep_alive=60.0, websocket_message=1000, websocket_connections=2, backlog=128)
# The first segments of the paths of the application, which the module behind the gateway announces.
PATHS = (
    "echo", "early", "status", "stream", "disconnected", "large", "headers", "close", "polls", "held", "fault", "cut",
    "probe", "barrier", "small", "ws",
)  # fmt: skip


class Lines:
    """The lines of an access log: `METHOD PATH STATUS (REASON)`, and the request id of each."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str]] = []
        self._more = threading.Condition()

    def write(self, exchanges: Iterable[Exchange]) -> None:
        for exchange in exchanges:
            self.add(exchange.method, exchange.path, exchange.status, exchange.reason, exchange.request_id.decode())

    def add(self, method: str, path: str, status: int, reason: str, request_id: str) -> None:
        if path.startswith(("/probe", "/barrier")):
            return
        reason = "not HTTP" if reason.startswith("not HTTP:") else reason  # the rest are words of the parser
        with self._more:
            self._lines.append((f"{method} {path} {status}" + (f" ({reason})" if reason else ""), request_id))
            self._more.notify_all()

    def wait(self, count: int) -> None:
        """Wait until there are so many lines."""
        with self._more:
            self._more.wait_for(lambda: len(self._lines) >= count, 5)

    def clear(self) -> None:
        self._lines.clear()

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self._lines]

    @property
    def by_id(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for text, request_id in self._lines:
            found.setdefault(request_id, []).append(text)
        return found


class GatewayLines(logging.Handler):
    """Adds the lines of the gateway's access log to others, with `gateway: ` before them."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        found = vars(record)
        method, path, status, *_ = record.args if isinstance(record.args, tuple) else ()
        assert isinstance(status, int)
        request = current_request.get()
        request_id = found.get("request_id") or (request.request_id.decode() if request is not None else "")
        self._lines.add(f"gateway: {method}", str(path), status, found.get("reason", ""), request_id)


def edge_of(app: ASGIApp, lines: Lines, more_mounts: Sequence[Mount] = (), **more: Any) -> Edge:
    """An edge as a host makes it for an application without endpoints in its manifest. `more` overrides its parts."""
    keys = {"body": "server.limits.body"}
    table: Table[Plan] = Table()
    table.add("/small", ("*",), Plan("/small", NoCells(), body=SMALL, keys=keys))
    parts: dict[str, Any] = {
        "mounts": [Mount("/", app, False, {}), *more_mounts],
        "routes": Routes(table, False, Plan("unmatched", NoCells(), body=BODY, keys=keys)),
        "host_paths": {},
        "forwarding": Forwarding([]),
        "access_log": lines,
        "concurrency": LocalGate(2000),
    }
    return Edge(**{**parts, **more})


def listener() -> Listener:
    return Listener(socket.create_server(("127.0.0.1", 0)), owned=True)


class Served:
    """A server that runs, and what it has seen and logged."""

    def __init__(
        self,
        target: str,
        loop: Callable[[], asyncio.AbstractEventLoop] | None,
        bounds: Bounds,
        of: TlsMaterial | None = None,
        **edge: Any,
    ) -> None:
        """`of` is the certificate of the server, where it speaks TLS. `edge` are parts of the edge: see `edge_of`."""
        self.target = target
        self.bounds = bounds
        # The gateway adds fields to heads.
        self.module_bounds = replace(bounds, header_bytes=2 * bounds.header_bytes) if target == "gateway" else bounds
        self.app = Application()
        self.lines = Lines()
        self.edge = edge_of(self.app, self.lines, **edge)
        self.gateway_log = GatewayLines(self.lines)
        self.address: tuple[str, int] = ("", 0)
        self.module_address: tuple[str, int] = ("", 0)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tls = ListenerTls("server.tls", TlsTerms(of or material())) if target.startswith("TLS") else None
        self.failed: Counter[str] = Counter()  # handshakes, by reason
        self.drain = Drain()
        self.errors: list[dict[str, Any]] = []  # what the event loop was told of
        self._factory = loop
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.loop is not None
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    def client(self) -> Client:
        """A client that has connected, over TLS where the server speaks that."""
        return Client(self.address) if self.tls is None else TlsClient(self.address)

    def stop(self, seconds: float = PATIENCE) -> None:
        """Begin to drain."""
        assert self.loop is not None
        self.drain.deadline = time.monotonic() + seconds
        self.loop.call_soon_threadsafe(self._stop.set)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread of the server."""

        async def called() -> Any:
            return function()

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(PATIENCE)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._factory) as runner:
                runner.run(self._main())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(TaskGroup())
            self.module_address = self.address = await stack.enter_async_context(
                self._serving(self.edge, tasks, self.module_bounds)
            )
            if self.target == "gateway":
                gateway = gateway_to(self.module_address)
                stack.push_async_callback(gateway.close)
                logger = logging.getLogger("pywatt.access")
                logger.addHandler(self.gateway_log)
                stack.callback(logger.removeHandler, self.gateway_log)
                logger.setLevel(logging.INFO)
                handler = GatewayHandler(gateway, gateway.log.finished)
                self.address = await stack.enter_async_context(self._serving(handler, tasks, self.bounds))
            self._ready.set_result(None)
            await self._stop.wait()

    @asynccontextmanager
    async def _serving(
        self, app: ASGIApp | GatewayHandler, tasks: TaskGroup, bounds: Bounds
    ) -> AsyncIterator[tuple[str, int]]:
        bound, drain = listener(), self.drain
        bound.tls = self.tls
        address = bound.sock.getsockname()[:2]
        async with HttpServer("test", app, [bound], bounds, drain, failed_handshakes=self.failed).running(tasks):
            yield address
            drain.deadline = drain.deadline or time.monotonic() + 0.1


def gateway_to(address: tuple[str, int], timeout: str = "30s") -> Gateway:
    """The gateway in front of one module, which listens there and announces the paths of the application."""
    peer = Peer("module", Around()).up()
    endpoints = [
        AnnouncedEndpoint(path, ("*", "WEBSOCKET")) for name in PATHS for path in (f"/{name}", f"/{name}/{{rest:path}}")
    ]
    peer.replica.announced(Announce(f"{address[0]}:{address[1]}", tuple(endpoints)))
    module = Module("module", WorkspaceModule(command=("x",)), [peer.replica])
    return Gateway(
        {"module": module},
        WorkspaceManifest(
            version=1,
            gateway=GatewayManifest(allowed_hosts=("*",)),
            modules={"module": WorkspaceModule(command=("x",))},
        ),
    )
