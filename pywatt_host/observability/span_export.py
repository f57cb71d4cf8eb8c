"""The exporter: takes spans from the buffer in batches, encodes them, and hands them to its sinks.

It is loaded only where tracing is on.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pywatt_host.observability.metrics import Family
from pywatt_host.observability.otlp import SpanEncoder, resource_spans
from pywatt_host.observability.span_sender import SpanCounts, SpanSink
from pywatt_host.observability.spans import Attributes, Record, SpanBuffer

logger = logging.getLogger("pywatt.traces")

_FLUSH_TIME = 2.0  # seconds at the end, at most
_LEAST_FLUSH_TIME = 0.1  # seconds, also where the shutdown limit is used up


class SpanExport:
    """The service that exports the spans of a buffer. What is still there when it stops is sent then, for at most two
    seconds.

    `batch` spans are encoded at a time, within about a millisecond; other work of the event loop runs in between.
    `secrets_version` changes with the secrets that the encoder masks.
    """

    name = "traces"

    def __init__(
        self,
        buffer: SpanBuffer,
        encoder: SpanEncoder,
        resource: Attributes,
        sinks: Sequence[SpanSink],
        counts: SpanCounts,
        *,
        version: str,
        delay: float,
        batch: int,
        time_left: Callable[[], float],
        secrets_version: Callable[[], int],
    ) -> None:
        """`delay` is the longest time that a span waits, in seconds. `version` is that of this package."""
        self.sinks = tuple(sinks)
        self._buffer = buffer
        self._encoder = encoder
        self._resource = resource
        self._counts = counts
        self._version = version
        self._delay = delay
        self._batch = batch
        self._time_left = time_left
        self._secrets_version = secrets_version
        self._known_secrets = -1
        self._failed = False  # whether a fault of the encoder was logged
        self._wanted = asyncio.Event()
        self._largest = min((sink.largest for sink in sinks), default=0)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._buffer.on_full = lambda: _call_soon(loop, self._wanted.set)
        exporting = tasks.create_task(self._export(), name="traces")
        try:
            yield
        finally:
            self._buffer.on_full = lambda: None
            exporting.cancel()
            await asyncio.wait([exporting])
            await self.flush()
            seconds = min(_FLUSH_TIME, max(self._time_left(), _LEAST_FLUSH_TIME))
            await asyncio.gather(*(sink.close(seconds) for sink in self.sinks))

    async def _export(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._delay):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self.flush()

    async def flush(self) -> None:
        """Hand all spans of the buffer to the sinks; also where it is cancelled meanwhile."""
        records = self._buffer.take()
        slices = deque(records[start : start + self._batch] for start in range(0, len(records), self._batch))
        try:
            while slices:
                self._put(slices.popleft())
                if slices:
                    await asyncio.sleep(0)
        finally:
            for each in slices:
                self._put(each)

    def _put(self, records: Sequence[Record]) -> None:
        if (version := self._secrets_version()) != self._known_secrets:
            self._known_secrets = version
            self._encoder.forget()
        try:
            encoded = resource_spans(self._resource, self._version, self._encoder.encode(records))
        except Exception:  # named boundary: a span that cannot be encoded must not stop the host
            self._counts.drop("export_failed", len(records))
            if not self._failed:
                self._failed = True
                logger.exception("%d spans could not be encoded; this is logged once", len(records))
            return
        if len(encoded) <= self._largest:
            for sink in self.sinks:
                sink.put(encoded, len(records))
        elif len(records) > 1:
            middle = len(records) // 2
            self._put(records[:middle])
            self._put(records[middle:])
        else:
            self._counts.drop("queue_full", 1)

    def families(self) -> Iterator[Family]:
        """Its metrics."""
        yield from self._counts.families(self._buffer.dropped)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:  # a thread of the application has outlived the loop
        pass
