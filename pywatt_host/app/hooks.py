"""The start-up and shutdown hooks of the application, as a service."""

from __future__ import annotations

import inspect
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from pywatt_host.exceptions import ServiceError
from pywatt_host.observability.start_spans import StartSpans

logger = logging.getLogger("pywatt.host")

Hook: TypeAlias = Callable[[], Awaitable[Any] | Any]


class Hooks:
    """Start-up hooks run in the order in which they were registered, shutdown hooks in reverse."""

    name = "hooks"

    def __init__(self, spans: StartSpans) -> None:
        """`spans` has a span for each start-up hook that takes long."""
        self._spans = spans
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        for hook in self.startup:
            try:
                with self._spans.part(f"hook {_named(hook)}"):
                    await _call(hook)
            except Exception as error:  # named boundary: a hook is the user's code; the start fails with its error
                raise ServiceError("hooks", f"the start-up hook {_named(hook)} raised {error!r}") from error
        yield
        for hook in reversed(self.shutdown):
            try:
                await _call(hook)
            except Exception:  # named boundary: a hook is the user's code; the others still run
                logger.exception("the shutdown hook %s raised", _named(hook))


async def _call(hook: Hook) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result


def _named(hook: Hook) -> str:
    return getattr(hook, "__qualname__", None) or repr(hook)
