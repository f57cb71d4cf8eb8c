"""Messages of a module without channels: it can send messages to itself, and receives the events that it publishes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from pywatt_host.clients.none import no_orchestrator
from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.context import Vouch
from pywatt_host.messaging.handlers import Handlers, MessageInfo, message_type, to_jsonable
from pywatt_host.messaging.subscriptions import Subscriptions, check_topic
from pywatt_host.observability.context import active_trace, current_request
from pywatt_host.observability.spans import NO_TRACER, AnyTracer

logger = logging.getLogger("pywatt.messages")

_SEND_TIMEOUT = 30.0  # seconds for the handler of a message that the module sends to itself


class LocalMessages:
    """Messages within this process only. A module can send to itself and receives the events that it publishes; a
    message to another module fails at once."""

    def __init__(self, module_id: str, vouch: Vouch | None = None, tracer: AnyTracer = NO_TRACER) -> None:
        self.handlers = Handlers(vouch, tracer, module_id)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.topics = Subscriptions(self.counts, tracer)
        self._module_id = module_id
        self._sending: set[asyncio.Task[None]] = set()

    def channel_to(self, target: str, channel: str | None) -> str:
        """The channel that a message would take: none of them, since it stays in this process."""
        return "process"

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        if target != self._module_id or channel is not None:
            no_orchestrator(target)
        message_type(to_jsonable(message))
        task = asyncio.get_running_loop().create_task(self._sent(target, message, authorization))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(self, target: str, message: Any, authorization: str | None) -> None:
        try:
            await self.request(target, message, _SEND_TIMEOUT, authorization)
        except MessagingError as error:
            logger.warning("a message to %s was not handled: %s", target, error, extra={"target": target})

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any:
        if target != self._module_id or channel is not None:
            no_orchestrator(target)
        message = to_jsonable(message)
        info = MessageInfo(self._module_id, "process", "process", time.time() + timeout)
        try:
            return await self.handlers.deliver(message_type(message), message, timeout, info, authorization)
        except MessagingError as error:
            error.target = target
            raise

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> str:
        """See Messages. The event has no id."""
        info = MessageInfo(self._module_id, "process", "process")
        trace = active_trace() if self.topics.tracer is not None else None
        self.topics.deliver(check_topic(topic), to_jsonable(message), info, None, current_request.get(), trace)
        return ""
