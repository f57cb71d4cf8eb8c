"""The last traces of a workspace, in memory: what the control socket of `up` shows of them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pywatt_host.observability.otlp_reader import Json, KeptSpan, kept_spans, read_span
from pywatt_host.observability.protobuf import ProtobufError

MOST_SPANS = 20_000
MOST_BYTES = 16 * 1024**2
_MOST_SPANS_OF_TRACE = 2_000
_OVERHEAD = 200  # bytes of memory for each span, beside its encoded bytes
_LISTED = 200  # traces of a list, by default


class KeptTraces:
    """Keeps the newest traces, encoded, and reads them when somebody asks. The oldest trace is dropped first.

    `spans` and `most_bytes` bound all of them together; a trace keeps its first 2000 spans.
    """

    largest = MOST_BYTES

    def __init__(self, spans: int = MOST_SPANS, most_bytes: int = MOST_BYTES) -> None:
        self.dropped = 0  # spans
        self._most_spans = spans
        self._most_bytes = most_bytes
        self._traces: OrderedDict[str, list[KeptSpan]] = OrderedDict()
        self._resources: dict[bytes, tuple[bytes, Counter[str]]] = {}  # each once, with the number of its spans
        self._spans = 0
        self._bytes = 0

    def add(self, request: bytes) -> int:
        """Keep the spans of an encoded ExportTraceServiceRequest. Returns how many it has. Raises ProtobufError, and
        keeps none of them then."""
        return self.keep(arrived(request))

    def keep(self, spans_of_request: Sequence[tuple[str, bytes, bytes]]) -> int:
        """Keep spans that `arrived` has read. Returns how many they are."""
        for trace_id, resource, encoded in spans_of_request:
            spans = self._traces.setdefault(trace_id, [])
            if len(spans) >= _MOST_SPANS_OF_TRACE:
                self.dropped += 1
                continue
            spans.append(KeptSpan(trace_id, self._hold(resource), encoded))
            self._spans += 1
            self._bytes += len(encoded) + _OVERHEAD
        while self._traces and (self._spans > self._most_spans or self._bytes > self._most_bytes):
            _, oldest = self._traces.popitem(last=False)
            self.dropped += len(oldest)
            self._spans -= len(oldest)
            self._bytes -= sum(len(each.encoded) + _OVERHEAD for each in oldest)
            for each in oldest:
                self._release(each.resource)
        return len(spans_of_request)

    def _hold(self, resource: bytes) -> bytes:
        """The resource, which all spans that have it share."""
        held = self._resources.get(resource)
        if held is None:
            held = self._resources[resource] = (resource, Counter())
            self._bytes += len(resource)
        held[1]["spans"] += 1
        return held[0]

    def _release(self, resource: bytes) -> None:
        held = self._resources[resource]
        held[1]["spans"] -= 1
        if not held[1]["spans"]:
            del self._resources[resource]
            self._bytes -= len(resource)

    # As the sink of the orchestrator's own spans --------------------------------------------------------------------

    def put(self, encoded: bytes, spans: int) -> None:
        self.add(encoded)

    async def close(self, seconds: float) -> None:
        return

    # Reading --------------------------------------------------------------------------------------------------------

    def listed(self, number: int = _LISTED) -> Callable[[], Json]:
        """What reads the newest traces: `{"traces": [...], "dropped"}`, the newest first. Call it in a thread."""
        newest = [(trace_id, tuple(spans)) for trace_id, spans in list(self._traces.items())[: -number - 1 : -1]]
        dropped = self.dropped
        return lambda: {"traces": [_summary(id, _read(spans)) for id, spans in newest], "dropped": dropped}

    def spans_of(self, trace_id: str) -> Callable[[], Json] | None:
        """What reads one trace: `{"trace_id", "spans": [...]}`, by their start; None where it is not known."""
        found = self._traces.get(trace_id)
        if found is None:
            return None
        spans = tuple(found)
        return lambda: {"trace_id": trace_id, "spans": _read(spans)}


def arrived(request: bytes) -> list[tuple[str, bytes, bytes]]:
    """Trace id, resource and encoded span of each span in an encoded ExportTraceServiceRequest. It touches nothing
    else, so that it can run in a thread. Raises ProtobufError, also where there are more than are ever kept."""
    found: list[tuple[str, bytes, bytes]] = []
    for each in kept_spans(request):
        if len(found) >= MOST_SPANS:
            raise ProtobufError("too many spans")
        found.append(each)
    return found


def _read(spans: Iterable[KeptSpan]) -> list[Json]:
    found = []
    for span in spans:
        try:
            found.append(read_span(span))
        except ProtobufError:
            continue  # what a foreign module has sent
    return sorted(found, key=lambda each: (each["start"], -each["end"]))


def _summary(trace_id: str, spans: list[Json]) -> Json:
    """One line about a trace. Its root is the span without a parent, else the first one whose parent is not known."""
    known = {span["span_id"] for span in spans}
    roots = [span for span in spans if not span["parent_id"]] or [
        span for span in spans if span["parent_id"] not in known
    ]
    root: dict[str, Any] = (roots or spans or [{}])[0]
    start = min((span["start"] for span in spans), default=0.0)
    return {
        "trace_id": trace_id,
        "name": root.get("name", ""),
        "service": root.get("service", ""),
        "start": start,
        "duration": max((span["end"] for span in spans), default=0.0) - start,
        "services": sorted({span["service"] for span in spans}),
        "spans": len(spans),
        "errors": sum(span["status"] == "error" for span in spans),
    }
