"""The limit in front of a backend: how many connections there are, who waits for one, and how the pool closes."""

from __future__ import annotations

import asyncio
import logging

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import Backend, DatabaseSession

logger = logging.getLogger("pywatt.stores")


class ConnectionPool:
    """At most `max_size` connections of one backend, given out in the order of the requests."""

    def __init__(self, store: str, display_url: str, backend: Backend, *, min_size: int, max_size: int) -> None:
        """`display_url` is the URL without its password."""
        self.store = store
        self.display_url = display_url
        self.backend = backend
        self.min_size = min(min_size, max_size)
        self.max_size = max_size
        self.in_use = 0
        self.waiting = 0
        self._slots = asyncio.Semaphore(max_size)
        self._drained = asyncio.Event()  # no connection is in use, and nobody waits for one
        self._drained.set()
        self._opened = False

    async def open(self) -> None:
        """Prepare the backend, without connecting. Raises StoreError (`arguments`)."""
        if not self._opened:
            await self.backend.open()
            self._opened = True

    async def acquire(self, timeout: float) -> DatabaseSession:
        """Return a connection within `timeout` seconds. Raises StoreError: `exhausted` if all of them stay in use, or
        the error of the backend."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._slot(timeout)
        try:
            async with asyncio.timeout_at(deadline):
                return await self.backend.acquire()
        except TimeoutError:
            self._free()
            message = f"could not connect to {self.display_url} within {timeout:.3g}s"
            raise StoreError(self.store, "unavailable", message) from None
        except BaseException:
            self._free()
            raise

    def _free(self) -> None:
        self.in_use -= 1
        self._slots.release()
        self._set_drained()

    def _set_drained(self) -> None:
        if not self.in_use and not self.waiting:  # who waits may have the slot already, and run next
            self._drained.set()

    async def _slot(self, timeout: float) -> None:
        """Take a slot. It counts as in use before it is connected, so that `close` waits for it too."""
        self._drained.clear()
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            self.in_use += 1
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
                self.in_use += 1
        except TimeoutError:
            message = f"no connection became free within {timeout:.3g}s: all {self.max_size} are in use"
            raise StoreError(self.store, "exhausted", f"{message} (pool.max, pool.timeout)") from None
        finally:
            self.waiting -= 1
            self._set_drained()

    async def release(self, session: DatabaseSession) -> None:
        try:
            await self.backend.release(session)
        finally:
            self._free()

    async def warm(self, timeout: float) -> None:
        """Open `min_size` connections, at least one. Raises StoreError."""
        sessions: list[DatabaseSession] = []
        try:
            for _ in range(max(self.min_size, 1)):
                sessions.append(await self.acquire(timeout))
        finally:
            for session in sessions:
                await self.release(session)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for the connections in use, then close all connections."""
        if not self._opened:
            return
        try:
            async with asyncio.timeout(grace):
                while self.in_use or self.waiting:
                    await self._drained.wait()
        except TimeoutError:
            logger.warning("%s: closing %d connections that are still in use", self.store, self.in_use)
        await self.backend.close()
