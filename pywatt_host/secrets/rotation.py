"""Secrets of a running host: loaded before anything else starts, and replaced as a set when they rotate.

A rotation fetches the new values beside the old ones and lets every dependant prepare for them. The values are replaced
only when all dependants are prepared. If one of them refuses, everything stays as it was, and the refusal is logged.
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

_REMEMBERED_ROTATIONS = 256  # a repeated request for one of these gets the same acknowledgement
_PREPARE_TIMEOUT = 30.0  # seconds that all dependants and hooks have together
_MAX_ANSWER_LENGTH = 300  # characters
_ROTATION_OFF = "rotation is off in this module (secrets.rotate: false)"


class Rotation:
    """The service that loads secrets when it starts and, with `rotate`, watches their sources until it stops."""

    name = "secrets"

    def __init__(self, store: SecretStore, *, rotate: bool, interval: float) -> None:
        self.store = store
        self._dependants: list[Dependant] = []
        self.counts: Counter[str] = Counter()  # number of rotations by result
        self._rotate = rotate
        self._interval = interval
        self._hooks: dict[str, list[Hook]] = defaultdict(list)
        self._one_at_a_time = asyncio.Lock()
        self._done: OrderedDict[str, str] = OrderedDict()
        self._failed = ""

    def on(self, name: str, hook: Hook) -> None:
        """Call `hook` with the new Secret before each rotation of `name` takes effect. If it raises, the rotation
        fails."""
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

    def check(self) -> None:
        """Raise SecretError if the last rotation failed: the values in use are older than those announced."""
        if self._failed:
            raise SecretError(f"the last rotation failed: {self._failed}")

    # What starts a rotation -----------------------------------------------------------------------------------------

    async def rotated(self, rotation_id: str, keys: Iterable[str]) -> str:
        """Rotate the secrets `keys` because the orchestrator says so, and return what to acknowledge.

        The result is empty if the new values are in use, else the reason why not. A repeated request for the same
        rotation gets the same result.
        """
        if rotation_id in self._done:
            return self._done[rotation_id]
        try:
            if not self._rotate:
                raise SecretError(_ROTATION_OFF)
            await self.rotate(keys, "the orchestrator")
            answer = ""
        except HostError as error:
            answer = self.store.mask(str(error))[:_MAX_ANSWER_LENGTH] or "refused"
        self._done[rotation_id] = answer
        if len(self._done) > _REMEMBERED_ROTATIONS:
            self._done.popitem(last=False)
        return answer

    async def rotate_by_hand(self, name: str) -> tuple[str, ...]:
        """Rotate one secret because an operator asks for it; return the names that changed. Raises SecretError."""
        if not self._rotate:
            raise SecretError(_ROTATION_OFF)
        if name not in self.store.names():
            raise SecretError(f"this module uses no such secret (used: {', '.join(self.store.names()) or 'none'})")
        return await self.rotate([name], "requested over the control socket")

    async def _watch(self) -> None:
        async for names in self.store.watch(self._interval):
            try:
                await self.rotate(names, "a changed source")
            except HostError:
                continue  # logged, counted and in the health report; the source is read again when it changes

    async def rotate(self, names: Iterable[str], why: str) -> tuple[str, ...]:
        """Fetch the secrets `names` again and put the new values to use; return the names that changed.

        `why` is for the log. Raises SecretError if a value cannot be fetched or a dependant refuses it; everything then
        stays as it was.
        """
        async with self._one_at_a_time:
            wanted = [name for name in dict.fromkeys(names) if name in self.store.names()]
            try:
                async with asyncio.timeout(_PREPARE_TIMEOUT):
                    refreshed = await self.store.refresh(wanted)
                    await self._swap(refreshed)
            except (HostError, TimeoutError) as error:
                self._failed = str(error) if isinstance(error, HostError) else f"not ready within {_PREPARE_TIMEOUT:g}s"
                self.counts["error"] += 1
                logger.error("the rotation of %s (%s) failed: %s", ", ".join(wanted), why, self._failed)
                raise SecretError(self._failed) from error
            self._failed = ""
            self.counts["success"] += 1
            logger.info("rotated %s (%s)", ", ".join(wanted) or "no secret of this module", why)
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
            await self._restore(called)
            raise
        self.store.install(refreshed)
        for each in prepared:
            each.commit()

    async def _call(self, hook: Hook, name: str, secret: Any) -> None:
        try:
            result = await asyncio.to_thread(hook, secret) if not inspect.iscoroutinefunction(hook) else hook(secret)
            if inspect.isawaitable(result):
                await result
        except SecretError:  # meant for those who asked for the rotation
            raise
        except Exception as error:  # named boundary: a hook is the user's code; if it raises, the rotation fails
            logger.exception("the rotation hook for %s raised", name)
            raise SecretError(f"the rotation hook for {name} raised {type(error).__name__}") from error

    async def _restore(self, called: Sequence[tuple[Hook, str]]) -> None:
        """Call the hooks that accepted the new value again, with the old value."""
        for hook, name in reversed(called):
            try:
                await self._call(hook, name, self.store.current(name))
            except HostError as error:
                logger.error("%s when it was called with the old value again", error)


class EnvironmentDependant:
    """Updates the variables of `app.env` in os.environ, for applications that read them after a rotation."""

    def __init__(self, name: str, names: Iterable[str], put: Callable[[Mapping[str, str]], None]) -> None:
        self.name = name
        self.names = frozenset(names)
        self._put = put

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        return _NewEnvironment(self._put, secret_values)


class _NewEnvironment:
    def __init__(self, put: Callable[[Mapping[str, str]], None], secret_values: Mapping[str, str]) -> None:
        self._put = put
        self._secret_values = secret_values

    def commit(self) -> None:
        self._put(self._secret_values)

    def discard(self) -> None:
        return
