"""Sends encoded spans to one endpoint, in a thread of its own: no request ever waits for a collector."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from threading import Condition, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from pywatt_host.observability.metrics import Family
from pywatt_host.observability.trace_settings import Batching, Destination

if TYPE_CHECKING:
    from pywatt_host.observability.otlp_http import OtlpConnection, Outcome

logger = logging.getLogger("pywatt.traces")

MOST_BYTES = 4 * 1024**2  # that wait to be sent
# Of one request, unless a piece alone is longer. While the event loop is busy, a request takes tens of milliseconds,
# since the thread waits for the interpreter several times: so requests are large where there is much to send.
_REQUEST_BYTES = 1024**2
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before another try
_WARN_INTERVAL = 60.0  # seconds
_LOOK_INTERVAL = 0.2  # seconds, while secrets are being fetched
_END_GRACE = 0.1  # seconds for a request that was interrupted


class SpanCounts:
    """How many spans were sent, and how many were dropped, by reason. Any thread may count."""

    def __init__(self) -> None:
        self.exported = 0
        self.dropped: Counter[str] = Counter({"queue_full": 0, "export_failed": 0, "rejected": 0})
        self._lock = Lock()

    def export(self, spans: int) -> None:
        """An endpoint has taken spans."""
        with self._lock:
            self.exported += spans

    def drop(self, reason: str, spans: int) -> None:
        """Spans are lost."""
        with self._lock:
            self.dropped[reason] += spans

    def families(self, dropped_before: int = 0) -> Iterator[Family]:
        """As metrics. `dropped_before` were dropped before they were encoded, for want of room."""
        doc = "Spans that an OTLP endpoint has taken."
        yield Family("counter", "pywatt_spans_exported", doc, (), {(): float(self.exported)})
        dropped: dict[tuple[str, ...], float] = {
            (reason,): float(count) for reason, count in tuple(self.dropped.items())
        }
        dropped["queue_full",] += dropped_before
        doc = "Spans that were dropped, by reason."
        yield Family("counter", "pywatt_spans_dropped", doc, ("reason",), dropped)


class SpanSink(Protocol):
    """Where encoded spans go."""

    largest: int  # bytes of one piece

    def put(self, encoded: bytes, spans: int) -> None:
        """Take a piece of an ExportTraceServiceRequest, with this number of spans. It never waits."""

    async def close(self, seconds: float) -> None:
        """Send what waits to be sent, for at most this long."""


class SpanSender:
    """A sink that sends to one endpoint. `headers` gives those of the next request, None while a secret is missing.

    What waits is bounded: at most 4 MiB. A piece that the endpoint does not take is sent again, after a pause that
    grows, or that the endpoint asks for, until `Batching.give_up` has passed. The thread starts with the first piece.
    """

    largest = MOST_BYTES

    def __init__(
        self,
        destination: Destination,
        headers: Callable[[], Mapping[str, str] | None],
        counts: SpanCounts,
        batching: Batching,
        user_agent: str,
    ) -> None:
        self.url = destination.url
        self._destination = destination
        self._headers = headers
        self._counts = counts
        self._batching = batching
        self._user_agent = user_agent
        self._changed = Condition()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._bytes = 0  # of what waits and of what is being sent
        self._close_by: float | None = None  # on the monotonic clock
        self._thread: Thread | None = None
        self._ended: Callable[[], object] = lambda: None  # called once nothing is left to send
        self._connection: OtlpConnection | None = None
        self._pause = _FIRST_PAUSE
        self._warned_at = -_WARN_INTERVAL
        self._lost = 0  # spans since the last warning

    # On the event loop ----------------------------------------------------------------------------------------------

    def put(self, encoded: bytes, spans: int) -> None:
        with self._changed:
            if self._bytes + len(encoded) > MOST_BYTES or self._close_by is not None:
                self._counts.drop("queue_full", spans)
                self._lost += spans
                return
            self._bytes += len(encoded)
            self._waiting.append((encoded, spans))
            if self._thread is None:
                self._thread = Thread(target=self._run, name="pywatt-traces", daemon=True)
                self._thread.start()
            self._changed.notify()

    async def close(self, seconds: float) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            started = self._thread is not None
            self._close_by = monotonic() + seconds
            self._ended = lambda: loop.call_soon_threadsafe(ended.set)
            self._changed.notify()
        if started and not await _within(ended, seconds):
            if self._connection is not None:
                self._connection.interrupt()
            await _within(ended, _END_GRACE)

    # In the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        make = import_module("pywatt_host.observability.otlp_http").OtlpConnection
        while (piece := self._next()) is not None:
            body, spans = piece
            try:
                if self._connection is None:
                    self._connection = make(self._destination, self._user_agent)
                self._send(self._connection, body, spans)
            except Exception as error:  # named boundary: the thread goes on with the next spans
                self._drop(spans, type(error).__name__)
            with self._changed:
                self._bytes -= len(body)
        if self._connection is not None:
            self._connection.close()
        with suppress(RuntimeError):  # the event loop has not waited, and is closed
            self._ended()

    def _next(self) -> tuple[bytes, int] | None:
        """The next request: pieces joined, up to a batch of spans and 1 MiB. None where everything was sent, and
        nothing more will come."""
        with self._changed:
            while not self._waiting or (self._headers() is None and self._close_by is None):
                if self._close_by is not None:
                    return None
                self._changed.wait(_LOOK_INTERVAL if self._waiting else None)
            bodies: list[bytes] = []
            spans = length = 0
            while self._waiting:
                body, number = self._waiting[0]
                full = spans + number > self._batching.batch or length + len(body) > _REQUEST_BYTES
                if bodies and full:
                    break
                self._waiting.popleft()
                bodies.append(body)
                spans += number
                length += len(body)
            return b"".join(bodies), spans

    def _send(self, connection: OtlpConnection, body: bytes, spans: int) -> None:
        began = monotonic()
        while True:
            left = self._left(began)
            if left <= 0:
                self._drop(spans, "there was no time left to send them")
                return
            headers = self._headers()
            if headers is None:
                self._drop(spans, "a secret for tracing.headers is missing")
                return
            outcome = connection.post(body, headers, min(self._destination.timeout, left))
            if outcome.taken:
                self._took(spans, outcome)
                return
            if not outcome.again:
                self._drop(spans, outcome.reason)
                return
            pause = outcome.after
            if pause is None:  # short enough for another attempt with the same spans
                pause = min(self._pause * random.uniform(0.8, 1.2), self._batching.give_up / 2)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            closing = self._close_by is not None
            if pause >= self._left(began):
                self._drop(spans, outcome.reason)
                if not closing and outcome.after is not None:
                    self._rest(pause)
                return
            self._rest(pause, closing=closing)

    def _rest(self, seconds: float, *, closing: bool = False) -> None:
        """Wait. The request to close ends the wait, unless it was there before."""
        with self._changed:
            self._changed.wait_for(lambda: not closing and self._close_by is not None, min(seconds, _LONGEST_PAUSE))

    def _left(self, began: float) -> float:
        """Seconds until what was begun then is given up."""
        until = began + self._batching.give_up
        if self._close_by is not None:
            until = min(until, self._close_by)
        return until - monotonic()

    def _took(self, spans: int, outcome: Outcome) -> None:
        self._pause = _FIRST_PAUSE
        rejected = min(outcome.rejected, spans)
        self._counts.export(spans - rejected)
        if rejected:
            self._counts.drop("rejected", rejected)
            self._warn(rejected, outcome.reason or "it rejected them")

    def _drop(self, spans: int, why: str) -> None:
        self._counts.drop("export_failed", spans)
        self._warn(spans, why)

    def _warn(self, spans: int, why: str) -> None:
        """Log what is lost, at most once a minute."""
        self._lost += spans
        now = monotonic()
        if now - self._warned_at < _WARN_INTERVAL and self._close_by is None:
            return
        self._warned_at = now
        lost, self._lost = self._lost, 0
        logger.warning(
            "%d spans were not taken by %s: %s", lost, self.url, why, extra={"endpoint": self.url, "spans": lost}
        )


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is set in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
