"""The messages that the application sends, each within a span. Without tracing, this module is not loaded."""

from __future__ import annotations

from typing import Any, Protocol

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import Handlers, message_type, to_jsonable
from pywatt_host.messaging.spans import REMEMBERED, attributes_of, error_type
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.observability.spans import AnySpan, Attributes, SpanKind, Tracer


class Sending(Protocol):
    """What an application may do with messages. For each method see `Messages`."""

    handlers: Handlers
    topics: Subscriptions

    def channel_to(self, target: str, channel: str | None) -> str: ...

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any: ...

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None: ...

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> str: ...


class TracedMessages:
    """The messages of an application, each within a span. What is sent within it names that span as its parent."""

    def __init__(self, messages: Sending, tracer: Tracer) -> None:
        self.handlers, self.topics = messages.handlers, messages.topics
        self._messages = messages
        self._tracer = tracer
        # What the spans of many messages have in common: by operation, target, type and channel.
        self._known: dict[tuple[str, str, str, str], tuple[str, Attributes]] = {}

    def channel_to(self, target: str, channel: str | None) -> str:
        return self._messages.channel_to(target, channel)

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any:
        message = to_jsonable(message)
        with self._span("request", SpanKind.CLIENT, target, message_type(message), channel) as span:
            try:
                return await self._messages.request(target, message, timeout, authorization, channel)
            except MessagingError as error:
                span.fail(error_type(error))
                raise

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        message = to_jsonable(message)
        with self._span("send", SpanKind.PRODUCER, target, message_type(message), channel) as span:
            try:
                await self._messages.send(target, message, authorization, channel)
            except MessagingError as error:
                span.fail(error_type(error))
                raise

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> str:
        attributes = attributes_of("publish", "send", topic, channel or "")
        with self._tracer.span(f"publish {topic}", SpanKind.PRODUCER, attributes) as span:
            try:
                event_id = await self._messages.publish(topic, message, channel)
            except MessagingError as error:
                span.fail(error_type(error))
                raise
            if event_id:
                span.set("messaging.message.id", event_id)
            return event_id

    def _span(self, operation: str, kind: SpanKind, target: str, type: str, channel: str | None) -> AnySpan:
        key = (operation, target, type, self._messages.channel_to(target, channel))
        name, attributes = self._known.get(key) or self._learn(key)
        return self._tracer.span(name, kind, attributes)

    def _learn(self, key: tuple[str, str, str, str]) -> tuple[str, Attributes]:
        operation, target, type, channel = key
        attributes = {**attributes_of(operation, "send", target, channel), "pywatt.message.type": type}
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = found = (f"{operation} {target} {type}", attributes)
        return found
