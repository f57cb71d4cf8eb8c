"""The lifespan of one ASGI application (ASGI lifespan protocol 2.0)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pywatt_host.exceptions import AppLoadError
from pywatt_host.types import ASGIApp, Message, Scope

logger = logging.getLogger("pywatt.app")

_PROGRESS_INTERVAL = 10.0  # seconds between two log lines about an application that is still starting
_UNWIND_TIMEOUT = 5.0  # seconds in which an application stops where something after it has failed to start


class _LifespanProtocol:
    """`receive` and `send` for the application, and what it has sent."""

    def __init__(self) -> None:
        self.started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()  # a text: why it failed
        self.stopping = asyncio.Event()
        self.stopped: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.asked_start = False

    async def receive(self) -> Message:
        if not self.asked_start:
            self.asked_start = True
            return {"type": "lifespan.startup"}
        await self.stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        phase, _, outcome = str(message["type"]).removeprefix("lifespan.").partition(".")
        future = self.started if phase == "startup" else self.stopped
        if not future.done():
            future.set_result(None if outcome == "complete" else str(message.get("message", "")) or "no reason given")


@asynccontextmanager
async def lifespan(
    app: ASGIApp, state: dict[str, Any], import_path: str, stop_failed: Callable[[], None] = lambda: None
) -> AsyncIterator[bool]:
    """Start the application, yield whether it supports the protocol, and stop it when the block ends.

    The application may fill `state`, of which each request gets a copy. An application that returns or raises before
    it has answered is served without a lifespan. Raises AppLoadError (`lifespan-failed`) where it says that it failed.
    `stop_failed` is called where it did not stop in order.
    """
    protocol = _LifespanProtocol()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    running = asyncio.create_task(_run(app, scope, protocol), name=f"lifespan {import_path}")
    try:
        await _wait(running, protocol.started, import_path)
        failure = protocol.started.result() if protocol.started.done() else None
        if failure is not None:
            raise AppLoadError(import_path, "lifespan-failed", f"the application failed to start: {failure.rstrip()}")
        taking_part = protocol.started.done()
        if not taking_part:
            _report_declined(running, protocol, import_path)
        unwinding = True
        try:
            yield taking_part
            unwinding = False
        finally:
            if taking_part and not running.done():
                protocol.stopping.set()
                # The caller bounds an orderly stop, but not the unwinding of a failed start.
                await asyncio.wait(
                    (running, protocol.stopped),
                    timeout=_UNWIND_TIMEOUT if unwinding else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if taking_part and not _stopped(running, protocol, import_path):
                stop_failed()
    finally:
        if not running.done():
            await asyncio.wait((running,), timeout=0.1)  # it may go on for a moment after it has answered
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _run(app: ASGIApp, scope: Scope, protocol: _LifespanProtocol) -> None:
    try:
        await app(scope, protocol.receive, protocol.send)
    except (SystemExit, KeyboardInterrupt) as error:  # it would end the event loop in the middle of everything
        if not protocol.started.done():
            protocol.started.set_result(f"it raised {error!r}")
        raise RuntimeError(f"the application raised {error!r}") from error


async def _wait(running: asyncio.Task[Any], started: asyncio.Future[str | None], import_path: str) -> None:
    """Wait until the application has answered or ended, and log every 10 s that it is still starting."""
    waited = 0.0
    while True:
        done, _ = await asyncio.wait(
            (running, started), timeout=_PROGRESS_INTERVAL, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            return
        waited += _PROGRESS_INTERVAL
        logger.info("%s is still starting after %.0fs", import_path, waited, extra={"app": import_path})


def _report_declined(running: asyncio.Task[Any], protocol: _LifespanProtocol, import_path: str) -> None:
    """Log that the application is served without a lifespan: it does not know that it has one, or it failed."""
    error = running.exception() if running.done() and not running.cancelled() else None
    if error is None:
        logger.debug("%s has no lifespan: it returned", import_path, extra={"app": import_path})
        return
    logger.info(
        "%s left its lifespan by %s; it is served without a lifespan (nothing of its start-up or shutdown runs)",
        import_path, f"{type(error).__name__}: {error}".removesuffix(": "), extra={"app": import_path},
        exc_info=error if protocol.asked_start else None,  # else it does not know this kind of scope
    )  # fmt: skip


def _stopped(running: asyncio.Task[Any], protocol: _LifespanProtocol, import_path: str) -> bool:
    """Whether the application has stopped in order. What went wrong is logged."""
    if running.cancelling():
        return True  # the event loop ends, and nothing has waited for the stop
    if protocol.stopped.done():
        failure = protocol.stopped.result()
        if failure is not None:
            logger.error("%s failed to stop: %s", import_path, failure.rstrip(), extra={"app": import_path})
        return failure is None
    if running.done() and not running.cancelled() and (error := running.exception()) is not None:
        logger.error("%s failed to stop", import_path, exc_info=error, extra={"app": import_path})
        return False
    return True
