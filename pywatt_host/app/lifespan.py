"""The lifespan of one ASGI application (ASGI lifespan protocol 2.0)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pywatt_host.exceptions import AppLoadError
from pywatt_host.types import ASGIApp, Message, Scope

logger = logging.getLogger("pywatt.app")

_STILL_STARTING_EVERY = 10.0  # seconds
_UNWOUND_WITHIN = 5.0  # seconds to stop in when something after it has failed to start


class _Conversation:
    """The two ends of the protocol: what the application asks for and what it tells."""

    def __init__(self) -> None:
        self.started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()  # a text: it failed
        self.stopping = asyncio.Event()
        self.stopped: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked_start = False

    async def receive(self) -> Message:
        if not self._asked_start:
            self._asked_start = True
            return {"type": "lifespan.startup"}
        await self.stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        phase, _, outcome = str(message["type"]).removeprefix("lifespan.").partition(".")
        future = self.started if phase == "startup" else self.stopped
        if not future.done():
            future.set_result(None if outcome == "complete" else str(message.get("message", "")) or "no reason given")


@asynccontextmanager
async def lifespan(app: ASGIApp, state: dict[str, Any], import_path: str) -> AsyncIterator[bool]:
    """Start the application, yield whether it takes part at all, stop it.

    `state` is filled by the application; each request gets a copy of it. An application that raises before it has
    answered declines, as the protocol has it. Raises AppLoadError (`lifespan-failed`) when it says that it failed.
    """
    conversation = _Conversation()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    running = asyncio.create_task(_run(app, scope, conversation), name=f"lifespan {import_path}")
    try:
        await _wait(running, conversation.started, import_path)
        failure = conversation.started.result() if conversation.started.done() else None
        if failure is not None:
            raise AppLoadError(import_path, "lifespan-failed", f"the application failed to start: {failure.rstrip()}")
        taking_part = conversation.started.done()
        if not taking_part:
            error = running.exception() if running.done() and not running.cancelled() else None
            logger.debug("%s has no lifespan (%s)", import_path, error or "it returned", extra={"app": import_path})
        unwinding = True
        try:
            yield taking_part
            unwinding = False
        finally:
            if taking_part and not running.done():
                conversation.stopping.set()
                # A stop in order is bounded by the caller; while a failed start is unwound, nobody else does it.
                await asyncio.wait(
                    (running, conversation.stopped),
                    timeout=_UNWOUND_WITHIN if unwinding else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if taking_part:
                _report_stop(running, conversation, import_path)
    finally:
        if not running.done():
            await asyncio.wait((running,), timeout=0.1)  # what it does after having said that it is complete
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _run(app: ASGIApp, scope: Scope, conversation: _Conversation) -> None:
    await app(scope, conversation.receive, conversation.send)


async def _wait(running: asyncio.Task[Any], started: asyncio.Future[str | None], import_path: str) -> None:
    """Until the application has answered or ended; says now and then what is being waited for."""
    waited = 0.0
    while True:
        done, _ = await asyncio.wait(
            (running, started), timeout=_STILL_STARTING_EVERY, return_when=asyncio.FIRST_COMPLETED
        )
        if done:
            return
        waited += _STILL_STARTING_EVERY
        logger.info("%s is still starting after %.0fs", import_path, waited, extra={"app": import_path})


def _report_stop(running: asyncio.Task[Any], conversation: _Conversation, import_path: str) -> None:
    if running.cancelling():
        return  # the event loop itself ends, and nobody has waited for the stop
    if conversation.stopped.done():
        failure = conversation.stopped.result()
        if failure is not None:
            logger.error("%s failed to stop: %s", import_path, failure.rstrip(), extra={"app": import_path})
    elif running.done() and not running.cancelled() and (error := running.exception()) is not None:
        logger.error("%s failed to stop", import_path, exc_info=error, extra={"app": import_path})
