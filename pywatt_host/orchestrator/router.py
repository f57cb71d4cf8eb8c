"""Messages between modules: each goes to one process of its target, and gets exactly one answer."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import Message, RoutedMessage, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.wattson")

MAX_PENDING = 65536  # messages that wait for the answer of one process
_REMEMBERED = 4096  # answered messages of each process, by which a second answer is recognised
_EXPIRY_INTERVAL = 0.25  # seconds between two looks for overdue messages
_MAX_PARKED = 256  # messages that wait for a module that is not running
_MAX_PARKED_BYTES = 16 * 1024**2  # of those messages
_MAX_NAME_LENGTH = 1024  # characters of a request id or an endpoint: they are kept until there is an answer

_Key: TypeAlias = tuple[str, str]  # the module id of the sender, and its request id


class Sender(Protocol):
    """The sender of a message, who gets the answer."""

    def send(self, message: Message) -> bool: ...


@dataclass(slots=True)
class _Open:
    """A message without an answer yet. `expires` is on the clock of time.time."""

    sender: Sender
    source: str
    target: str
    endpoint: str
    request_id: str
    expires: float


class _Traffic:
    """The messages that one process was given: the open ones, and those that it has answered lately."""

    __slots__ = ("_order", "open", "settled")

    def __init__(self) -> None:
        self.open: dict[_Key, _Open] = {}
        self.settled: set[_Key] = set()
        self._order: deque[_Key] = deque()

    def settle(self, key: _Key) -> None:
        self.settled.add(key)
        self._order.append(key)
        if len(self._order) > _REMEMBERED:
            self.settled.discard(self._order.popleft())


class Router:
    """Passes a message on in the same turn of the event loop in which it arrives, without a task for each."""

    def __init__(self, modules: Mapping[str, Module], timeout: float) -> None:
        self.counts: Counter[str] = Counter()  # of messages, by result
        self._modules = modules
        self._timeout = timeout
        self._traffic: defaultdict[Replica, _Traffic] = defaultdict(_Traffic)
        self._parked: defaultdict[str, deque[tuple[_Open, Payload, int]]] = defaultdict(deque)

    def route(self, message: RouteToModule, sender: PeerConnection) -> None:
        """Take what a module sends: the answer to a message that it was given, or a new message."""
        replica: Replica = sender.owner
        if max(len(message.request_id), len(message.target_endpoint), len(message.target_module_id)) > _MAX_NAME_LENGTH:
            refused = _Open(sender, replica.module, cut(message.target_module_id, 60), "", message.request_id, 0.0)
            self._refuse(refused, "invalid_message", f"a name or an id is longer than {_MAX_NAME_LENGTH} characters")
            return
        key = (message.target_module_id, message.request_id)
        traffic = self._traffic[replica]
        opened = traffic.open.pop(key, None)
        if opened is not None:
            traffic.settle(key)
            self._answer(opened, message.payload)
            replica.settled()
        elif key in traffic.settled:
            self.counts["answered_twice_or_late"] += 1
        else:
            expires = self._expiry(message.payload, "inline_payload" in sender.session.extensions)
            opened = _Open(
                sender, replica.module, message.target_module_id, message.target_endpoint, message.request_id, expires
            )
            self._deliver(opened, message.payload)

    def ask(self, source: str, target: str, request_id: str, content: object, timeout: float, sender: Sender) -> None:
        """Send a message of the orchestrator. `timeout` is in seconds."""
        opened = _Open(sender, source, target, "", request_id, time.time() + timeout)
        self._deliver(opened, Payload.of(Envelope(content, {"deadline": round(opened.expires, 3)}).seal()))

    def _expiry(self, payload: Payload, inline: bool) -> float:
        """When a message expires: after the router's own limit, or at the deadline in the envelope if that is sooner.
        The payload is only decoded where that is cheap, or where it contains the word."""
        latest = time.time() + self._timeout
        try:
            if inline or (payload.format in ("Json", "Auto") and b'"deadline"' in payload.to_bytes()):
                deadline = Envelope.open(payload.document()).deadline
                if deadline is not None:
                    return min(latest, deadline)
        except ProtocolError:
            pass  # the target refuses it
        return latest

    # Delivering -----------------------------------------------------------------------------------------------------

    def _deliver(self, opened: _Open, payload: Payload) -> None:
        module = self._modules.get(opened.target)
        if module is None:
            self._refuse(opened, "unknown_target", f"there is no module {cut(opened.target, 60)}")
            return
        if opened.expires <= time.time():
            self._refuse(opened, "timeout", "the deadline had passed before it was delivered")
            return
        key = (opened.source, opened.request_id)
        message = RoutedMessage(opened.source, opened.request_id, payload, opened.endpoint or None)
        failure: HostError | None = None
        for replica in module.candidates():
            connection, traffic = replica.connection(), self._traffic[replica]
            if connection is None:
                continue
            if key in traffic.open:
                self._refuse(opened, "invalid_message", "a message with this request id waits for its answer")
                return
            try:
                if len(traffic.open) >= MAX_PENDING:
                    raise MessagingError("unavailable", f"{MAX_PENDING} messages wait for its answers", replica.label)
                connection.session.send(message)
            except HostError as error:
                failure = error
                continue
            traffic.open[key] = opened
            self.counts["delivered"] += 1
            return
        self._not_delivered(opened, payload, failure)

    def _not_delivered(self, opened: _Open, payload: Payload, failure: HostError | None) -> None:
        if isinstance(failure, ProtocolError):
            self._refuse(opened, "invalid_message", str(failure))
        elif isinstance(failure, MessagingError):
            code = "too_large" if failure.code == "too_large" else "handler_failed"
            self._refuse(opened, code, failure.message)
        elif not self._park(opened, payload):
            self._refuse(opened, "handler_failed", f"{opened.target} is not running")

    def _park(self, opened: _Open, payload: Payload) -> bool:
        """Keep a message until its target runs (again), or it expires; False where too many wait already."""
        if all(replica.over for replica in self._modules[opened.target].replicas):
            return False
        waiting = self._parked[opened.target]
        size = payload.size
        if len(waiting) >= _MAX_PARKED or sum(each[2] for each in waiting) + size > _MAX_PARKED_BYTES:
            return False
        waiting.append((opened, payload, size))
        self.counts["parked"] += 1
        return True

    def flush(self) -> None:
        """Deliver the messages that wait for modules which run now."""
        # Each target once: a message that cannot be delivered after all waits on, for example where a process has just
        # closed its connection.
        for target in [target for target, waiting in self._parked.items() if waiting]:
            if self._modules[target].candidates():
                waiting, self._parked[target] = self._parked[target], deque()
                for opened, payload, _ in waiting:
                    self._deliver(opened, payload)

    # Answering ------------------------------------------------------------------------------------------------------

    def _answer(self, opened: _Open, payload: Payload) -> None:
        self.counts["answered"] += 1
        response = RoutedResponse(opened.target, opened.request_id, payload)
        if isinstance(opened.sender, PeerConnection):
            try:
                opened.sender.session.send(response)
            except MessagingError as error:
                code = "too_large" if error.code == "too_large" else "handler_failed"
                self._refuse(opened, code, f"the answer cannot be passed on: {error.message}")
            except HostError as error:
                logger.debug("an answer of %s was not delivered: %s", opened.target, error)
        else:
            opened.sender.send(response)

    def _refuse(self, opened: _Open, code: str, text: str) -> None:
        self.counts[code] += 1
        content = {"type": "error", "code": code, "message": text}
        opened.sender.send(RoutedResponse(opened.target, opened.request_id, Payload.of(content)))

    def busy(self, replica: Replica) -> bool:
        """Whether a process has a message that it has not answered yet."""
        traffic = self._traffic.get(replica)
        return traffic is not None and bool(traffic.open)

    def gone(self, replica: Replica) -> None:
        """Answer the open messages of a process that has ended in its place."""
        traffic = self._traffic.pop(replica, None)
        if traffic is not None:
            for opened in traffic.open.values():
                self._refuse(opened, "handler_failed", f"{replica.label} ended before it answered")

    def expire(self, now: float) -> None:
        """Answer overdue messages with a timeout. `now` is on the clock of time.time."""
        for replica, traffic in self._traffic.items():
            late = [key for key, opened in traffic.open.items() if opened.expires <= now]
            for key in late:
                opened = traffic.open.pop(key)
                traffic.settle(key)
                self._refuse(opened, "timeout", f"{replica.label} did not answer in time")
        for target, waiting in self._parked.items():
            for entry in [entry for entry in waiting if entry[0].expires <= now]:
                waiting.remove(entry)
                self._refuse(entry[0], "timeout", f"{target} is not running")

    async def watch(self) -> None:
        """Expire overdue messages for as long as this is awaited. After a pause of this process, the answers that have
        arrived meanwhile are read first."""
        clock = RunningClock(_EXPIRY_INTERVAL)
        while True:
            await clock.next_look()
            self.expire(time.time())
