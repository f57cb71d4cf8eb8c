"""Keeps outgoing connections up: connects, identifies, and connects again with backoff after a loss."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pywatt_host.channels.sockets import Target
from pywatt_host.channels.wire import Trace
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.observability.running_clock import running_timeout
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.codec import EnvelopeFrames, Frames
from pywatt_host.protocol.messages import Extensions, Identify
from pywatt_host.protocol.session import agreed

logger = logging.getLogger("pywatt.channels")

# The extensions that a module uses where the other side offers them.
MODULE_EXTENSIONS = frozenset({"request_id", "error", "inline_payload", "health", "drain", "events", "deregister"})

_FIRST_RETRY_DELAY, _LAST_RETRY_DELAY = 0.1, 15.0  # seconds
_IDENTIFY_ANSWER_TIMEOUT = 1.0  # seconds in which a peer of ours answers identify; others never do
_OPTIONAL_CHANNEL_WAIT = 1.5  # seconds that the start waits for a channel that is not required
_RETIRE_TIMEOUT = 5.0  # seconds that a replaced connection stays for the answers that both sides owe


@dataclass(slots=True)
class Connector:
    """A channel that this module connects by itself: the address, the token, and the present state."""

    target: Target
    token: Callable[[], str | None]
    required: bool = False
    needs_secrets: bool = False  # its token is made of secrets, which have to be loaded first
    connection: PeerConnection | None = None
    ended: asyncio.Future[HostError | None] | None = None  # of that connection
    error: str = "not connected yet"
    reconnects: int = -1  # the first connection is not a reconnect
    warned: bool = False  # that a peer cannot be reached
    retry_now: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def channel(self) -> str:
        return self.target.channel


@dataclass(frozen=True, slots=True)
class Replacement:
    """A connection that has identified itself, and the future of its end."""

    connection: PeerConnection
    ended: asyncio.Future[HostError | None]


@dataclass(slots=True, kw_only=True, eq=False)
class Reconnector:
    """Keeps the connections of connectors up until `stopping` is set."""

    module_id: str
    connectors: Sequence[Connector]
    peer: str  # the module that they lead to; empty for an orchestrator
    dispatch: Callable[[], Dispatch]  # handles the messages of the other side
    connected: Callable[[PeerConnection], Awaitable[None]]  # awaited for each new connection
    lost: Callable[[], None]  # called after each loss
    spawn: Callable[[Coroutine[Any, Any, None]], None]  # starts a task
    frame_limit: int  # bytes
    timeout: float  # seconds to connect, and for the first connection of a required channel
    extensions: Extensions  # of a new connection
    offered: Extensions  # in identify
    trace: Trace | None
    stopping: bool = False

    @asynccontextmanager
    async def connecting(self, tasks: TaskGroup, *, with_secrets: bool) -> AsyncIterator[None]:
        """Keep the connectors up whose tokens need no secrets, or, `with_secrets`, those whose tokens do. Raises
        ChannelError where a required one cannot connect within the timeout."""
        own: list[asyncio.Task[None]] = []
        try:
            for connector in self.connectors:
                if connector.needs_secrets == with_secrets:
                    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    own.append(tasks.create_task(self._keep(connector, opened), name=f"channel {connector.channel}"))
                    await self._first(connector, opened)
            yield
        finally:
            self.stopping = True
            for task in own:
                task.cancel()

    async def _first(self, connector: Connector, opened: asyncio.Future[None]) -> None:
        """Wait for the first connection: up to the timeout where it is required, else a moment."""
        if self.peer:
            return
        limit = self.timeout if connector.required else min(self.timeout, _OPTIONAL_CHANNEL_WAIT)
        await asyncio.wait((opened,), timeout=limit)
        if connector.connection is None:
            address = str(connector.target)
            if connector.required:
                why = f"{connector.error}; it is required, and {limit:g}s are over"
                raise ChannelError(connector.channel, address, why)
            logger.warning("channel %s (%s): %s; it is tried again", connector.channel, address, connector.error)

    async def _keep(self, connector: Connector, opened: asyncio.Future[None]) -> None:
        delay = _FIRST_RETRY_DELAY
        while not self.stopping:
            began = time.monotonic()
            try:
                replacement = await self._connect(connector, connector.token())
            except (OSError, HostError, TimeoutError) as error:
                connector.error = _reason(error)
                if self.peer and not connector.warned:
                    connector.warned = True
                    logger.warning("%s at %s: %s; it is tried again", self.peer, connector.target, connector.error)
            else:
                connector.warned = False
                await self._use(connector, replacement)
                if not opened.done():
                    opened.set_result(None)
                why = await _end_of(connector)
                connector.connection = None
                reason = why.message if isinstance(why, ChannelError) else "the other side closed it"
                connector.error = f"lost: {reason}"
                self.lost()
                if not self.stopping:
                    logger.warning("channel %s (%s) is %s", connector.channel, connector.target, connector.error)
            if time.monotonic() - began > _LAST_RETRY_DELAY:
                delay = _FIRST_RETRY_DELAY
            try:
                async with asyncio.timeout(delay * random.uniform(0.5, 1.5)):
                    await connector.retry_now.wait()
            except TimeoutError:
                pass
            connector.retry_now.clear()
            delay = min(delay * 2, _LAST_RETRY_DELAY)

    async def _connect(self, connector: Connector, token: str | None) -> Replacement:
        """Connect and identify. Raises OSError, HostError, TimeoutError."""
        answered = asyncio.Event()
        ended: asyncio.Future[HostError | None] = asyncio.get_running_loop().create_future()
        dispatch = self.dispatch()

        def identified(message: Identify, connection: PeerConnection) -> None:
            connection.dispatch = dispatch
            connection.module_id = message.module_id
            connection.session.extensions = agreed(frozenset(message.extensions), MODULE_EXTENSIONS)
            answered.set()

        def over(connection: PeerConnection, why: HostError | None) -> None:
            answered.set()
            if not ended.done():
                ended.set_result(why)

        channel, address = connector.channel, str(connector.target)
        connection = PeerConnection(
            channel, f"{channel} {address}", Frames(self.frame_limit), EnvelopeFrames(),
            {**dispatch, Identify: identified}, over,
            limit=self.frame_limit, extensions=self.extensions, trace=self.trace,
        )  # fmt: skip
        async with running_timeout(self.timeout):
            await connector.target.connect(lambda: connection.wire)
        try:
            connection.session.send(Identify(self.module_id, token, tuple(sorted(self.offered))))
            async with running_timeout(min(_IDENTIFY_ANSWER_TIMEOUT, self.timeout / 2)):
                await answered.wait()
        except TimeoutError:
            pass  # a foreign peer does not answer identify
        except BaseException:  # given up, for example by a start that took too long
            connection.wire.close()
            raise
        if ended.done():
            raise ChannelError(channel, address, "closed after identify: the id or the token was refused")
        return Replacement(connection, ended)

    async def _use(self, connector: Connector, replacement: Replacement) -> None:
        connection = replacement.connection
        connector.connection, connector.ended = connection, replacement.ended
        connector.error = ""
        connector.reconnects += 1
        logger.info("channel %s is connected to %s", connector.channel, connector.target)
        if self.peer:
            connection.module_id = self.peer  # the name in the manifest counts, whatever the peer calls itself
        await self.connected(connection)

    async def prepare(self, connector: Connector, token: str | None) -> Replacement | None:
        """Open a second connection with another token; None where there is no connection to replace. Raises
        ChannelError where the new connection is refused."""
        if connector.connection is None:
            return None
        try:
            return await self._connect(connector, token)
        except (OSError, TimeoutError) as error:
            raise ChannelError(connector.channel, str(connector.target), _reason(error)) from error

    def replace(self, connector: Connector, replacement: Replacement | None) -> None:
        """Use the prepared connection from now on; the old one closes once its requests are answered."""
        old, ended = connector.connection, connector.ended
        if replacement is None or old is None or ended is None:
            if replacement is not None:  # the old connection was lost meanwhile, and is being connected again
                replacement.connection.wire.close()
            connector.retry_now.set()
            return
        self.spawn(self._use(connector, replacement))
        self.spawn(_retire(old, ended))


async def _end_of(connector: Connector) -> HostError | None:
    """Why the connection ended, once the one that is in use has: a replaced one does not count."""
    while True:
        ended = connector.ended
        assert ended is not None
        why = await ended
        if connector.ended is ended:
            return why


async def _retire(connection: PeerConnection, ended: asyncio.Future[HostError | None]) -> None:
    """Close a connection that was replaced, after a time in which both sides answer what they were asked on it."""
    try:
        await asyncio.wait((ended,), timeout=_RETIRE_TIMEOUT)
    finally:
        connection.wire.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ChannelError):
        return error.message
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, OSError):
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        return (said or type(error).__name__)[:200].lower()
    return str(error)[:200]
