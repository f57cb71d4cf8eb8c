"""Messages between workers and other modules: the supervisor passes each on once, and answers it once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.messaging.incoming import Incoming, error_document
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.messages import Publish, RoutedResponse, RouteToModule, WorkerEvent, WorkerMessage
from pywatt_host.protocol.payload import Envelope, Payload, is_envelope
from pywatt_host.protocol.session import cut
from pywatt_host.workers.worker_process import WorkerProcess

logger = logging.getLogger("pywatt.workers")

MAX_PENDING = 65536  # messages that wait for the answers of workers
LONGEST_WAIT = 300.0  # seconds for the answer to a message that has no deadline


class Outside(Protocol):
    """The supervisor's own channels to other modules."""

    async def pass_on(self, target: str, payload: Payload, timeout: float, channel: str | None) -> Payload:
        """Send a message over `channel`, or over any, and return its answer. Raises MessagingError."""

    async def pass_event(self, topic: str, payload: Payload, channel: str | None) -> None:
        """Publish an event to other modules, over `channel` or over all."""


@dataclass(slots=True, eq=False)
class _Open:
    """A message that a worker has been given."""

    worker: WorkerProcess
    answer: asyncio.Future[Payload]


class WorkerRouting:
    """Gives messages from outside to one worker each, and events to every worker that has subscribed. What workers send
    goes to other modules, or back to a worker where it is for this module."""

    def __init__(
        self,
        module_id: str,
        outside: Outside,
        candidates: Callable[[], Sequence[WorkerProcess]],
        subscribe: Callable[[str], None],
    ) -> None:
        """`candidates` gives the workers that take messages, the best one first. `subscribe` is called with each topic
        that the first worker subscribes to."""
        self._module_id = module_id
        self._outside = outside
        self._candidates = candidates
        self._ids = Ids()
        self._open: dict[str, _Open] = {}
        self._topics: dict[str, dict[WorkerProcess, None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscribe = subscribe

    # To workers -----------------------------------------------------------------------------------------------------

    def take(self, incoming: Incoming) -> None:
        """Give a message from another module to a worker, and answer it with what the worker answers."""
        self._spawn(self._take(incoming))

    async def _take(self, incoming: Incoming) -> None:
        content: Any
        try:
            payload = await self.ask(incoming.source, incoming.payload, incoming.channel, incoming.vouched_by)
            content = payload.document()
            if is_envelope(content):
                content = Envelope.open(content).content
        except MessagingError as error:
            content = error_document(error.code, error.message)
        except ProtocolError as error:
            content = error_document("handler_failed", str(error))
        try:
            try:
                incoming.answer(self._module_id, content)
            except MessagingError as error:
                text = f"the answer cannot be passed on: {error.message}"
                incoming.answer(self._module_id, error_document(error.code, text))
        except HostError as error:
            logger.debug("%s got no answer: %s", cut(incoming.source, 60), error)

    async def ask(self, source: str, payload: Payload, channel: str, vouched_by: str) -> Payload:
        """Give a message to one healthy worker and return its answer. Raises MessagingError."""
        if len(self._open) >= MAX_PENDING:
            raise MessagingError("handler_failed", f"{MAX_PENDING} messages wait for answers", self._module_id)
        timeout = _time_left(payload)
        failure: HostError | None = None
        for worker in self._candidates():
            request_id = self._ids()
            message = WorkerMessage(source, request_id, payload, channel, vouched_by)
            try:
                worker.connection.session.send(message)
            except ProtocolError as error:
                raise MessagingError("invalid_message", str(error), self._module_id) from error
            except HostError as error:
                failure = error
                continue
            opened = self._open[request_id] = _Open(worker, asyncio.get_running_loop().create_future())
            try:
                async with asyncio.timeout(timeout):
                    return await opened.answer
            except TimeoutError:
                text = f"{worker.name} did not answer in time"
                raise MessagingError("timeout", text, self._module_id) from None
            finally:
                self._open.pop(request_id, None)
        if isinstance(failure, MessagingError):
            raise failure
        if isinstance(failure, ProtocolError):  # no worker can be given it
            raise MessagingError("invalid_message", str(failure), self._module_id) from failure
        raise MessagingError("handler_failed", "no worker is running", self._module_id)

    def event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        """Give an event to every worker that has subscribed to its topic."""
        message = WorkerEvent(topic, source, payload, channel, vouched_by)
        for worker in tuple(self._topics.get(topic, ())):
            worker.connection.send(message)

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that a worker has subscribed to."""
        return tuple(self._topics)

    # From workers ---------------------------------------------------------------------------------------------------

    def routed(self, message: RouteToModule, connection: PeerConnection) -> None:
        """Take the answer of a worker, or a message that it sends."""
        opened = self._open.get(message.request_id)
        if opened is not None and opened.worker is connection.owner:
            if not opened.answer.done():
                opened.answer.set_result(message.payload)
            return
        if self._ids.gave(message.request_id):
            logger.debug("%s answered %s twice or too late", connection.peer, message.request_id)
            return
        self._spawn(self._send(message, connection))

    async def _send(self, message: RouteToModule, connection: PeerConnection) -> None:
        target = message.target_module_id
        try:
            if target == self._module_id and message.channel is None:
                answer = await self.ask(target, message.payload, "process", "process")
            else:
                answer = await self._outside.pass_on(
                    target, message.payload, _time_left(message.payload), message.channel
                )
        except MessagingError as error:
            answer = Payload.of(error_document(error.code, error.message))
        except ProtocolError as error:
            answer = Payload.of(error_document("invalid_message", str(error)))
        except HostError as error:
            answer = Payload.of(error_document("lost", f"the channel broke before the answer: {error}"))
        try:
            connection.session.send(RoutedResponse(target, message.request_id, answer))
        except (MessagingError, ProtocolError) as error:
            code = error.code if isinstance(error, MessagingError) else "invalid_message"
            document = error_document(code, f"the answer cannot be passed on: {error}")
            connection.send(RoutedResponse(target, message.request_id, Payload.of(document)))
        except HostError as error:
            logger.debug("an answer of %s was not delivered: %s", cut(target, 60), error)

    def publish(self, message: Publish, worker: WorkerProcess) -> None:
        """Pass on an event that a worker publishes: to the other workers that have subscribed, and to other modules.
        The worker itself has delivered it to its own handlers."""
        topic, payload = message.topic, message.payload
        for other in tuple(self._topics.get(topic, ())):
            if other is not worker:
                other.connection.send(WorkerEvent(topic, self._module_id, payload, "process", "process"))
        self._spawn(self._outside.pass_event(topic, payload, message.channel))

    def subscribe(self, topic: str, worker: WorkerProcess) -> None:
        """A worker wants the events of a topic."""
        fresh = topic not in self._topics
        self._topics.setdefault(topic, {})[worker] = None
        if fresh:
            self._subscribe(topic)

    def unsubscribe(self, topic: str, worker: WorkerProcess) -> None:
        """A worker no longer wants the events of a topic."""
        workers = self._topics.get(topic)
        if workers is not None:
            workers.pop(worker, None)
            if not workers:
                del self._topics[topic]

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: answer what it was given in its place."""
        for topic in tuple(self._topics):
            self.unsubscribe(topic, worker)
        for opened in tuple(self._open.values()):
            if opened.worker is worker and not opened.answer.done():
                text = f"{worker.name} ended before it answered"
                opened.answer.set_exception(MessagingError("handler_failed", text, self._module_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop passing on."""
        for task in tuple(self._tasks):
            task.cancel()


def _time_left(payload: Payload) -> float:
    """Seconds until the deadline of a message."""
    try:
        document = payload.document()
        deadline = Envelope.open(document).deadline if is_envelope(document) else None
    except ProtocolError:
        return LONGEST_WAIT  # the receiver says what is wrong
    return LONGEST_WAIT if deadline is None else max(0.0, deadline - time.time())
