"""One session of `dev`: a child process serves, and is replaced when a file changes, until the session is stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from pywatt_host.dev.changes import WatchedFiles, describe
from pywatt_host.dev.file_events import DEBOUNCE_MS, QUIET_MS, changed_files, forget_bytecode
from pywatt_host.dev.unavailable import UnavailableServer
from pywatt_host.exceptions import BindError, ManifestError, ServiceError
from pywatt_host.http.allowed_hosts import AllowedHosts
from pywatt_host.manifest import render_text
from pywatt_host.runtime.signals import OtherSignals, StopSignals
from pywatt_host.supervision.serving_child import ChildEvent, ChildFailed, ChildReady, ChildStopped, ServingChild
from pywatt_host.supervision.sockets import ListenAddresses, ListenerSet

_DETAIL_LINES = 20  # of a failure's text in a response
_SLOW_START = 3.0  # seconds after which a message says that the child is still starting


@dataclass(frozen=True, slots=True)
class DevConfig:
    """What the manifest says about one start: where to listen, which files to watch, the arguments of the child,
    without those for the sockets, the hosts that are answered to, and what the environment of the child has more."""

    addresses: ListenAddresses
    watched: WatchedFiles
    arguments: tuple[str, ...]
    hosts: AllowedHosts
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _FromChild:
    child: ServingChild
    event: ChildEvent


class _StopRequested:
    """A signal asks the session to stop."""


class _FilesChanged:
    """Files have changed; the session keeps their paths."""


@dataclass(frozen=True, slots=True)
class _WatchFailed:
    """Files cannot be watched."""

    reason: str


class DevSession:
    """Serves until a signal or the control socket stops it."""

    def __init__(
        self,
        read_config: Callable[[], DevConfig],
        echo: Callable[[str], None],
        show_faults: Callable[[ManifestError], None],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`read_config` reads the manifest again for each start, and may raise ManifestError. `echo` prints a line,
        `show_faults` prints the faults of a manifest. `on_ready` is called in a thread each time a child serves."""
        self._read_config = read_config
        self._echo = echo
        self._show_faults = show_faults
        self._on_ready = on_ready
        self._listeners, self._unavailable = ListenerSet(), UnavailableServer()
        self._events: asyncio.Queue[_FromChild | _StopRequested | _FilesChanged | _WatchFailed] = asyncio.Queue()
        self._changed: set[Path] = set()
        self._child: ServingChild | None = None
        self._follower: asyncio.Task[None] | None = None
        self._watched = WatchedFiles(())
        self._hosts = AllowedHosts((), loopback=True)
        self._roots: tuple[Path, ...] = ()  # the folders and files that are watched now
        self._roots_changed = asyncio.Event()
        self._stopping = False
        self._announced = False  # the ready line has been printed
        self._shown_messages: tuple[str, ...] = ()
        self._reload_began: float | None = None  # monotonic time; None while no reload is under way

    async def serve(self) -> int:
        """Serve until the session is stopped. Returns the exit code: 0, or 2 if the first start finds that the command
        is wrong.

        Raises ManifestError and BindError at the first start, and ServiceError if files cannot be watched.
        """
        loop = asyncio.get_running_loop()
        # SIGHUP: the terminal has gone, and `dev` with it. Under nohup it is ignored.
        hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
        numbers = (signal.SIGUSR1, signal.SIGUSR2)
        others = {number: partial(self._echo, f"{number.name} is ignored") for number in numbers}
        with StopSignals(self._request_stop, loop, also=hangup), OtherSignals(others, loop):
            config = self._read_config()
            self._listeners.update(config.addresses)
            self._watched, self._hosts = config.watched, config.hosts
            watching = loop.create_task(self._watch())
            try:
                await asyncio.sleep(0)  # no change is missed from here on
                await self._start(config)
                return await self._handle_events()
            finally:
                self._stopping = True
                self._roots_changed.set()
                await self._stop_child()
                await self._unavailable.aclose()
                self._listeners.close()
                await watching

    def _request_stop(self, signal_name: str) -> None:
        """Stop; the second request kills the child."""
        if self._stopping and self._child is not None:
            self._child.kill()
        self._stopping = True
        self._events.put_nowait(_StopRequested())

    async def _handle_events(self) -> int:
        while True:
            match await self._events.get():
                case _StopRequested():
                    return 0
                case _WatchFailed(reason):
                    raise ServiceError("dev", reason)
                case _FilesChanged():
                    await self._reload()
                case _FromChild(child, event) if child is self._child:
                    code = await self._handle_child_event(event)
                    if code is not None:
                        return code
                case _:
                    pass  # an event of an earlier child

    async def _handle_child_event(self, event: ChildEvent) -> int | None:
        """Returns the exit code if the event ends the session."""
        if isinstance(event, ChildStopped):
            return 0
        if isinstance(event, ChildFailed):
            if event.exit_code == 2 and not self._announced and self._reload_began is None:
                return 2
            if not event.printed:
                self._echo(event.detail)
            await self._serve_unavailable(event.detail)
            return None
        self._announced = True
        await asyncio.to_thread(self._on_ready)
        self._watched = replace(self._watched, templates=event.caches_templates)
        if self._reload_began is not None:
            self._echo(f"reload: ready again in {time.monotonic() - self._reload_began:.2f} s")
            self._reload_began = None
        return None

    # The child ------------------------------------------------------------------------------------------------------

    async def _start(self, config: DevConfig, *, announce: bool = True) -> None:
        """Start a child. Connections wait until it accepts them."""
        if config.addresses.messages != self._shown_messages:
            self._shown_messages = config.addresses.messages
            for line in self._shown_messages:
                self._echo(line)
        overrides = [word for override in self._listeners.overrides() for word in ("--set", override)]
        descriptors = {
            key: [listener.sock.fileno() for listener in listeners]
            for key, listeners in self._listeners.by_key().items()
        }
        self._child = child = await ServingChild.start(
            [*config.arguments, *overrides], descriptors, announce=announce, environ=config.environ
        )
        self._follower = asyncio.get_running_loop().create_task(self._follow(child))

    async def _follow(self, child: ServingChild) -> None:
        slow = asyncio.get_running_loop().call_later(
            _SLOW_START,
            self._echo,
            f"the process is still starting after {_SLOW_START:g} s; requests wait until it serves or a file changes",
        )
        try:
            while True:
                event = await child.next_event()
                slow.cancel()
                self._events.put_nowait(_FromChild(child, event))
                if not isinstance(event, ChildReady):
                    return
        finally:
            slow.cancel()

    async def _stop_child(self) -> None:
        if self._child is None:
            return
        if self._follower is not None:
            self._follower.cancel()
        if await self._child.stop():
            self._echo("the process did not stop in time and was killed")
        self._child = None

    async def _serve_unavailable(self, detail: str) -> None:
        """Stop the child, and answer every request with 503 and the reason until a file changes."""
        await self._stop_child()
        self._echo("not serving until a file changes")
        lines = detail.strip().splitlines()[:_DETAIL_LINES]
        await self._unavailable.open(self._listeners.all, "\n".join(lines), self._hosts)

    # Changes --------------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        changed = self._take_changed()
        if not changed:
            return
        self._reload_began = time.monotonic()
        self._echo(f"reload: {describe(changed, Path.cwd())} changed")
        self._unavailable.close()
        await self._stop_child()
        forget_bytecode(changed | self._take_changed())
        try:
            config = self._read_config()
            moved = self._listeners.update(config.addresses)
        except ManifestError as error:
            self._show_faults(error)
            await self._serve_unavailable(render_text(error.problems))
            return
        except BindError as error:
            self._echo(str(error))
            await self._serve_unavailable(str(error))
            return
        self._watched, self._hosts = replace(config.watched, templates=self._watched.templates), config.hosts
        if self._watched.roots() != self._roots:
            self._roots_changed.set()
        await self._start(config, announce=moved or not self._announced)

    def _take_changed(self) -> set[Path]:
        changed, self._changed = self._changed, set()
        return changed

    async def _watch(self) -> None:
        awatch = import_module("watchfiles").awatch
        while not self._stopping:
            self._roots_changed = stop = asyncio.Event()
            self._roots = self._watched.roots()
            try:
                async for changes in awatch(
                    *self._roots,
                    watch_filter=None,
                    debounce=DEBOUNCE_MS,
                    step=QUIET_MS,
                    stop_event=stop,
                    ignore_permission_denied=True,
                ):
                    self._note(changes)
            except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
                self._events.put_nowait(_WatchFailed(f"files cannot be watched: {error}"))
                return

    def _note(self, changes: Iterable[tuple[int, str]]) -> None:
        paths = {path for path in changed_files(changes) if self._watched.restarts(path)}
        if paths and not self._changed:
            self._events.put_nowait(_FilesChanged())
        self._changed |= paths
