"""What all connections of one server share: its limits, its clock, its tables, and who handles the requests."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pywatt_host.http.exchange import Exchange, Refusal
from pywatt_host.http.forwarding import FORGEABLE
from pywatt_host.http.request_head import new_request_ids
from pywatt_host.http.server.head import FieldNames, Hosts, Targets
from pywatt_host.http.server.response import STATUS_LINES, HeaderLines, bits_of
from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.types import ASGIApp

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

logger = logging.getLogger("pywatt.server")

TICK = 1.0  # seconds between two looks at the time limits, at most
_WARN_INTERVAL = 1.0  # seconds
_LEAST_RATE = 256  # bytes a second, below which a body or a response makes no progress


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a server, in bytes and seconds. None means no limit."""

    header_bytes: int = 64 * 1024
    header_seconds: float = 10.0
    keep_alive: float = 5.0
    backlog: int = 2048
    body_seconds: float | None = 30.0  # the longest time without progress of a request's body
    write_seconds: float | None = 30.0  # the longest time without progress of a response
    connections: int | None = 10_000
    connections_per_client: int | None = None
    websocket_message: int = 16 * 1024**2
    websocket_compression: bool = True
    websocket_connections: int | None = 10_000


RequestLine: TypeAlias = tuple[str, str, bytes, bytes, bool]  # method, path, raw path, query, whether it is plain


class Handler(Protocol):
    """Decides about the requests of a server. The edge of a host is one."""

    @property
    def websocket_app(self) -> ASGIApp:
        """The application that WebSockets are passed to."""

    def trusts(self, host: str) -> bool:
        """Whether an address is that of a trusted proxy, whose connections are those of many clients."""

    def accept(self, exchange: Any) -> ASGIApp | None:
        """The application to call, or None where the exchange is answered already."""

    def failed(self, exchange: Exchange, error: BaseException) -> Refusal:
        """Log what the application raised; the answer in its place, for a response that has not begun."""

    def arrived(self, exchange: Exchange) -> None:
        """The body of a request that was `arriving` is there."""

    def left(self, exchange: Exchange) -> None:
        """The application has returned, or was not called."""

    def unread(self, exchange: Exchange) -> None:
        """Prepare a request that cannot be read, so that it is counted and logged."""

    @property
    def added(self) -> Sequence[tuple[bytes, bytes]]:
        """Fields of every response that has none of that name, in lower case."""


class AppHandler:
    """Passes each request to one application, for servers without an edge."""

    added = ()

    def __init__(self, app: ASGIApp) -> None:
        self.websocket_app = app

    def trusts(self, host: str) -> bool:
        return False

    def accept(self, exchange: Any) -> ASGIApp | None:
        exchange.scope["state"] = {}
        return self.websocket_app

    def failed(self, exchange: Exchange, error: BaseException) -> Refusal:
        logger.error("%s %s raised", exchange.method, exchange.path, exc_info=error)
        return Refusal(500, "application raised")

    def arrived(self, exchange: Exchange) -> None:
        return

    def left(self, exchange: Exchange) -> None:
        return

    def unread(self, exchange: Exchange) -> None:
        return


class StatusLines(dict[int | tuple[int, int], bytes]):
    """Status lines, each with the Date and the fields of every response that follow it. The key is a status; for a
    response that has some of these fields itself, it is the status and their bits. Emptied when the second changes."""

    date = b""

    def __init__(self, added: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__()
        self._added = dict(added)
        self._bits = bits_of(self._added)

    def __missing__(self, key: int | tuple[int, int]) -> bytes:
        status, own = key if isinstance(key, tuple) else (key, 0)
        fields = {b"date": self.date, **self._added}
        lines = [b"%b: %b\r\n" % field for field in fields.items() if not own & self._bits[field[0]]]
        line = self[key] = STATUS_LINES[status] + b"".join(lines)
        return line


class Serving:
    """The state of one server.

    `now` is a coarse clock in seconds. It advances while the process runs, and stands still while the process or the
    machine is stopped, so that no time limit is over because nothing could be received.
    """

    def __init__(
        self,
        handler: Handler,
        bounds: Bounds,
        loop: asyncio.AbstractEventLoop,
        failed_handshakes: Counter[str] | None = None,
    ) -> None:
        """`failed_handshakes` counts TLS handshakes by the reason why they failed."""
        self.handler = handler
        self.bounds = bounds
        self.loop = loop
        self.connections: set[Any] = set()
        self.running: set[asyncio.Task[None]] = set()  # requests whose application has not returned
        self.websockets: set[Any] = set()
        self.websocket_tasks: set[asyncio.Task[None]] = set()  # those of `running` that belong to WebSockets
        self.on_closed: list[Callable[[Any], None]] = []  # called with each connection that has ended
        self.draining = False
        self.now = 0.0
        self.period = min(TICK, bounds.header_seconds / 4, bounds.keep_alive / 4)
        for limit in (bounds.body_seconds, bounds.write_seconds):
            if limit is not None:
                self.period = min(self.period, limit / 4)
        self.field_names = FieldNames(FORGEABLE)
        self.targets = Targets()
        self.request_lines: dict[bytes, RequestLine] = {}  # those that connections have read
        self.hosts = Hosts()
        self.header_lines = HeaderLines([name for name, _ in handler.added])
        self.status_lines = StatusLines(handler.added)
        self.ids: list[bytes] = []  # request ids in stock
        self._failed_handshakes = failed_handshakes if failed_handshakes is not None else Counter()
        self._clock = RunningClock(self.period)
        self._warned: dict[str, float] = {}  # when each limit was last warned of
        self.stamp()

    def more_ids(self) -> bytes:
        """Make a stock of request ids; returns one."""
        self.ids += new_request_ids()
        return self.ids.pop()

    def stamp(self) -> None:
        """Update the Date of the responses (RFC 9110 section 6.6.1)."""
        date = formatdate(usegmt=True).encode()
        if date != self.status_lines.date:
            self.status_lines.date = date
            self.status_lines.clear()

    def tick(self) -> None:
        """Advance the clock, and end connections that have waited for too long. Called each `period` seconds."""
        self.stamp()
        decided = self._clock.tick()
        before, self.now = self.now, self._clock.time()
        if decided:
            for connection in tuple(self.connections):
                connection.expire(self.now - before)

    def closed(self, connection: Any) -> None:
        """A connection has ended."""
        for callback in self.on_closed:
            callback(connection)

    def websocket_allowed(self) -> bool:
        """Whether one more WebSocket is within the limits."""
        limit = self.bounds.websocket_connections
        return limit is None or len(self.websockets) < limit

    def handshake_failed(self, reason: str, words: str, peer: str) -> None:
        """A TLS handshake has failed. It is logged at most once a second for each reason: anybody can connect."""
        self._failed_handshakes[reason] += 1
        if self.now - self._warned.get(reason, -_WARN_INTERVAL) >= _WARN_INTERVAL:
            self._warned[reason] = self.now
            logger.info("a TLS handshake of %s has failed: %s", peer, words, extra={"reason": reason, "peer": peer})

    def warn(self, what: str, key: str) -> None:
        """Log that a limit is reached; at most once a second for each key."""
        if self.now - self._warned.get(key, -_WARN_INTERVAL) >= _WARN_INTERVAL:
            self._warned[key] = self.now
            logger.warning("%s: over %s", what, key, extra={"key": key})


class Progress:
    """Whether bytes are moving: a credit of `seconds` that passes with the time and that moved bytes renew."""

    __slots__ = ("_credit", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = self._credit = seconds

    def stalled(self, elapsed: float, moved: int) -> bool:
        """Whether the credit is used up, after so many seconds in which so many bytes have moved."""
        self._credit = min(self._seconds, self._credit - elapsed + moved / _LEAST_RATE)
        return self._credit <= 0


def serving_of(config: Config, server_state: ServerState, loop: asyncio.AbstractEventLoop) -> Serving:
    """The state of a server of uvicorn's that uses this class of connections. It ticks by itself."""
    serving = getattr(server_state, "pywatt_serving", None)
    if serving is None:
        if not config.loaded:
            config.load()
        serving = Serving(AppHandler(config.loaded_app), Bounds(keep_alive=float(config.timeout_keep_alive)), loop)
        serving.connections, serving.running = server_state.connections, server_state.tasks
        server_state.pywatt_serving = serving  # type: ignore[attr-defined]

        def tick() -> None:
            serving.tick()
            loop.call_later(serving.period, tick)

        loop.call_later(serving.period, tick)
    return serving
