"""One worker, as the supervisor sees it: its connection, its state, and whether it answers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Literal, TypeAlias

from pywatt_host.exceptions import HostError, MessagingError
from pywatt_host.net.passing import PassingChannel
from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.codec import Lines, line
from pywatt_host.protocol.messages import (
    EXTENSIONS,
    Announce,
    GetSnapshot,
    Heartbeat,
    HeartbeatAck,
    Shutdown,
    Snapshot,
    WorkerAccept,
    WorkerFailed,
    WorkerRetire,
)
from pywatt_host.supervision.process import describe_exit, signal_process

logger = logging.getLogger("pywatt.workers")

PING_INTERVAL = 0.25  # seconds
_REPORT_TIME = 0.3  # seconds for the zygote to report the end of a worker
_UNRESPONSIVE_AFTER = 0.5  # seconds without an answer, after which others accept in the worker's place
_SNAPSHOT_TIMEOUT = 0.5  # seconds

State: TypeAlias = Literal["starting", "ready", "accepting", "draining", "ended"]


class WorkerProcess:
    """A worker from its start to its end.

    `started` is done once the worker has announced itself and answered a ping, `passed` once its health checks have
    passed, `drains` once it gives no connection away any more; all are done where it has ended before. `changed` is
    called when `responsive`, the state or the health may have changed.
    """

    def __init__(
        self,
        key: int,
        place: int,
        slot: int,
        generation: int,
        *,
        connections: Callable[[int], int],
        alone: Callable[[int], AbstractContextManager[bool]] = lambda slot: nullcontext(True),
        changed: Callable[[WorkerProcess], None],
        vanished: Callable[[WorkerProcess], None] = lambda worker: None,
    ) -> None:
        """`key` is unique in the supervisor's life. `connections` reads the number of open connections of a slot.
        `alone` keeps the worker of a slot from taking connections; it gives False where that is not possible.
        `vanished` is called where the process has ended and its zygote does not report that."""
        self.key = key
        self.place = place
        self.slot = slot
        self.generation = generation
        self.name = f"worker {place + 1}"
        self.state: State = "starting"
        self.pid: int | None = None
        self.since = time.monotonic()
        self.announce: Announce | None = None
        self.report: Mapping[str, Any] | None = None  # its health, from the last answer to a ping
        self.failure: WorkerFailed | None = None
        self.fetched: set[str] = set()  # the secrets that it has asked for
        self.replaced = False  # another worker takes its place, or is about to
        self.accepted = False  # it was let accept connections, and may have work that its end cuts
        self.opened = False  # it has its connections
        self.joined = False  # the distributor has its passing channel
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.drains: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.channel: PassingChannel
        self.connection: PeerConnection
        self._connections = connections
        self._alone = alone
        self._changed = changed
        self._vanished = vanished
        self._pidfd = -1
        self._clock = RunningClock(PING_INTERVAL)  # a pause of the supervisor is not held against a worker
        self._asked_at: float | None = None  # on that clock: when the oldest unanswered ping was sent
        self._responded: bool = True  # what others were told last: whether it was responsive
        self._closed_at: float | None = None  # when it has closed its connection
        self._ended_by = ""

    # Opening --------------------------------------------------------------------------------------------------------

    async def open(self, dispatch: Dispatch, frame: int) -> tuple[socket.socket, socket.socket]:
        """Open the connection and the passing channel. Returns the worker's ends."""
        ours, theirs = socket.socketpair()
        ours_passing, theirs_passing = socket.socketpair()
        ours.setblocking(False)
        self.channel = PassingChannel(ours_passing, theirs_passing.dup())
        self.connection = PeerConnection(
            "worker", self.name, Lines(frame), line, dispatch, self._connection_ended, limit=frame,
            extensions=EXTENSIONS,
        )  # fmt: skip
        self.connection.owner = self
        self.opened = True
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self.connection.wire, ours)
        return theirs, theirs_passing

    def runs_as(self, pid: int) -> None:
        """The process of the worker has started. On Linux its end is noticed by itself as well (pidfd_open(2)): the
        zygote, which runs code of the application, may fail to report it."""
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # it has ended already, or there is no descriptor left
                self._pidfd = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(self._pidfd, self._process_ended)

    def _process_ended(self) -> None:
        self._forget_process()
        asyncio.get_running_loop().call_later(_REPORT_TIME, self._not_reported)

    def _not_reported(self) -> None:
        if not self.ended.done():
            self._vanished(self)

    def _forget_process(self) -> None:
        descriptor, self._pidfd = self._pidfd, -1
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    # State ----------------------------------------------------------------------------------------------------------

    @property
    def responsive(self) -> bool:
        """Whether it answers pings, or has been asked too recently to tell."""
        if self.state == "ended":
            return False
        return self._asked_at is None or self._clock.time() - self._asked_at < _UNRESPONSIVE_AFTER

    @property
    def connections(self) -> int:
        """The number of its open connections."""
        return self._connections(self.slot)

    def take_back(self) -> int:
        """Take back the connections that were passed to it, and that it has not taken. Returns how many, which are the
        last ones."""
        with self._alone(self.slot) as alone:
            return self.channel.take_back() if alone else 0

    @property
    def requests(self) -> int:
        """The number of requests that it has served, as of its last answer to a ping."""
        return int((self.report or {}).get("requests", 0))

    @property
    def healthy(self) -> bool:
        """Whether it accepts connections and its checks pass."""
        return self.state == "accepting" and self._passes()

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.since

    def _passes(self) -> bool:
        return self.report is not None and self.report.get("status") in ("healthy", "degraded")

    def set_state(self, state: State) -> None:
        if self.state != "ended" and self.state != state:
            self.state = state
            self._changed(self)

    def status(self) -> dict[str, Any]:
        """What `ps` shows."""
        return {
            "worker": self.place + 1,
            "generation": self.generation,
            "pid": self.pid,
            "state": self.state,
            "healthy": self.healthy,
            "responsive": self.responsive,
            "age": round(self.age, 1),
            "connections": self.connections,
        }

    # What it tells ---------------------------------------------------------------------------------------------------

    def announced(self, message: Announce) -> None:
        """It serves, and waits until it may accept."""
        self.announce = message
        self.ping()

    def beaten(self, message: HeartbeatAck) -> None:
        """It has answered a ping."""
        self._asked_at = None
        was, self._responded = self._responded, True
        before, self.report = self.report, message.health
        if self.announce is not None:
            _done(self.started)
            if self._passes():
                _done(self.passed)
        if self.state == "starting" and self.announce is not None:
            self.set_state("ready")
        elif not was or (before or {}).get("status") != (self.report or {}).get("status"):
            self._changed(self)

    def begun_to_drain(self) -> None:
        """It drains, as it was told or by itself."""
        self.set_state("draining")
        _done(self.drains)

    def failed(self, message: WorkerFailed) -> None:
        """It cannot start, and is about to end."""
        self.failure = message

    def _connection_ended(self, connection: PeerConnection, why: HostError | None) -> None:
        self._closed_at = time.monotonic()
        lost = why is None or isinstance(why.__cause__, OSError)  # as a process does that ends
        if self.state not in ("draining", "ended") and not lost:
            self.kill(f"its connection cannot be read: {why}")  # that has been logged

    def has_ended(self, code: int) -> None:
        """Its process has ended."""
        if self.ended.done():
            return
        self.state = "ended"
        if self.opened:
            self.connection.abort()
            if not self.joined:
                self.channel.close()
        self._forget_process()
        self.ended.set_result(code)
        _done(self.started)
        _done(self.passed)
        _done(self.drains)
        self._changed(self)

    def ending(self) -> str:
        """How it ended, for people."""
        how = describe_exit(self.ended.result()) if self.ended.done() else "it still runs"
        return f"{self._ended_by}; {how}" if self._ended_by else how

    # What it is told -------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Let it accept connections."""
        self.accepted = True
        self.connection.send(WorkerAccept())
        self.set_state("accepting")

    def retire(self, why: str) -> None:
        """Let it drain and end; its successor accepts already."""
        self.connection.send(WorkerRetire(why))
        self.set_state("draining")

    def shut_down(self) -> None:
        """Let it drain and end with the host: it takes what waits in the queues of its sockets as well."""
        self.connection.send(Shutdown())
        self.set_state("draining")

    def ping(self) -> None:
        """Send a ping."""
        if self.connection.open and self.connection.send(Heartbeat()) and self._asked_at is None:
            self._asked_at = self._clock.time()

    def silent_for(self) -> float:
        """Seconds since the oldest ping that it has not answered."""
        return 0.0 if self._asked_at is None else self._clock.time() - self._asked_at

    @property
    def closed_for(self) -> float:
        """Seconds since it has closed its connection, as a process does that ends."""
        return 0.0 if self._closed_at is None else time.monotonic() - self._closed_at

    def look(self) -> None:
        """Advance the clock of this worker and ping it again. Call this every PING_INTERVAL."""
        if not self.opened:
            return
        self._clock.tick()
        if self._responded and not self.responsive and self.state in ("ready", "accepting"):
            self._responded = False
            logger.warning(
                "%s does not answer; others accept connections in its place", self.name,
                extra={"worker": self.place + 1, "pid": self.pid},
            )  # fmt: skip
            self._changed(self)
        if self._asked_at is None:
            self.ping()

    async def snapshot(self) -> list[Any] | None:
        """Its metrics; None where it does not answer in time."""
        try:
            answer: Snapshot = await self.connection.session.request(GetSnapshot(), _SNAPSHOT_TIMEOUT)
        except (HostError, MessagingError):
            return None
        return answer.families

    def kill(self, why: str) -> None:
        """Kill it at once."""
        self._ended_by = self._ended_by or why
        if self.pid is not None and not self.ended.done():
            signal_process(self.pid, signal.SIGKILL)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
