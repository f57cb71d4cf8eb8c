"""Who serves which connection: the supervisor's side of accepting.

The distributor accepts where workers do not: from Unix sockets, from sockets that cannot be shared, and for places
whose workers are missing or do not respond. It passes those connections, and those that workers give away, to the
worker with the fewest connections.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from pywatt_host.http.server.accepting import accept_all
from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import PassingChannel
from pywatt_host.workers.places import ListeningSockets, Source
from pywatt_host.workers.stand_in import StandIn

logger = logging.getLogger("pywatt.workers")

_BATCH = 64  # connections that are accepted before other work gets its turn
_READS = 3  # that are enough for all that a channel holds
_HELD = 8192  # connections that wait for a worker; more wait in the queues of the kernel
_LEAVING = 1.0  # seconds for handshakes that have begun, before a socket that leaves is closed
_HANDSHAKE_GRACE = 0.05  # seconds for the same at the stop of the host
_PAUSE = 0.2  # seconds without accepting, where no descriptor is left
_RETRY = 0.05  # seconds until connections that no worker could take are offered again
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Target(Protocol):
    """A worker that takes connections. `channel` belongs to the distributor from `join` on."""

    @property
    def place(self) -> int: ...

    @property
    def channel(self) -> PassingChannel: ...

    @property
    def responsive(self) -> bool:
        """Whether it answers pings."""

    @property
    def connections(self) -> int:
        """How many connections it has."""

    def take_back(self) -> int:
        """Take back the connections that were passed to it and that it has not taken: so many of the last ones."""


@dataclass(eq=False, slots=True)
class _Lane:
    """The way to a worker. `sent` keeps connections until the worker has taken them: where it ends before, they are
    passed to another one."""

    worker: Target
    joined: bool = True  # it is sent connections
    sent: deque[tuple[int, socket.socket]] = field(default_factory=deque)

    @property
    def load(self) -> int:
        return self.worker.connections + len(self.sent)

    def send(self, listener: int, sock: socket.socket) -> bool:
        if not self.worker.channel.send(sock, listener):
            return False
        self.sent.append((listener, sock))
        return True

    def take_back(self) -> list[tuple[int, socket.socket]]:
        """What the worker has not taken, while it does not respond."""
        count = self.worker.take_back() if self.sent else 0
        return [self.sent.pop() for _ in range(count)][::-1]

    def settle(self) -> None:
        """Close what the worker has taken."""
        while len(self.sent) > self.worker.channel.unconfirmed:
            self.sent.popleft()[1].close()


class Distributor:
    """Passes connections to workers. Made and used on the event loop of the supervisor.

    `host_paths` are the paths that the supervisor answers itself while no worker can take a plain connection. `serve`
    takes such a connection, answers one request and closes it (`HttpServer.serve_once`).
    """

    def __init__(
        self,
        sockets: ListeningSockets,
        *,
        host_paths: Callable[[], Collection[str]],
        serve: Callable[[socket.socket], None],
    ) -> None:
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._waiting = StandIn(host_paths, serve, self._watch)
        self._lanes: list[_Lane] = []  # in the order of turns: the first one is next where several have as little to do
        self._watched: dict[int, Source] = {}  # by descriptor
        self._leaving: dict[int, asyncio.TimerHandle] = {}  # when sockets that leave are closed, by descriptor
        self._paused: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False  # nothing is accepted any more
        sockets.follow(self.changed)
        self.changed()

    # Workers --------------------------------------------------------------------------------------------------------

    def join(self, worker: Target) -> None:
        """The worker accepts, and takes connections from now on."""
        lane = _Lane(worker)
        self._lanes.insert(0, lane)
        self._loop.add_reader(worker.channel.fileno(), self._read, lane)
        self.changed()

    def leave(self, worker: Target) -> None:
        """Pass nothing more to the worker. What it was sent before is still its own, and what it has given away is
        passed on; once its process has ended, the channel is closed."""
        for lane in self._lanes:
            if lane.worker is worker and lane.joined:
                lane.joined = False
                worker.channel.finish()
        self.changed()

    def lost(self, worker: Target) -> None:
        """The process of the worker has ended: what it has given away, and what it has not taken, goes to others."""
        for lane in tuple(self._lanes):
            if lane.worker is worker:
                for _ in range(_READS):
                    if lane in self._lanes:
                        self._read(lane)
                if lane in self._lanes:
                    self._end(lane)

    def changed(self) -> None:
        """Whether a worker responds, or the sockets, have changed."""
        for lane in tuple(self._lanes):
            if not lane.worker.responsive:
                for listener, sock in lane.take_back():
                    self._pass(listener, sock)
        self._watch()
        self._release()

    # Accepting ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Accept where no worker does."""
        takers = self._takers()
        served = {lane.worker.place for lane in takers}
        wanted: dict[int, Source] = {}
        crowded = len(self._waiting) >= (1 if takers else _HELD)
        for source in self._sockets.sources():
            descriptor = source.listener.sock.fileno()
            if source.leaving and descriptor not in self._leaving and not self._stopped:
                self._leaving[descriptor] = self._loop.call_later(_LEAVING, self._close, source.listener)
            if not crowded and source.place not in served:
                wanted[descriptor] = source
        if self._stopped or self._paused is not None:
            wanted = {}
        for descriptor in self._watched.keys() - wanted.keys():
            self._loop.remove_reader(descriptor)
        for descriptor in wanted.keys() - self._watched.keys():
            self._loop.add_reader(descriptor, self._accept, wanted[descriptor].listener)
        self._watched = wanted

    def _accept(self, listener: Listener) -> None:
        for _ in range(_BATCH):
            try:
                sock, _address = listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error)
                break
            sock.setblocking(False)
            self._pass(listener.number, sock)
        self._watch()  # there may be too many now

    def _pause(self, error: OSError) -> None:
        """Leave new connections in the queue of the kernel for a moment."""
        what = "the limit on open files" if error.errno in _NO_DESCRIPTOR else "accepting has failed"
        logger.warning("the supervisor pauses accepting: %s (%s)", what, error.strerror)
        if self._paused is None:
            self._paused = self._loop.call_later(_PAUSE, self._resume)
        self._watch()

    def _resume(self) -> None:
        self._paused = None
        self.changed()

    def _close(self, listener: Listener) -> None:
        """Close a socket that leaves, unless it is used again."""
        descriptor = listener.sock.fileno()
        del self._leaving[descriptor]
        if not any(source.leaving and source.listener is listener for source in self._sockets.sources()):
            return
        self._empty(listener)
        watched = self._watched.pop(descriptor, None)
        if watched is not None:
            self._loop.remove_reader(descriptor)
        if not self._sockets.left(listener):
            self._watch()

    def _empty(self, listener: Listener) -> None:
        while accepted := accept_all(listener.sock, _BATCH):
            for sock in accepted:
                self._pass(listener.number, sock)

    # Passing --------------------------------------------------------------------------------------------------------

    def _takers(self) -> list[_Lane]:
        return [lane for lane in self._lanes if lane.joined and lane.worker.responsive]

    def _pass(self, listener: int, sock: socket.socket) -> None:
        """Pass a connection to the worker with the fewest, or hold it."""
        if not self._send(listener, sock):
            self._waiting.hold(listener, sock, tls=listener in self._sockets.tls)
            self._retry_soon()

    def _send(self, listener: int, sock: socket.socket) -> bool:
        for lane in sorted(self._takers(), key=lambda lane: lane.load):  # stable: in turn
            if lane.send(listener, sock):
                self._lanes.remove(lane)
                self._lanes.append(lane)
                return True
        return False

    def _release(self) -> None:
        """Offer what is held to the workers."""
        if self._waiting:
            self._waiting.release(self._send)
            self._retry_soon()
            if not self._waiting:
                self._watch()

    def _retry_soon(self) -> None:
        if self._retry is None and self._waiting and self._takers():

            def again() -> None:
                self._retry = None
                self._release()

            self._retry = self._loop.call_later(_RETRY, again)

    def _read(self, lane: _Lane) -> None:
        """Take what a worker gives away, and its confirmations."""
        channel = lane.worker.channel
        try:
            given = channel.receive()
        except OSError:  # no descriptor is left: it stays in the channel
            self._loop.remove_reader(channel.fileno())
            self._loop.call_later(_PAUSE, self._read_again, lane)
            return
        lane.settle()
        for listener, sock in given:
            self._pass(listener, sock)
        if channel.ended:
            self._end(lane)
        else:
            self._release()

    def _read_again(self, lane: _Lane) -> None:
        if lane in self._lanes:
            self._loop.add_reader(lane.worker.channel.fileno(), self._read, lane)
            self._read(lane)

    def _end(self, lane: _Lane) -> None:
        """A worker has ended: others get what it has not taken."""
        self._lanes.remove(lane)
        self._loop.remove_reader(lane.worker.channel.fileno())
        lane.worker.channel.close()
        for listener, sock in lane.sent:
            self._pass(listener, sock)
        self.changed()

    # Stopping -------------------------------------------------------------------------------------------------------

    async def take_all(self) -> None:
        """At the stop of the host, after `ListeningSockets.refuse_new`: pass on everything that waits in any queue, and
        accept nothing more. Returns once the workers have been sent all of it, or no worker responds."""
        await asyncio.sleep(_HANDSHAKE_GRACE)
        for source in tuple(self._sockets.sources()):
            self._empty(source.listener)
        self._stopped = True
        self._keep_leaving()
        self._watch()
        while self._waiting and self._takers():
            self._release()
            await asyncio.sleep(_RETRY)

    def collect(self) -> None:
        """Pass on what workers have given away up to now."""
        for lane in tuple(self._lanes):
            if lane in self._lanes:
                self._read(lane)

    def close(self) -> None:
        """Close the channels, before the sockets are closed. What still waits is answered with 503."""
        self._stopped = True
        self._watch()
        self._keep_leaving()
        for timer in (self._paused, self._retry):
            if timer is not None:
                timer.cancel()
        for lane in self._lanes:
            self._loop.remove_reader(lane.worker.channel.fileno())
            lane.worker.channel.close()
            for _, sock in lane.sent:
                sock.close()
        self._lanes.clear()
        self._waiting.close()

    def _keep_leaving(self) -> None:
        """Leave the closing of sockets to their owner."""
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()
