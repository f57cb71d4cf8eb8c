"""Reading beside the event loop: with a limit, and without anything that waits for what is left of it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from pywatt_host.supervision.reading import SlowReadError, read_aside


def fail() -> None:
    raise TimeoutError("by itself")


def test_what_is_read_or_raised_is_passed_on() -> None:
    asked: contextvars.ContextVar[str] = contextvars.ContextVar("asked")

    async def main() -> None:
        asked.set("request")
        assert await read_aside(asked.get) == "request"
        with pytest.raises(TimeoutError, match="by itself"):
            await read_aside(fail)

    asyncio.run(main())


def test_the_loop_ends_while_the_read_goes_on() -> None:
    released = threading.Event()
    began = time.monotonic()
    with pytest.raises(SlowReadError):
        asyncio.run(read_aside(lambda: released.wait(60), 0.05))
    assert time.monotonic() - began < 30
    released.set()
