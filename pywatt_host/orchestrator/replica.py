"""One process of a module: started, watched, and started again."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.observability.failing_checks import failing_checks
from pywatt_host.observability.running_clock import LOOK_INTERVAL, RunningClock, RunningTimer, running_timeout
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.codec import Lines, line
from pywatt_host.protocol.messages import EXTENSIONS, Announce, Heartbeat, HeartbeatAck, Init, Shutdown
from pywatt_host.protocol.session import agreed
from pywatt_host.supervision.child import Child
from pywatt_host.supervision.launch import Launch
from pywatt_host.supervision.protocol_child import start_protocol_child
from pywatt_host.supervision.restarts import Ending, RestartBackoff, RestartPolicy, should_restart

logger = logging.getLogger("pywatt.wattson")

_KILL_DELAY = 2.0  # seconds between SIGTERM and SIGKILL
_EXIT_DELAY = 1.0  # seconds in which a process has to end after it has closed its standard output
_STARTING_DELAY = 3.0  # seconds in which a process that still starts has to end after `shutdown`
_EARLY_HEARTBEAT_INTERVAL = 0.5  # seconds between heartbeats until the module is healthy
_INTERVAL_GROWTH = (
    1.4  # then each interval is longer than the one before by this factor: a module must not take it for silence
)
_MAX_ROUTES = 10_000  # paths with their methods of one announce: more would hold up the gateway for whole seconds
_MAX_FRAME_CHANNELS = 2  # a module that connects again may let the old connection finish its requests

State: TypeAlias = Literal["waiting", "starting", "running", "draining", "stopping", "backoff", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that all replicas of a module share. Times in seconds, `frame` in bytes."""

    module: str
    policy: RestartPolicy
    start: float
    stop: float
    heartbeat: float
    heartbeats_missed: int
    frame: int
    launch: Callable[[], Launch]
    mask: Callable[[str], str] | None = None  # removes secrets from what it prints


class Surroundings(Protocol):
    """What a replica needs of the workspace."""

    def dispatch(self) -> Dispatch: ...

    def init(self, replica: Replica) -> Init: ...

    def line(self, replica: Replica, data: bytes) -> None: ...

    def changed(self) -> None:
        """The state of a replica has changed, and others may wait for that."""

    def gone(self, replica: Replica) -> None:
        """The process of a replica has ended, and will answer nothing any more."""


class Replica:
    """Runs one process after the other, and knows the state of the present one."""

    def __init__(self, terms: Terms, number: int, label: str, around: Surroundings, *, in_use: bool = True) -> None:
        """`in_use` is False for the successor of a replica, until it takes the replica's place."""
        self.terms = terms
        self.in_use = in_use
        self.requests = 0  # that the gateway has passed on, and that are not answered yet
        self.module = terms.module
        self.number = number
        self.label = label
        self.state: State = "waiting"
        self.token = ""  # of the present process, for identify
        self.pid: int | None = None
        self.since = time.time()
        self.restarts = 0
        self.ending: Ending | None = None
        self.announce: Announce | None = None
        self.secrets: frozenset[str] = frozenset()  # the names of those that its processes may ask for
        self.fetched: set[str] = set()  # the secrets that the present process has asked for
        self.health: Mapping[str, Any] | None = None
        self.acknowledged = False
        self.listener_answered = False  # whether anything has accepted a connection at the announced address
        self.cut = False  # whether work was cut short when it was stopped
        self._around = around
        self._child: Child | None = None
        self._stdio: PeerConnection | None = None
        self._frames: list[PeerConnection] = []
        self._doom: asyncio.Future[str] | None = None
        self._discarded = ""  # why no process of this replica is wanted any more
        self._clock = RunningClock(min(LOOK_INTERVAL, terms.heartbeat))  # a pause of `up` is not held against a module
        self._asked_at: float | None = None  # on that clock: when the oldest unanswered heartbeat was sent
        self._living = False
        self._asked_in_life = False  # whether there was a process to stop when that was asked
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    # State ------------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Announced, and neither draining nor stopping."""
        return self.state == "running"

    @property
    def healthy(self) -> bool:
        """Running, and its own checks pass; a module that reports no checks has to have answered a heartbeat."""
        if not self.running or not self.acknowledged:
            return False
        return self.health is None or self.health.get("status") in ("healthy", "degraded")

    @property
    def why(self) -> str:
        """Why it is not healthy: the checks that fail, or how its last process ended. Empty where that is not known, or
        where it is healthy."""
        if self.healthy:
            return ""
        if self.running:
            return failing_checks(self.health)
        return str(self.ending) if self.ending is not None and self.state not in ("waiting", "ended") else ""

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Count a request that is passed on to this replica, for as long as the block runs."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.settled()

    def settled(self) -> None:
        """A request or a message was answered. A replica that is out of use waits for the last one."""
        if not self.in_use:
            self._around.changed()

    @property
    def over(self) -> bool:
        """Whether it will not be started again."""
        return self.state in ("ended", "failed")

    def connection(self) -> PeerConnection | None:
        """The connection for what does not answer a request: the newest frame channel, else standard input."""
        for found in reversed(self._frames):
            if found.open:
                return found
        return self._stdio if self._stdio is not None and self._stdio.open else None

    def status(self) -> dict[str, Any]:
        """What `ps` shows."""
        document: dict[str, Any] = {"replica": self.number, "state": self.state, "healthy": self.healthy}
        document |= {"pid": self.pid, "restarts": self.restarts, "since": self.since, "in_use": self.in_use}
        document["listen"] = self.announce.listen if self.announce is not None else None
        connection = self.connection()
        document["channel"] = connection.channel if connection is not None else None
        if self.health is not None:
            document["checks"] = self.health.get("checks", {})
        if self.ending is not None:
            document["ending"] = str(self.ending)
        if self.why:
            document["why"] = self.why
        return document

    def _set(self, state: State) -> None:
        if self.state != state:
            self.state = state
            self.since = time.time()
        self._around.changed()

    # Processes --------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Run processes until the replica is asked to stop, or its restart policy starts no further one."""
        backoff = RestartBackoff()
        self._living = True
        try:
            while not self._stopping.is_set():
                self.ending = await self._life()
                if self._stopping.is_set():
                    break
                if not self.in_use:  # a successor that does not start; the replica that it was to replace serves on
                    self._set("failed")
                    return
                if not should_restart(self.terms.policy, self.ending):
                    logger.log(
                        logging.ERROR if self.ending.failed else logging.INFO,
                        "%s has ended (%s) and is not started again (restart: %s)",
                        self.label, self.ending, self.terms.policy, extra={"peer": self.label},
                    )  # fmt: skip
                    self._set("failed" if self.ending.failed else "ended")
                    return
                delay = backoff.delay_after(self.ending)
                logger.warning(
                    "%s has ended (%s); it is started again in %.1fs", self.label, self.ending, delay,
                    extra={"peer": self.label},
                )  # fmt: skip
                self._set("backoff")
                self.restarts += 1
                try:
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                except TimeoutError:
                    pass
            self._set("ended")
        finally:
            if self._child is not None:  # cancelled
                self._child.kill()
            self._ended.set()

    async def _life(self) -> Ending:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.token = secrets.token_urlsafe(32)
        self.announce, self.health, self.acknowledged, self.listener_answered = None, None, False, False
        self._asked_at = None
        self.fetched = set()
        self._doom = doom = loop.create_future()
        if self._discarded:
            doom.set_result(self._discarded)
        frame = self.terms.frame
        self._stdio = PeerConnection(
            "stdio", self.label, Lines(frame), line, self._around.dispatch(), self._connection_ended,
            limit=frame, mask=self.terms.mask,
        )  # fmt: skip
        self._stdio.owner = self
        self._set("starting")
        why = ""
        try:
            child = await start_protocol_child(
                self.terms.launch(), self._stdio.wire, lambda data: self._around.line(self, data)
            )
        except OSError as error:
            self._close_connections()
            return Ending(127, False, 0.0, f"it cannot be started: {error.strerror or error}")
        self._child, self.pid = child, child.pid
        exited = loop.create_task(child.wait())
        watching = loop.create_task(self._watch())
        try:
            self._stdio.send(self._around.init(self))
            if self._stopping.is_set():
                self._stdio.send(Shutdown())
            await asyncio.wait((exited, doom), return_when=asyncio.FIRST_COMPLETED)
            if doom.done() and not exited.done():
                why = doom.result()
                if not self._stopping.is_set():
                    logger.error("%s is killed: %s", self.label, why, extra={"peer": self.label})
                child.kill()
            code = await exited
            self._asked_in_life = self._stopping.is_set()
        finally:
            watching.cancel()
            if not exited.done():
                child.kill()
                exited.cancel()
            announced = self.announce is not None
            self._child, self.pid = None, None
            self._around.gone(self)
            self._close_connections()
        return Ending(code, announced, loop.time() - began, why)

    def _close_connections(self) -> None:
        for each in [*self._frames, *([self._stdio] if self._stdio is not None else [])]:
            each.abort(ChannelError(each.channel, "", f"{self.label} has ended"))
        self._frames.clear()
        self._stdio = None
        self.announce = None

    def kill(self, why: str) -> None:
        """Kill the present process; the restart policy decides what follows."""
        if self._doom is not None and not self._doom.done():
            self._doom.set_result(why)

    def discard(self, why: str) -> None:
        """Kill the process of a successor that is not wanted any more, also one that is about to be started."""
        self._discarded = why
        self.kill(why)

    # Messages of the process ------------------------------------------------------------------------------------------

    def announced(self, message: Announce) -> None:
        """The process serves. A second announce (another address, other endpoints) replaces the first."""
        first = self.announce is None
        if sum(1 + len(endpoint.methods) for endpoint in message.endpoints) > 2 * _MAX_ROUTES:
            logger.error(
                "%s announced more than %d paths; all of them are ignored", self.label, _MAX_ROUTES,
                extra={"peer": self.label},
            )  # fmt: skip
            message = replace(message, endpoints=())
        self.announce = message
        if self._stdio is not None:
            self._stdio.session.extensions = agreed(frozenset(message.extensions), EXTENSIONS)
        if first and self.state == "starting":
            logger.info("%s is up on %s", self.label, message.listen, extra={"peer": self.label})
            self._beat()
            self._set("running")
        else:
            self._around.changed()

    def beaten(self, message: HeartbeatAck) -> None:
        """The process has answered a heartbeat."""
        before = self.healthy
        self.acknowledged, self._asked_at = True, None
        self.health = message.health
        if self.healthy != before:
            logger.log(
                logging.INFO if self.healthy else logging.WARNING,
                "%s is %s", self.label, "healthy" if self.healthy else "unhealthy", extra={"peer": self.label},
            )  # fmt: skip
            self._around.changed()

    def drains(self) -> None:
        """The process takes nothing new any more."""
        if self.state == "running":
            self._set("draining")

    def adopt(self, connection: PeerConnection) -> None:
        """Use a frame channel that has identified itself as the present process."""
        connection.owner = self
        self._frames.append(connection)
        while len(self._frames) > _MAX_FRAME_CHANNELS:
            self._frames.pop(0).abort()

    def _connection_ended(self, connection: PeerConnection, why: HostError | None) -> None:
        if connection is not self._stdio:
            self.forget(connection)
        elif why is not None:
            self.kill(f"its standard output cannot be read: {why}")
        else:
            RunningTimer(_EXIT_DELAY, self._after_eof, self._doom, "it closed its standard output and did not end")

    def _after_eof(self, doom: asyncio.Future[str] | None, why: str) -> None:
        if doom is not None and doom is self._doom and self._child is not None and not self._stopping.is_set():
            self.kill(why)

    def forget(self, connection: PeerConnection) -> None:
        """A frame channel is lost; standard input and output go on."""
        if connection in self._frames:
            self._frames.remove(connection)

    # Watching ---------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Kill the process where its announce, or later its answers to heartbeats, do not arrive in time."""
        terms, clock = self.terms, self._clock
        clock.restart()
        began = clock.time()
        while self.announce is None:
            if clock.time() - began >= terms.start:
                self.kill(f"no announce within {terms.start:g}s (timeouts.start)")
                return
            await clock.next_look()
        interval, patience = min(_EARLY_HEARTBEAT_INTERVAL, terms.heartbeat), terms.heartbeat * terms.heartbeats_missed
        due = clock.time() + interval
        while True:
            await clock.next_look()
            now = clock.time()
            if self._asked_at is not None and now - self._asked_at >= patience:
                self.kill(f"no answer to {terms.heartbeats_missed} heartbeats (limits.heartbeat_missed)")
                return
            if now >= due:
                if self.healthy:
                    interval = min(interval * _INTERVAL_GROWTH, terms.heartbeat)
                self._beat()
                due = now + interval

    def _beat(self) -> None:
        connection = self.connection()
        if connection is not None and connection.send(Heartbeat()) and self._asked_at is None:
            self._asked_at = self._clock.time()

    # Stopping ---------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Send `shutdown`, then SIGTERM, then SIGKILL, and return once the process has ended for good. Sets `cut` where
        a signal was needed, or where the exit code says that work was cut short. A process that has not announced
        itself yet has no work to finish: it gets less time, and nothing of it is cut short."""
        self._stopping.set()
        if self.over:
            return
        if not self._living:
            self._set("ended")
            return
        served = self.announce is not None
        limit = self.terms.stop if served else min(self.terms.stop, _STARTING_DELAY)
        self._set("stopping")
        if self._child is not None and self._stdio is not None:
            self._stdio.send(Shutdown())
        if not await self._ends_within(limit):
            logger.log(
                logging.ERROR if served else logging.INFO,
                "%s did not end within %gs of shutdown (%s); it gets SIGTERM",
                self.label, limit, "timeouts.stop" if served else "it is still starting", extra={"peer": self.label},
            )  # fmt: skip
            self.cut = served
            if self._child is not None:
                self._child.signal(signal.SIGTERM)
            if not await self._ends_within(_KILL_DELAY):
                self.kill("it did not end after SIGTERM")
                await self._ended.wait()
        if served and self._asked_in_life and self.ending is not None and self.ending.failed:
            self.cut = True

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with running_timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True
