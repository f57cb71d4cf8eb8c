"""The host's own paths in a worker: its supervisor answers them, so that every worker gives the answer of the host."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from pywatt_host.http.edge import Answer, HostPath
from pywatt_host.types import Scope

logger = logging.getLogger("pywatt.edge")


class HostAnswers(Protocol):
    """Asks the supervisor for its answer to a GET request for one of the host's own paths.

    The worker has verified the credential already. `accept` is the Accept header. `details` says whether a health
    report contains the errors of checks; it is None for all other paths.
    """

    async def __call__(self, path: str, accept: str, details: bool | None) -> Answer: ...


class AskingPaths:
    """Makes paths whose answers come from the supervisor. Where it fails or takes more than `timeout` seconds, the
    worker answers by itself, from what it knows of itself."""

    def __init__(self, ask: HostAnswers, timeout: float = 2.0) -> None:
        self._ask = ask
        self._timeout = timeout
        self._fails = False

    def path(self, path: str, own: HostPath, details: bool | None = None) -> HostPath:
        """`path`, with `own` as the worker's own answer."""

        async def answer(scope: Scope) -> Answer | None:
            try:
                async with asyncio.timeout(self._timeout):
                    found = await self._ask(path, accept(scope), details)
            except Exception as error:  # named boundary: the supervisor may fail in any way, and a probe must not
                if not self._fails:
                    self._fails = True
                    why = f"no answer within {self._timeout:g}s" if isinstance(error, TimeoutError) else repr(error)
                    logger.warning("the supervisor does not answer %s: %s; this worker answers by itself", path, why)
                return await own(scope)
            self._fails = False
            return found

        return answer


def accept(scope: Scope) -> str:
    """The Accept header of a request; empty where there is none."""
    return b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
