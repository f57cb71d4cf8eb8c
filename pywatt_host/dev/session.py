"""One session of `dev`: a child that serves, started again when a file changes, until somebody stops it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from pywatt_host.dev.changes import Watched, describe
from pywatt_host.dev.standin import StandIn
from pywatt_host.exceptions import BindError, ManifestError, ServiceError
from pywatt_host.manifest import render_text
from pywatt_host.supervision.serving_child import Failed, News, Serving, ServingChild, Stopped
from pywatt_host.supervision.sockets import HeldSockets, Wanted

_SETTLE = 200  # milliseconds that changes are collected for, at most
_STEP = 50  # milliseconds without a further change after which they are acted on
_DETAIL_LINES = 20
_SLOW = 3.0  # seconds of a start after which it is said that it goes on
_ADDED = 1  # watchfiles.Change.added


@dataclass(frozen=True, slots=True)
class DevRecipe:
    """What the manifest says of a run: where it listens, what it depends on, and the arguments of the child, to which
    those for the sockets are added."""

    wanted: Wanted
    watched: Watched
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Heard:
    child: ServingChild
    news: News


class _Asked:
    """To stop, by a signal."""


class _Changed:
    """Files have changed; which, the session knows."""


@dataclass(frozen=True, slots=True)
class _Blind:
    """Files cannot be watched."""

    why: str


class DevSession:
    """`look` reads the manifest anew (raises ManifestError); `say` prints a line, `show` the faults of a manifest."""

    def __init__(
        self,
        look: Callable[[], DevRecipe],
        say: Callable[[str], None],
        show: Callable[[ManifestError], None],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`ready` is called each time the child serves."""
        self._look = look
        self._say = say
        self._show = show
        self._ready = ready
        self._doors, self._stand_in = HeldSockets(), StandIn()
        self._events: asyncio.Queue[_Heard | _Asked | _Changed | _Blind] = asyncio.Queue()
        self._changed: set[Path] = set()
        self._child: ServingChild | None = None
        self._follower: asyncio.Task[None] | None = None
        self._watched = Watched(())
        self._roots: tuple[Path, ...] = ()  # that are watched
        self._other_roots = asyncio.Event()  # others are to be
        self._asked = False
        self._announced = False  # the ready line has been printed
        self._replaced: tuple[str, ...] = ()
        self._begun: float | None = None  # when the reload began that has not come to an end

    async def serve(self) -> int:
        """Until it is stopped; returns the exit code: 0, or 2 where the first start finds that the command is wrong.

        Raises ManifestError and BindError at the first start, ServiceError where files cannot be watched.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        recipe = self._look()
        self._doors.open(recipe.wanted)
        self._watched = recipe.watched
        watching = loop.create_task(self._watch())
        try:
            await asyncio.sleep(0)  # from here on no change is missed
            await self._start(recipe)
            return await self._until_stopped()
        finally:
            self._asked = True
            self._other_roots.set()
            await self._stop_child()
            await self._stand_in.gone()
            self._doors.close()
            await watching

    def _asked_to_stop(self) -> None:
        """The second time the child is not waited for."""
        if self._asked and self._child is not None:
            self._child.kill()
        self._asked = True
        self._events.put_nowait(_Asked())

    async def _until_stopped(self) -> int:
        while True:
            match await self._events.get():
                case _Asked():
                    return 0
                case _Blind(why):
                    raise ServiceError("dev", why)
                case _Changed():
                    await self._reload()
                case _Heard(child, news) if child is self._child:
                    code = await self._heard(news)
                    if code is not None:
                        return code
                case _:
                    pass  # of a child that is no more

    async def _heard(self, news: News) -> int | None:
        """Act on it; the exit code where that is the end."""
        if isinstance(news, Stopped):
            return 0
        if isinstance(news, Failed):
            if news.code == 2 and not self._announced and self._begun is None:
                return 2
            if not news.printed:
                self._say(news.detail)
            await self._down(news.detail)
            return None
        self._announced = True
        await asyncio.to_thread(self._ready)
        self._watched = replace(self._watched, templates=news.templates)
        if self._begun is not None:
            self._say(f"reload: ready again in {time.monotonic() - self._begun:.2f} s")
            self._begun = None
        return None

    # The child ------------------------------------------------------------------------------------------------------

    async def _start(self, recipe: DevRecipe, *, announce: bool = True) -> None:
        """The child takes over; until it accepts, connections wait."""
        if recipe.wanted.replaced != self._replaced:
            self._replaced = recipe.wanted.replaced
            for line in self._replaced:
                self._say(line)
        overrides = [word for override in self._doors.overrides() for word in ("--set", override)]
        descriptors = {
            key: [listener.sock.fileno() for listener in listeners] for key, listeners in self._doors.by_key().items()
        }
        self._child = child = await ServingChild.start([*recipe.arguments, *overrides], descriptors, announce=announce)
        self._follower = asyncio.get_running_loop().create_task(self._follow(child))

    async def _follow(self, child: ServingChild) -> None:
        slow = asyncio.get_running_loop().call_later(
            _SLOW, self._say, f"still starting after {_SLOW:g} s; requests wait until it serves, or a file changes"
        )
        try:
            while True:
                news = await child.news()
                slow.cancel()
                self._events.put_nowait(_Heard(child, news))
                if not isinstance(news, Serving):
                    return
        finally:
            slow.cancel()

    async def _stop_child(self) -> None:
        if self._child is None:
            return
        if self._follower is not None:
            self._follower.cancel()
        if await self._child.stop():
            self._say("the process did not stop in time and was killed")
        self._child = None

    async def _down(self, detail: str) -> None:
        """Nobody serves: say why to whoever asks."""
        await self._stop_child()
        self._say("not serving until a file changes")
        lines = detail.strip().splitlines()[:_DETAIL_LINES]
        await self._stand_in.open(self._doors.all, "\n".join(lines))

    # Changes --------------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        changed = self._take_changed()
        if not changed:
            return
        self._begun = time.monotonic()
        self._say(f"reload: {describe(changed, Path.cwd())} changed")
        self._stand_in.close()
        await self._stop_child()
        _forget_bytecode(changed | self._take_changed())
        try:
            recipe = self._look()
            moved = self._doors.open(recipe.wanted)
        except ManifestError as error:
            self._show(error)
            await self._down(render_text(error.problems))
            return
        except BindError as error:
            self._say(str(error))
            await self._down(str(error))
            return
        self._watched = replace(recipe.watched, templates=self._watched.templates)
        if self._watched.roots() != self._roots:
            self._other_roots.set()
        await self._start(recipe, announce=moved or not self._announced)

    def _take_changed(self) -> set[Path]:
        changed, self._changed = self._changed, set()
        return changed

    async def _watch(self) -> None:
        awatch = import_module("watchfiles").awatch
        while not self._asked:
            self._other_roots = stop = asyncio.Event()
            self._roots = self._watched.roots()
            try:
                async for changes in awatch(
                    *self._roots,
                    watch_filter=None,
                    debounce=_SETTLE,
                    step=_STEP,
                    stop_event=stop,
                    ignore_permission_denied=True,
                ):
                    self._note(changes)
            except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
                self._events.put_nowait(_Blind(f"files cannot be watched: {error}"))
                return

    def _note(self, changes: Iterable[tuple[int, str]]) -> None:
        paths = {path for path in _changed_files(changes) if self._watched.restarts(path)}
        if paths and not self._changed:
            self._events.put_nowait(_Changed())
        self._changed |= paths


def _changed_files(changes: Iterable[tuple[int, str]]) -> Iterator[Path]:
    """Files, those of a folder that has come with them too, without what was there for a moment only."""
    changes = set(changes)
    added = {name for kind, name in changes if kind == _ADDED}
    for name in {name for _, name in changes}:
        path = Path(name)
        if not path.is_dir():
            if name not in added or path.exists():
                yield path
        elif name in added:
            for folder, _, names in os.walk(path):
                yield from (Path(folder, each) for each in names)


def _forget_bytecode(paths: Iterable[Path]) -> None:
    """Python tells a changed source by its size and its time in whole seconds: not enough for two saves in one."""
    for path in paths:
        if path.suffix == ".py":
            with suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))
