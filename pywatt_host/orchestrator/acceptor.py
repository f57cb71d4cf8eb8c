"""Where modules connect their frame channels: one Unix socket and one TCP port, let in by id and token."""

from __future__ import annotations

import asyncio
import hmac
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.sockets import no_delay, serve
from pywatt_host.channels.wire import Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.net.listeners import Listener
from pywatt_host.orchestrator.link import Duties, Duty, Link
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.protocol.codec import Frames, frame
from pywatt_host.protocol.messages import EXTENSIONS, Identify
from pywatt_host.protocol.session import agreed, cut

logger = logging.getLogger("pywatt.wattson")

NAME = "wattson"  # what we call ourselves to modules
_PATIENCE = 5.0  # seconds until identify
_MOST_UNKNOWN = 64  # connections that have not identified themselves


class ModuleAcceptor:
    """As a service: listens as long as it runs. A connection is nobody's until it has said a module's id and the token
    of one of its present processes."""

    name = "channels"

    def __init__(
        self, listeners: Mapping[str, Sequence[Listener]], modules: Mapping[str, Module], frame_limit: int
    ) -> None:
        self.refused = 0
        self.duties: Duties = {}  # of those that were let in
        self._listeners = listeners
        self._modules = modules
        self._frame_limit = frame_limit
        self._unknown: dict[Link, asyncio.TimerHandle] = {}
        self._records = BadRecords("somebody on a channel")  # shared: so many strangers are logged as one stranger is

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        servers: list[asyncio.AbstractServer] = []
        try:
            for channel, listeners in self._listeners.items():
                for listener in listeners:
                    own = listener.sock.dup()
                    servers.append(await serve(own, lambda channel=channel: self._wire(channel)))  # type: ignore[misc]
            yield
        finally:
            for server in servers:
                server.close()
            for link in tuple(self._unknown):
                link.end()

    def _wire(self, channel: str) -> Wire:
        loop = asyncio.get_running_loop()
        peer = f"somebody on {channel}"
        frames = Frames(self._frame_limit, stranger=True)
        link = Link(
            channel, peer, frames, frame,
            _Hello(lambda message, link: self._identify(message, link, frames), self._too_early), self._ended,
            self._frame_limit,
        )  # fmt: skip
        link.wire.records = self._records
        link.wire.opened.add_done_callback(lambda _: no_delay(link.wire.transport))
        if len(self._unknown) >= _MOST_UNKNOWN:
            loop.call_soon(self._refuse, link, "too many connections that did not identify themselves")
        else:
            self._unknown[link] = loop.call_later(_PATIENCE, self._refuse, link, f"no identify within {_PATIENCE:g}s")
        return link.wire

    def _ended(self, link: Link, why: HostError | None) -> None:
        timer = self._unknown.pop(link, None)
        if timer is not None:
            timer.cancel()
        if link.replica is not None:
            link.replica.forget(link)
            logger.debug("%s is closed%s", link.session.peer, f": {why}" if why is not None else "")

    def _refuse(self, link: Link, why: str) -> None:
        self.refused += 1
        self._records.add(f"refused: {why}")
        link.end(ChannelError(link.channel, "", why))

    def _too_early(self, op: str, link: Link) -> None:
        self._refuse(link, f"{cut(op, 40)} before identify")

    def _identify(self, message: Identify, link: Link, frames: Frames) -> None:
        timer = self._unknown.pop(link, None)
        if timer is None:
            return  # refused already
        timer.cancel()
        replica = self._whose(message)
        if replica is None:
            self._refuse(link, "identify has no token of a running module, or that of another one")
            return
        frames.admit()
        link.duties = self.duties
        link.name(f"{replica.label} on {link.channel}")
        replica.adopt(link)
        if message.extensions:
            link.send(Identify(NAME, None, tuple(sorted(EXTENSIONS))))
            link.session.extensions = agreed(frozenset(message.extensions), EXTENSIONS)

    def _whose(self, message: Identify) -> Replica | None:
        presented = (message.auth_token or "").encode()
        module = self._modules.get(message.module_id)
        found = None
        # Each of them is compared, so that the time says nothing about which one fits.
        for replica in module.replicas if module is not None else ():
            if replica.token and replica.pid is not None and hmac.compare_digest(presented, replica.token.encode()):
                found = replica
        return found


class _Hello:
    """The duties of a stranger: to say who it is, and nothing before that."""

    def __init__(self, identify: Duty, too_early: Callable[[str, Link], None]) -> None:
        self._identify = identify
        self._too_early = too_early

    def get(self, kind: type[Any], /) -> Duty:
        return self._identify if kind is Identify else self._refuse

    def _refuse(self, message: Any, link: Link) -> None:
        self._too_early(message.op, link)
