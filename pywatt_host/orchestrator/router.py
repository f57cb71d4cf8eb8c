"""Messages between modules: each goes to one process of its target, and is answered exactly once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.orchestrator.link import Link
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.messages import Message, RoutedMessage, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.wattson")

MOST_OPEN = 65536  # messages that wait for the answer of one process
_REMEMBERED = 4096  # answered ones of each process that are known for a second answer
_LOOK = 0.25  # seconds between two looks at what is overdue
_MOST_PARKED = 256  # messages, and octets, that may wait for a module that is not there
_MOST_PARKED_OCTETS = 16 * 1024**2
_LONGEST_NAME = 1024  # characters of a request id or an endpoint: they are kept until there is an answer

_Key: TypeAlias = tuple[str, str]  # who asked (a module id), and its request id


class Asker(Protocol):
    """Who is told the answer."""

    def send(self, message: Message) -> bool: ...


@dataclass(slots=True)
class _Open:
    """A message without an answer yet. `expires` is on the clock of time.time."""

    asker: Asker
    source: str
    target: str
    endpoint: str
    request_id: str
    expires: float


class _Traffic:
    """What one process has been given: open, and lately answered."""

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
    """Without a task for each message: what comes in goes out in the same turn of the event loop."""

    def __init__(self, modules: Mapping[str, Module], timeout: float) -> None:
        self.counts: Counter[str] = Counter()  # by what became of it
        self._modules = modules
        self._timeout = timeout
        self._traffic: defaultdict[Replica, _Traffic] = defaultdict(_Traffic)
        self._parked: defaultdict[str, deque[tuple[_Open, Payload, int]]] = defaultdict(deque)

    def route(self, message: RouteToModule, link: Link) -> None:
        """What a module sent: the answer to a message that it was given, or a new one."""
        replica = link.replica
        assert replica is not None
        if max(len(message.request_id), len(message.target_endpoint), len(message.target_module_id)) > _LONGEST_NAME:
            refused = _Open(link, replica.module, cut(message.target_module_id, 60), "", message.request_id, 0.0)
            self._refuse(refused, "invalid_message", f"a name or an id is longer than {_LONGEST_NAME} characters")
            return
        key = (message.target_module_id, message.request_id)
        traffic = self._traffic[replica]
        opened = traffic.open.pop(key, None)
        if opened is not None:
            traffic.settle(key)
            self._answer(opened, message.payload)
        elif key in traffic.settled:
            self.counts["answered_twice_or_late"] += 1
        else:
            expires = self._expiry(message.payload, "inline_payload" in link.session.extensions)
            opened = _Open(
                link, replica.module, message.target_module_id, message.target_endpoint, message.request_id, expires
            )
            self._deliver(opened, message.payload)

    def ask(self, source: str, target: str, request_id: str, content: object, timeout: float, asker: Asker) -> None:
        """A message of our own."""
        opened = _Open(asker, source, target, "", request_id, time.time() + timeout)
        self._deliver(opened, Payload.of(Envelope(content, {"deadline": round(opened.expires, 3)}).seal()))

    def _expiry(self, payload: Payload, inline: bool) -> float:
        """Our own limit, or the deadline in the envelope where that is sooner. It is read where it costs nothing, or
        where the text speaks of one."""
        latest = time.time() + self._timeout
        try:
            if inline or (payload.format in ("Json", "Auto") and b'"deadline"' in payload.to_bytes()):
                deadline = Envelope.open(payload.document()).deadline
                if deadline is not None:
                    return min(latest, deadline)
        except ProtocolError:
            pass  # the target will say so
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
            link, traffic = replica.link(), self._traffic[replica]
            if link is None:
                continue
            if key in traffic.open:
                self._refuse(opened, "invalid_message", "a message with this request id waits for its answer")
                return
            try:
                if len(traffic.open) >= MOST_OPEN:
                    raise MessagingError("unavailable", f"{MOST_OPEN} messages wait for its answers", replica.label)
                link.session.send(message)
            except HostError as error:
                failure = error
                continue
            traffic.open[key] = opened
            self.counts["delivered"] += 1
            return
        self._could_not(opened, payload, failure)

    def _could_not(self, opened: _Open, payload: Payload, failure: HostError | None) -> None:
        if isinstance(failure, ProtocolError):
            self._refuse(opened, "invalid_message", str(failure))
        elif isinstance(failure, MessagingError):
            code = "too_large" if failure.code == "too_large" else "handler_failed"
            self._refuse(opened, code, failure.message)
        elif not self._park(opened, payload):
            self._refuse(opened, "handler_failed", f"{opened.target} is not running")

    def _park(self, opened: _Open, payload: Payload) -> bool:
        """Keep it until the target is (back) there, or its time is over; False where too much waits already."""
        if all(replica.over for replica in self._modules[opened.target].replicas):
            return False
        waiting = self._parked[opened.target]
        octets = payload.size
        if len(waiting) >= _MOST_PARKED or sum(each[2] for each in waiting) + octets > _MOST_PARKED_OCTETS:
            return False
        waiting.append((opened, payload, octets))
        self.counts["parked"] += 1
        return True

    def flush(self) -> None:
        """Deliver what waits for modules that are there now."""
        # Each target once: what cannot be delivered after all, as where a process has just closed its end, waits on.
        for target in [target for target, waiting in self._parked.items() if waiting]:
            if self._modules[target].candidates():
                waiting, self._parked[target] = self._parked[target], deque()
                for opened, payload, _ in waiting:
                    self._deliver(opened, payload)

    # Answering ------------------------------------------------------------------------------------------------------

    def _answer(self, opened: _Open, payload: Payload) -> None:
        self.counts["answered"] += 1
        response = RoutedResponse(opened.target, opened.request_id, payload)
        if isinstance(opened.asker, Link):
            try:
                opened.asker.session.send(response)
            except MessagingError as error:
                code = "too_large" if error.code == "too_large" else "handler_failed"
                self._refuse(opened, code, f"the answer cannot be passed on: {error.message}")
            except HostError as error:
                logger.debug("an answer of %s finds nobody: %s", opened.target, error)
        else:
            opened.asker.send(response)

    def _refuse(self, opened: _Open, code: str, text: str) -> None:
        self.counts[code] += 1
        content = {"type": "error", "code": code, "message": text}
        opened.asker.send(RoutedResponse(opened.target, opened.request_id, Payload.of(content)))

    def gone(self, replica: Replica) -> None:
        """A process has ended: what it was given has no answer but this."""
        traffic = self._traffic.pop(replica, None)
        if traffic is not None:
            for opened in traffic.open.values():
                self._refuse(opened, "handler_failed", f"{replica.label} ended before it answered")

    def expire(self, now: float) -> None:
        """Answer what is overdue; `now` is on the clock of time.time."""
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
        """Look at what is overdue, as long as it is awaited."""
        while True:
            await asyncio.sleep(_LOOK)
            self.expire(time.time())
