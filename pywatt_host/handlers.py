"""The application's handlers for messages, by type: what may be asked of them, whoever asks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from pywatt_host.exceptions import MessagingError

logger = logging.getLogger("pywatt.messages")

Handler: TypeAlias = Callable[[Any], Awaitable[Any] | Any]


class Found(NamedTuple):
    """A handler, and whether it is a coroutine function; any other runs in a thread."""

    handler: Handler
    is_async: bool

    def __call__(self, content: Any) -> Awaitable[Any]:
        return self.handler(content) if self.is_async else _threaded(self.handler, content)


async def _threaded(handler: Handler, content: Any) -> Any:
    result = await asyncio.to_thread(handler, content)
    return await result if inspect.isawaitable(result) else result


class Handlers:
    """One for each type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Found] = {}

    def on(self, type: str, handler: Handler) -> None:
        """Raises ValueError where the type has one already."""
        if type in self._by_type:
            raise ValueError(f"there is a handler for messages of type {type!r} already")
        self._by_type[type] = Found(handler, inspect.iscoroutinefunction(handler))

    def get(self, type: str) -> Found | None:
        return self._by_type.get(type)

    async def deliver(self, type: str, content: Mapping[str, Any], timeout: float) -> Any:
        """What the handler makes of a message that comes from nobody in particular, such as the control socket. Raises
        MessagingError: no_handler, handler_failed, timeout."""
        found = self._by_type.get(type)
        if found is None:
            known = ", ".join(sorted(self._by_type)) or "none"
            raise MessagingError("no_handler", f"there is no handler for {type[:60]!r} (there are: {known})")
        try:
            async with asyncio.timeout(timeout):
                return await found({**content, "type": type})
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s") from None
        except MessagingError:
            raise
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            logger.exception("the handler for %r raised", type[:60])
            raise MessagingError("handler_failed", (str(error) or error.__class__.__name__)[:300]) from error
