"""The way to the orchestrator: one conversation over each channel that leads there, the best of them preferred.

Standard input and output come with the handshake; a Unix socket or a TCP connection is made to what init or the
manifest names, kept up with backoff, and identified anew each time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pywatt_host.channels.sockets import Target
from pywatt_host.channels.stdio import Handshake, open_stdio
from pywatt_host.channels.wire import Trace
from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.codec import EnvelopeFrames, Frames, Lines, line
from pywatt_host.protocol.messages import (
    Announce,
    AnnouncedEndpoint,
    Discover,
    Draining,
    Event,
    Extensions,
    GetSecret,
    Heartbeat,
    HeartbeatAck,
    HttpRequest,
    HttpResponse,
    Identify,
    Message,
    Publish,
    Received,
    Register,
    Rotated,
    RotationAck,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    Shutdown,
    Subscribe,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import Request, agreed

logger = logging.getLogger("pywatt.channels")

# What a module of ours uses where the orchestrator offers it.
MODULE_EXTENSIONS = frozenset({"request_id", "error", "inline_payload", "health", "drain", "events", "deregister"})

_PREFERENCE = ("ipc", "tcp", "stdio")
_FIRST_RETRY, _LAST_RETRY = 0.1, 15.0  # seconds
_ANSWER_TO_IDENTIFY = 1.0  # seconds in which a peer of ours answers; others never do
_MOMENT = 1.5  # seconds that the start waits for a channel that need not be there
_RETIRE = 5.0  # seconds that a replaced connection stays for the answers that both sides owe
_LEAST_HEARTBEAT = 1.0  # seconds: a shorter interval is taken for this one when heartbeats are missed
_AGAIN = (GetSecret, Discover, Register)  # requests that may be asked again on another channel


@dataclass(frozen=True, slots=True)
class PeerHandlers:
    """What the orchestrator may ask of a module."""

    health: Callable[[], Mapping[str, Any]]
    http: Callable[[HttpRequest], Awaitable[HttpResponse]]
    message: Callable[[RoutedMessage, PeerConnection], None]
    rotated: Callable[[str, Sequence[str]], Awaitable[str]]
    shutdown: Callable[[str], None]
    lost: Callable[[str], None]
    event: Callable[[Event, PeerConnection], None] = lambda event, conversation: None


@dataclass(slots=True)
class Connector:
    """A channel that is connected to somebody: where, with which token, and how it does."""

    target: Target
    token: Callable[[], str | None]
    required: bool = False
    late: bool = False  # its token is made of secrets, which have to be there first
    conversation: PeerConnection | None = None
    ended: asyncio.Future[HostError | None] | None = None  # of that conversation
    error: str = "not connected yet"
    reconnects: int = -1  # the first connection is none
    told: bool = False  # that a peer is not there
    renewed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A connection that has identified itself, and the future of its end."""

    conversation: PeerConnection
    ended: asyncio.Future[HostError | None]


class PeerClient:
    """All channels to the orchestrator, as one service; without any, every request fails at once."""

    name = "channels"

    def __init__(
        self,
        module_id: str,
        connectors: Sequence[Connector],
        *,
        handshake: Handshake | None,
        frame_limit: int,
        handshake_timeout: float,
        heartbeats_missed: int,
        trace: Trace | None = None,
        peer: str = "",
        handlers: PeerHandlers | None = None,
        topics: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`handlers` answer what the other side asks for. `topics` gives the topics that each new connection subscribes
        to. `peer` is the module that this client leads to; empty, it leads to an orchestrator. What only an
        orchestrator may say is ignored from a module, and the start does not wait for one."""
        self.module_id = module_id
        self.connectors = list(connectors)
        self._handlers = handlers
        self._shaken = handshake
        self._frame_limit = frame_limit
        self._timeout = handshake_timeout
        self._missed = heartbeats_missed
        self._trace = trace
        self._peer = peer
        self._topics = topics
        self._route = PeerRoute(self, None)
        self._stdio: PeerConnection | None = None
        self._best: PeerConnection | None = None
        self._available = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._again: list[Callable[[PeerConnection], Awaitable[None]]] = []
        self._announce: Announce | None = None
        self._leaving = False
        self._heartbeat_at = 0.0
        self._heartbeat_every = 0.0
        offered = handshake.init.extensions if handshake is not None else ()
        self._extensions = agreed(frozenset(offered), MODULE_EXTENSIONS)

    @property
    def configured(self) -> bool:
        """Whether there is any way to an orchestrator."""
        return self._shaken is not None or bool(self.connectors)

    @property
    def address(self) -> str | None:
        """The orchestrator's API, as init names it."""
        return self._shaken.init.orchestrator_api if self._shaken is not None else None

    @property
    def on_stdio(self) -> bool:
        """Whether standard input and output lead to an orchestrator that is there."""
        return self._stdio is not None and self._stdio.open

    @property
    def best_channel(self) -> str:
        """The channel that is used now, or would be."""
        if self._best is not None:
            return self._best.channel
        return min((each.target.channel for each in self.connectors), key=_PREFERENCE.index, default="stdio")

    def conversations(self) -> list[PeerConnection]:
        """Those that are open, the preferred one first."""
        found = [connector.conversation for connector in self.connectors]
        return sorted(
            (each for each in (*found, self._stdio) if each is not None and each.open),
            key=lambda each: _PREFERENCE.index(each.channel),
        )

    def on_connected(self, again: Callable[[PeerConnection], Awaitable[None]]) -> None:
        """Call this for each new connection, such as to register services anew."""
        self._again.append(again)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        silence: asyncio.Task[None] | None = None
        try:
            if self._shaken is not None:
                await self._open_stdio(self._shaken)
                silence = tasks.create_task(self._listen_for_silence(), name="heartbeats")
            async with self.connecting(tasks, late=False):
                yield
        finally:
            self._leaving = True
            for task in (*([silence] if silence is not None else []), *self._tasks):
                task.cancel()
            for conversation in self.conversations():
                conversation.wire.close()
            if self._stdio is not None:
                self._stdio.wire.close()  # also where one of its two pipes has ended already

    @asynccontextmanager
    async def connecting(self, tasks: TaskGroup, *, late: bool) -> AsyncIterator[None]:
        """Keep those channels connected which need no secrets, or, late, those which do."""
        own: list[asyncio.Task[None]] = []
        try:
            for connector in self.connectors:
                if connector.late == late:
                    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    name = f"channel {connector.target.channel}"
                    own.append(tasks.create_task(self._keep(connector, opened), name=name))
                    await self._first(connector, opened)
            yield
        finally:
            self._leaving = True
            for task in own:
                task.cancel()

    async def _first(self, connector: Connector, opened: asyncio.Future[None]) -> None:
        """A required channel must connect, within the handshake timeout; another gets a moment."""
        if self._peer:
            return
        limit = self._timeout if connector.required else min(self._timeout, _MOMENT)
        await asyncio.wait((opened,), timeout=limit)
        if connector.conversation is None:
            channel, address = connector.target.channel, str(connector.target)
            if connector.required:
                raise ChannelError(channel, address, f"{connector.error}; it is required, and {limit:g}s are over")
            logger.warning("channel %s (%s): %s; it is tried again", channel, address, connector.error)

    async def _open_stdio(self, handshake: Handshake) -> None:
        conversation = PeerConnection(
            "stdio",
            Lines(self._frame_limit),
            line,
            self._handle,
            self._stdio_ended,
            limit=self._frame_limit,
            extensions=self._extensions,
            trace=self._trace,
        )
        conversation.name("the orchestrator")
        self._stdio = conversation
        await open_stdio(handshake, conversation.wire)
        self._choose()
        self._subscribe(conversation, self._topics())

    def _stdio_ended(self, conversation: PeerConnection, why: HostError | None) -> None:
        self._choose()
        self._is_lost(str(why) if why is not None else "standard input ended without a shutdown")

    def _is_lost(self, why: str) -> None:
        if not self._leaving and self._handlers is not None:
            self._handlers.lost(why)

    async def _listen_for_silence(self) -> None:
        """Where heartbeats were sent, so many of them missing in a row mean that nobody is there."""
        while True:
            await asyncio.sleep(_LEAST_HEARTBEAT / 2)
            if not self._heartbeat_every:
                continue
            interval = max(self._heartbeat_every, _LEAST_HEARTBEAT)
            if time.monotonic() - self._heartbeat_at > interval * (self._missed + 0.5):
                self._heartbeat_every = 0.0
                self._is_lost(f"no heartbeat for {self._missed} intervals of {interval:.3g}s")

    # Keeping a channel connected ------------------------------------------------------------------------------------

    async def _keep(self, connector: Connector, opened: asyncio.Future[None]) -> None:
        delay = _FIRST_RETRY
        while not self._leaving:
            began = time.monotonic()
            try:
                replacement = await self._connect(connector, connector.token())
            except (OSError, HostError, TimeoutError) as error:
                connector.error = _reason(error)
                if self._peer and not connector.told:
                    connector.told = True
                    logger.warning("%s at %s: %s; it is tried again", self._peer, connector.target, connector.error)
            else:
                connector.told = False
                await self._use(connector, replacement)
                if not opened.done():
                    opened.set_result(None)
                why = await _end_of(connector)
                connector.conversation = None
                connector.error = (
                    f"lost: {why.message if isinstance(why, ChannelError) else 'the other side closed it'}"
                )
                self._choose()
                if not self._leaving:
                    logger.warning("channel %s (%s) is %s", connector.target.channel, connector.target, connector.error)
            if time.monotonic() - began > _LAST_RETRY:
                delay = _FIRST_RETRY
            try:
                async with asyncio.timeout(delay * random.uniform(0.5, 1.5)):
                    await connector.renewed.wait()
            except TimeoutError:
                pass
            connector.renewed.clear()
            delay = min(delay * 2, _LAST_RETRY)

    async def _connect(self, connector: Connector, token: str | None) -> Replacement:
        """Connect and identify. Raises OSError, HostError, TimeoutError."""
        answered = asyncio.Event()
        ended: asyncio.Future[HostError | None] = asyncio.get_running_loop().create_future()

        def handle(message: Received, conversation: PeerConnection) -> None:
            if isinstance(message, Identify) and not answered.is_set():
                conversation.module_id = message.module_id
                conversation.session.extensions = agreed(frozenset(message.extensions), MODULE_EXTENSIONS)
                answered.set()
            else:
                self._handle(message, conversation)

        def over(conversation: PeerConnection, why: HostError | None) -> None:
            answered.set()
            if not ended.done():
                ended.set_result(why)

        channel = connector.target.channel
        conversation = PeerConnection(
            channel, Frames(self._frame_limit), EnvelopeFrames(), handle, over,
            limit=self._frame_limit, extensions=self._extensions, trace=self._trace,
        )  # fmt: skip
        conversation.name(f"{channel} {connector.target}")
        async with asyncio.timeout(self._timeout):
            await connector.target.connect(lambda: conversation.wire)
        offers = MODULE_EXTENSIONS if self._shaken is None or self._extensions else frozenset()
        try:
            conversation.session.send(Identify(self.module_id, token, tuple(sorted(offers))))
            async with asyncio.timeout(min(_ANSWER_TO_IDENTIFY, self._timeout / 2)):
                await answered.wait()
        except TimeoutError:
            pass  # a peer that is none of ours says nothing
        except BaseException:  # given up, such as by a start that took too long
            conversation.wire.close()
            raise
        if ended.done():
            raise ChannelError(channel, str(connector.target), "closed after identify: the id or the token was refused")
        return Replacement(conversation, ended)

    async def _use(self, connector: Connector, replacement: Replacement) -> None:
        connector.conversation, connector.ended = replacement.conversation, replacement.ended
        await self._connected(connector)

    async def prepare(self, connector: Connector, token: str | None) -> Replacement | None:
        """A connection with another token, beside the present one; None where there is none to replace. Raises
        ChannelError where that is refused."""
        if connector.conversation is None:
            return None
        try:
            return await self._connect(connector, token)
        except (OSError, TimeoutError) as error:
            channel = connector.target.channel
            raise ChannelError(channel, str(connector.target), _reason(error)) from error

    def replace(self, connector: Connector, replacement: Replacement | None) -> None:
        """Go over to what was prepared; the old connection closes once its requests are answered."""
        old, ended = connector.conversation, connector.ended
        if replacement is None or old is None or ended is None:
            if replacement is not None:  # what it was to replace was lost meanwhile, and is being connected anew
                replacement.conversation.wire.close()
            connector.renewed.set()
            return
        self._spawn(self._use(connector, replacement))
        self._spawn(_retire(old, ended))

    async def _connected(self, connector: Connector) -> None:
        conversation = connector.conversation
        assert conversation is not None
        connector.error = ""
        connector.reconnects += 1
        logger.info("channel %s is connected to %s", connector.target.channel, connector.target)
        if self._peer:
            conversation.module_id = self._peer  # as the manifest says, whatever it says itself
        self._choose()
        self._subscribe(conversation, self._topics())
        if self._announce is not None and self._stdio is None:
            conversation.reply(self._announce)
        for again in self._again:
            await again(conversation)

    def _choose(self) -> None:
        found = self.conversations()
        self._best = found[0] if found else None
        if self._best is not None:
            self._available.set()
        else:
            self._available.clear()

    # Asking and telling ---------------------------------------------------------------------------------------------

    async def request(self, message: Request, timeout: float, target: str = "", channel: str | None = None) -> Any:
        """The orchestrator's answer, over the best channel, or over this one. Waits for a channel while there is none.
        Raises MessagingError: `unavailable`, `timeout`, `lost`, or the code of an error that was answered."""
        deadline = time.monotonic() + timeout
        while True:
            conversation = self._best if channel is None else self.over(channel)
            if conversation is None and channel is not None:
                raise MessagingError("unavailable", f"channel {channel} is not connected", target)
            if conversation is None or not conversation.open:  # closing ones have not told their end yet
                self._choose()
                conversation = await self._some(deadline, target)
            try:
                return await conversation.session.request(message, max(0.001, deadline - time.monotonic()))
            except ChannelError as error:
                self._choose()
                if not isinstance(message, _AGAIN):
                    raise MessagingError(
                        "lost", f"the channel broke before the answer: {error.message}", target
                    ) from error
            except MessagingError as error:
                error.target = target or error.target
                raise

    async def _some(self, deadline: float, target: str) -> PeerConnection:
        if not self.configured:
            raise MessagingError("unavailable", "there is no orchestrator (run it under one, or see channels)", target)
        whom = self._peer or "the orchestrator"
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                while self._best is None:
                    await self._available.wait()
        except TimeoutError:
            raise MessagingError("unavailable", f"no channel to {whom} is connected", target) from None
        return self._best

    async def available(self, timeout: float, target: str = "") -> None:
        """Returns when a channel is there. Raises MessagingError `unavailable` after so many seconds."""
        await self._some(time.monotonic() + timeout, target)

    async def drained(self) -> None:
        """Returns when the best channel takes more."""
        if self._best is not None:
            await self._best.session.drained()

    def over(self, channel: str) -> PeerConnection | None:
        """The conversation over a channel, where it is open."""
        return next((each for each in self.conversations() if each.channel == channel), None)

    def routes(self, target: str, channel: str | None) -> Sequence[PeerRoute]:
        """As a carrier of messages: the orchestrator may know every module."""
        if channel is None:
            return (self._route,) if self.configured else ()
        known = {connector.target.channel for connector in self.connectors}
        known |= {"stdio"} if self._shaken is not None else set()
        return (PeerRoute(self, channel),) if channel in known else ()

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """As a carrier of messages: to everyone who is connected here and passes events on or takes them."""
        if not self.configured or (channel is not None and channel not in _PREFERENCE):
            return None
        open = [each for each in self.conversations() if channel is None or each.channel == channel]
        able = [each for each in open if "events" in each.session.extensions]
        # Channels of an orchestrator lead to the same one; without one each leads to a peer of its own.
        for conversation in able[:1] if self._shaken is not None or self._peer else able:
            conversation.reply(Publish(topic, event))
        return True if able else None if self._peer else False

    def subscribe(self, topic: str) -> None:
        """One more topic, where there are connections already."""
        for conversation in self.conversations():
            self._subscribe(conversation, (topic,))

    def _subscribe(self, conversation: PeerConnection, topics: Sequence[str]) -> None:
        if "events" in conversation.session.extensions:
            for topic in topics:
                conversation.reply(Subscribe(topic))

    def tell(self, message: Message, through: PeerConnection | None = None) -> bool:
        """Send over that conversation, else the best one; whether anyone was there."""
        for conversation in ([through] if through is not None else []) + self.conversations():
            if conversation.open:
                try:
                    conversation.session.send(message)
                    return True
                except HostError as error:
                    logger.debug("%s: %s", conversation.session.peer, error)
        return False

    def announce(self, listen: str, endpoints: Sequence[AnnouncedEndpoint]) -> None:
        """Say where the module serves what; on each channel anew where there is no stdio."""
        self._announce = Announce(listen, tuple(endpoints), tuple(sorted(self._extensions)))
        if self._stdio is not None:
            self._stdio.reply(self._announce)
            return
        for conversation in self.conversations():
            conversation.reply(self._announce)

    def draining(self) -> None:
        """Say that nothing new should come, and expect the end."""
        self._leaving = True
        for conversation in self.conversations():
            if "drain" in conversation.session.extensions:
                conversation.reply(Draining())

    # What the orchestrator says -------------------------------------------------------------------------------------

    def _handle(self, message: Received, conversation: PeerConnection) -> None:
        assert self._handlers is not None
        if isinstance(message, RoutedMessage):
            self._handlers.message(message, conversation)
        elif isinstance(message, Heartbeat):
            self._heard()
            conversation.reply(HeartbeatAck(self._health(conversation.session.extensions)))
        elif isinstance(message, Event):
            self._handlers.event(message, conversation)
        elif self._peer:
            conversation.passed_over(message)
        elif isinstance(message, HttpRequest):
            self._spawn(self._answer_http(message, conversation))
        elif isinstance(message, Rotated):
            self._spawn(self._acknowledge(message, conversation))
        elif isinstance(message, Shutdown):
            self._leaving = True
            self._handlers.shutdown("the orchestrator's shutdown")
        else:
            conversation.passed_over(message)

    def _heard(self) -> None:
        now = time.monotonic()
        if self._heartbeat_at:
            self._heartbeat_every = max(now - self._heartbeat_at, self._heartbeat_every * 0.5)
        self._heartbeat_at = now

    def _health(self, extensions: Extensions) -> Mapping[str, Any] | None:
        return self._handlers.health() if self._handlers is not None and "health" in extensions else None

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_http(self, message: HttpRequest, conversation: PeerConnection) -> None:
        assert self._handlers is not None
        response = await self._handlers.http(message)
        conversation.reply(response)

    async def _acknowledge(self, message: Rotated, conversation: PeerConnection) -> None:
        assert self._handlers is not None
        why = await self._handlers.rotated(message.rotation_id, message.keys)
        status = "error" if why else "success"
        self.tell(RotationAck(message.rotation_id, status, why or None), conversation)


class PeerRoute:
    """The way over an uplink: its best channel, or one of them."""

    keeps = False

    def __init__(self, uplink: PeerClient, channel: str | None) -> None:
        self._uplink = uplink
        self._only = channel

    @property
    def channel(self) -> str:
        return self._only or self._uplink.best_channel

    @property
    def ready(self) -> bool:
        if self._only is not None:
            return self._uplink.over(self._only) is not None
        return bool(self._uplink.conversations())

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        message = RouteToModule(target, "", request_id, payload)
        answer: RoutedResponse = await self._uplink.request(message, timeout, target, self._only)
        return answer.payload

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "no message is kept on this channel", target)

    async def available(self, timeout: float, target: str) -> None:
        await self._uplink.available(timeout, target)

    async def drained(self) -> None:
        await self._uplink.drained()


async def _end_of(connector: Connector) -> HostError | None:
    """Why the connection ended, once the one that is in use has: a replaced one does not count."""
    while True:
        ended = connector.ended
        assert ended is not None
        why = await ended
        if connector.ended is ended:
            return why


async def _retire(conversation: PeerConnection, ended: asyncio.Future[HostError | None]) -> None:
    """Close a connection that was replaced, after a time in which both sides answer what they were asked on it."""
    try:
        await asyncio.wait((ended,), timeout=_RETIRE)
    finally:
        conversation.wire.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ChannelError):
        return error.message
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, OSError):
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        return (said or type(error).__name__)[:200].lower()
    return str(error)[:200]
