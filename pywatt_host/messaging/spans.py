"""The spans of messages (OpenTelemetry semantic conventions for messaging).

The sender of a request waits for its reply: its span is of kind CLIENT, as that of a remote procedure call. Messages of
`send_message` and `publish` have a span of kind PRODUCER, which ends when the message is on its way. The handler's span
is of kind CONSUMER in each case, since a handler is not told whether its sender waits.
"""

from __future__ import annotations

from pywatt_host.exceptions import MessagingError
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.spans import AnySpan, Attributes, SpanKind, Tracer, Value

REMEMBERED = 1024  # kinds of messages whose attributes are kept
_LONGEST_NAME = 60  # characters of a name that another module has chosen


class HandlerSpans:
    """Makes the spans of the handlers of one module. What the spans of many messages have in common is made once."""

    def __init__(self, tracer: Tracer, module_id: str) -> None:
        self._tracer = tracer
        self._module_id = module_id
        self._known: dict[tuple[str, str, str, int], tuple[str, Attributes]] = {}

    def begin(self, type: str, channel: str, source: str, attempt: int, parent: TraceContext | None) -> AnySpan:
        """Begin the span of the handler of a message in the current context, below that of its sender."""
        key = (type, channel, source[:_LONGEST_NAME], attempt)
        name, attributes = self._known.get(key) or self._learn(key)
        span = self._tracer.span(name, SpanKind.CONSUMER, attributes, parent=parent, root=parent is None)
        span.begin()
        return span

    def _learn(self, key: tuple[str, str, str, int]) -> tuple[str, Attributes]:
        type, channel, source, attempt = key
        attributes = attributes_of("process", "process", self._module_id, channel)
        attributes["pywatt.message.type"] = type
        attributes["pywatt.message.source"] = source
        if attempt > 1:
            attributes["pywatt.message.attempt"] = attempt
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = found = (f"process {self._module_id} {type}", attributes)
        return found


def subscriber_span(
    tracer: Tracer, topic: str, channel: str, source: str, event_id: str | None, parent: TraceContext | None
) -> AnySpan:
    """The span of one handler of an event, below that of its publisher."""
    attributes = attributes_of("process", "process", topic, channel)
    attributes["pywatt.message.source"] = source[:_LONGEST_NAME]
    if event_id is not None:
        attributes["messaging.message.id"] = event_id[:_LONGEST_NAME]
    return tracer.span(f"process {topic}", SpanKind.CONSUMER, attributes, parent=parent, root=parent is None)


def error_type(error: BaseException) -> str:
    """What the span of a handler says about what it raised: the code of a MessagingError, else the class."""
    return error.code[:_LONGEST_NAME] if isinstance(error, MessagingError) else type(error).__qualname__


def attributes_of(name: str, type: str, destination: str, channel: str) -> dict[str, Value]:
    """The attributes of an operation on messages: its name and its type, and the module or topic that it is about."""
    found: dict[str, Value] = {
        "messaging.system": "nats" if channel == "nats" else "pywatt",
        "messaging.operation.name": name,
        "messaging.operation.type": type,
        "messaging.destination.name": destination,
    }
    if channel:
        found["pywatt.channel"] = channel
    return found
