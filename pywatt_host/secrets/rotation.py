"""Secrets of a running host: fetched before anything else starts, and swapped as a set when they rotate.

A rotation fetches the new values beside the old ones and lets everything that depends on them prepare for it. Only when
all of them have done so are the values swapped; where one refuses, everything stays as it was, and that is said.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from asyncio import TaskGroup
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from pywatt_host.exceptions import HostError, SecretError
from pywatt_host.secrets import Refreshed, SecretStore
from pywatt_host.service import Dependant, Prepared

logger = logging.getLogger("pywatt.secrets")

Hook: TypeAlias = Callable[[Any], Awaitable[Any] | Any]

_REMEMBERED = 256  # rotations whose acknowledgement is given again where the same one is asked for again
_PREPARING = 30.0  # seconds that dependants and hooks have together


class Rotation:
    """As a service: fetches on entering; with `rotate`, watches until it is left."""

    name = "secrets"

    def __init__(self, store: SecretStore, *, rotate: bool, interval: float) -> None:
        self.store = store
        self._dependants: list[Dependant] = []
        self.counts: Counter[str] = Counter()  # rotations by result
        self._rotate = rotate
        self._interval = interval
        self._hooks: dict[str, list[Hook]] = defaultdict(list)
        self._one_at_a_time = asyncio.Lock()
        self._done: OrderedDict[str, str] = OrderedDict()
        self._failed = ""

    def on(self, name: str, hook: Hook) -> None:
        """Call `hook` with the new Secret on each rotation of `name`, before the swap; raising refuses it."""
        self._hooks[name].append(hook)

    def register(self, *dependants: Dependant) -> None:
        """Let these parts prepare for each rotation of a secret that they use; each may refuse it."""
        self._dependants += dependants

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        await self.store.load()
        watching = tasks.create_task(self._watch(), name="watch secrets") if self._rotate else None
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()

    async def check(self) -> None:
        """Raises SecretError while the last rotation has failed: what is in use is older than what was announced."""
        if self._failed:
            raise SecretError(f"the last rotation failed: {self._failed}")

    # Why it rotates -------------------------------------------------------------------------------------------------

    async def rotated(self, rotation_id: str, keys: Iterable[str]) -> str:
        """By the orchestrator's word. What to acknowledge: nothing where the new values are in use, else why not. A
        rotation that is asked for again has the same answer."""
        if rotation_id in self._done:
            return self._done[rotation_id]
        try:
            if not self._rotate:
                raise SecretError("rotation is off in this module (secrets.rotate: false)")
            await self.rotate(keys, "the orchestrator")
            answer = ""
        except HostError as error:
            answer = str(error)[:300] or "refused"
        self._done[rotation_id] = answer
        if len(self._done) > _REMEMBERED:
            self._done.popitem(last=False)
        return answer

    async def rotate_by_hand(self, name: str) -> tuple[str, ...]:
        """By an operator's word; gives what changed. Raises SecretError."""
        if not self._rotate:
            raise SecretError("rotation is off in this module (secrets.rotate: false)")
        if name not in self.store.names():
            raise SecretError(f"no such secret is used here (used: {', '.join(self.store.names()) or 'none'})")
        return await self.rotate([name], "asked over the control socket")

    async def _watch(self) -> None:
        async for names in self.store.watch(self._interval):
            try:
                await self.rotate(names, "a changed source")
            except HostError:
                continue  # logged, counted, and in the health report; the source is looked at again when it changes

    async def rotate(self, names: Iterable[str], why: str) -> tuple[str, ...]:
        """Fetch these anew and swap; returns those that changed. Raises HostError, with everything as it was, where a
        value cannot be had or a dependant refuses it."""
        async with self._one_at_a_time:
            wanted = [name for name in dict.fromkeys(names) if name in self.store.names()]
            try:
                async with asyncio.timeout(_PREPARING):
                    refreshed = await self.store.refresh(wanted)
                    await self._swap(refreshed)
            except (HostError, TimeoutError) as error:
                self._failed = str(error) if isinstance(error, HostError) else f"not ready within {_PREPARING:g}s"
                self.counts["error"] += 1
                logger.error("rotation of %s (%s) failed: %s", ", ".join(wanted), why, self._failed)
                raise SecretError(self._failed) from error
            self._failed = ""
            self.counts["success"] += 1
            logger.info("rotated %s (%s)", ", ".join(wanted) or "nothing that is used here", why)
            return tuple(refreshed.changed)

    async def _swap(self, refreshed: Refreshed) -> None:
        changed = frozenset(refreshed.changed)
        if not changed:
            return
        secret_values = refreshed.secret_values
        prepared: list[Prepared] = []
        called: list[tuple[Hook, str]] = []
        try:
            for dependant in self._dependants:
                if dependant.names & changed:
                    prepared.append(await dependant.prepare(secret_values))
            for name in refreshed.changed:
                for hook in self._hooks.get(name, ()):
                    await self._call(hook, name, refreshed.secret(name))
                    called.append((hook, name))
        except BaseException:
            for each in prepared:
                each.discard()
            await self._take_back(called)
            raise
        self.store.install(refreshed)
        for each in prepared:
            each.commit()

    async def _call(self, hook: Hook, name: str, secret: Any) -> None:
        try:
            result = await asyncio.to_thread(hook, secret) if not inspect.iscoroutinefunction(hook) else hook(secret)
            if inspect.isawaitable(result):
                await result
        except HostError:
            raise
        except Exception as error:  # named boundary: a hook is the user's code; raising refuses the rotation
            logger.exception("the rotation hook for %s raised", name)
            raise SecretError(f"the rotation hook for {name} raised {type(error).__name__}") from error

    async def _take_back(self, called: Sequence[tuple[Hook, str]]) -> None:
        """Hooks that had taken a value get the old one again."""
        for hook, name in reversed(called):
            try:
                await self._call(hook, name, self.store.current(name))
            except HostError as error:
                logger.error("%s, given the old value again", error)


class EnvironmentDependant:
    """`app.env`: what is in os.environ follows, for applications that read it later."""

    def __init__(self, name: str, names: Iterable[str], put: Callable[[Mapping[str, str]], None]) -> None:
        self.name = name
        self.names = frozenset(names)
        self._put = put

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        return _Put(self._put, secret_values)


class _Put:
    def __init__(self, put: Callable[[Mapping[str, str]], None], secret_values: Mapping[str, str]) -> None:
        self._put = put
        self._texts = secret_values

    def commit(self) -> None:
        self._put(self._texts)

    def discard(self) -> None:
        return
