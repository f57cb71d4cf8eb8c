"""The bound in front of a backend: who waits for a connection, for how long, and how the last ones leave."""

from __future__ import annotations

import asyncio
import logging

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import Backend, DatabaseSession

logger = logging.getLogger("pywatt.stores")


class ConnectionPool:
    """At most `most` connections of one backend, handed out in the order in which they were asked for."""

    def __init__(self, store: str, shown: str, backend: Backend, *, least: int, most: int) -> None:
        """`shown` is the URL as it may be shown."""
        self.store = store
        self.shown = shown
        self.backend = backend
        self.least = min(least, most)
        self.most = most
        self.in_use = 0
        self.waiting = 0
        self._slots = asyncio.Semaphore(most)
        self._drained = asyncio.Event()
        self._drained.set()
        self._opened = False

    async def open(self) -> None:
        """Raises StoreError (`arguments`); connects to nothing yet."""
        if not self._opened:
            await self.backend.open()
            self._opened = True

    async def acquire(self, timeout: float) -> DatabaseSession:
        """A connection within `timeout` seconds. Raises StoreError: `exhausted` where all of them stay in use, else
        why there is none."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._slot(timeout)
        self.in_use += 1  # from here on: a pool that is drained waits for who is connecting too
        self._drained.clear()
        try:
            async with asyncio.timeout_at(deadline):
                return await self.backend.acquire()
        except TimeoutError:
            self._free()
            message = f"{self.shown} did not let us connect within {timeout:.3g}s"
            raise StoreError(self.store, "unavailable", message) from None
        except BaseException:
            self._free()
            raise

    def _free(self) -> None:
        self.in_use -= 1
        self._slots.release()
        if not self.in_use:
            self._drained.set()

    async def _slot(self, timeout: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            message = f"no free connection within {timeout:.3g}s: all {self.most} are in use (pool.max, pool.timeout)"
            raise StoreError(self.store, "exhausted", message) from None
        finally:
            self.waiting -= 1

    async def release(self, session: DatabaseSession) -> None:
        try:
            await self.backend.release(session)
        finally:
            self._free()

    async def warm(self, timeout: float) -> None:
        """Connect `least` times, once at least: raises StoreError where even that fails."""
        sessions: list[DatabaseSession] = []
        try:
            for _ in range(max(self.least, 1)):
                sessions.append(await self.acquire(timeout))
        finally:
            for session in sessions:
                await self.release(session)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for what is in use, then close all of it."""
        if not self._opened:
            return
        try:
            async with asyncio.timeout(grace):
                await self._drained.wait()
        except TimeoutError:
            logger.warning("%s: %d connections are closed while in use", self.store, self.in_use)
        await self.backend.close()
