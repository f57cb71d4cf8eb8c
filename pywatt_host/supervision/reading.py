"""Reading a manifest beside the event loop, for as long as that may take."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pywatt_host.exceptions import HostError

READ_LIMIT = 60.0  # seconds; a decorated function is imported meanwhile
_Read = TypeVar("_Read")


class SlowReadError(HostError):
    """Raised when a manifest was not read within the limit, such as from a file system that does not answer."""

    exit_code = 2

    def __init__(self, limit: float) -> None:
        self.limit = limit
        super().__init__(
            f"reading the manifest takes longer than {limit:g} s; check its files and its config_schema with `validate`"
        )


async def read_aside(read: Callable[[], _Read], limit: float = READ_LIMIT) -> _Read:
    """Call `read` in a thread of its own and return its result. Raises what it raises, and SlowReadError after `limit`
    seconds.

    A call that takes longer, or is cancelled, is left to itself: it holds up neither the event loop nor the end of the
    process.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[_Read] = loop.create_future()

    def settle(result: _Read | None, error: BaseException | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(result)  # type: ignore[arg-type]  # None only where `read` returns None

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(read)
        except BaseException as exc:  # raised again by the caller
            error = exc
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    context = contextvars.copy_context()
    threading.Thread(target=run, name="pywatt-read", daemon=True).start()
    try:
        async with asyncio.timeout(limit):
            return await asyncio.shield(found)
    except TimeoutError:
        if found.done():
            raise  # by `read`
        found.cancel()
        raise SlowReadError(limit) from None
