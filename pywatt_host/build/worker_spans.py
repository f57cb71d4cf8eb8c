"""Where the spans of a worker go: to its supervisor, which sends those of all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pywatt_host.observability.span_sender import SpanCounts

_BESIDE = 1024  # bytes of a message beside the spans

# Gives encoded spans, their number, and the number of those dropped before; False where they were not taken.
HandSpans: TypeAlias = Callable[[bytes, int, int], bool]


class WorkerSpanSink:
    """A sink that hands spans to the supervisor, over the channel that both have. `frame` is the longest message there,
    in bytes; `dropped` tells how many spans the worker has dropped before they were encoded."""

    def __init__(self, hand: HandSpans, frame: int, most: int, counts: SpanCounts, dropped: Callable[[], int]) -> None:
        self.largest = min(most, (frame - _BESIDE) // 4 * 3)  # in Base64 it is longer by a third
        self._hand = hand
        self._counts = counts
        self._dropped = dropped
        self._told = 0  # of the dropped ones

    def put(self, encoded: bytes, spans: int) -> None:
        dropped = self._dropped() + sum(self._counts.dropped.values())
        if self._hand(encoded, spans, dropped - self._told):
            self._told = dropped
        else:
            self._counts.drop("queue_full", spans)

    async def close(self, seconds: float) -> None:
        return
