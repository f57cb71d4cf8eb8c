"""The private servers of one folder, as those who use them see them."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pywatt_host.devservices.nats import Nats
from pywatt_host.devservices.place import Place
from pywatt_host.devservices.postgresql import Postgresql
from pywatt_host.devservices.server import Kind, PrivateServer, failure
from pywatt_host.devservices.valkey import Valkey

logger = logging.getLogger("pywatt.dev")


class DevServices:
    """Started when they are first asked for, shared by every process that uses the same folder, stopped with the last
    of them. As a service: leaves when it is left."""

    name = "dev services"

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._place = Place(folder)
        self._kinds: dict[str, Callable[[], Kind]] = {
            "postgresql": lambda: Postgresql(self._place.root, environ),
            "redis": lambda: Valkey(self._place.root),
            "nats": lambda: Nats(self._place.root),
        }
        self._servers: dict[str, PrivateServer] = {}
        self._one_at_a_time = asyncio.Lock()

    async def url(self, kind: str, name: str) -> str:
        """Of a server of this kind, `postgresql`, `redis` or `nats`, for a name of its own. Raises StoreError."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._url, kind, name)

    def _url(self, kind: str, name: str) -> str:
        try:
            self._place.make()
            with self._place.deciding():
                self._place.join()
                server = self._servers.get(kind)
                if server is None:
                    server = self._servers[kind] = PrivateServer(self._kinds[kind]())
                began = time.monotonic()
                if server.running() is None:
                    logger.info("starting a private %s server in %s", kind, server.kind.folder)
                if server.start():
                    logger.info("the private %s server answers (%.1f s)", kind, time.monotonic() - began)
                return server.kind.url(name)
        except OSError as error:
            raise failure(kind, f"no private server: {error}") from error

    def keep(self) -> None:
        """Be one of the users of what others have started here, where anything has been."""
        if self._place.used:
            with self._place.deciding():
                self._place.join()

    def close(self) -> None:
        """Leave; the last one stops every server of the folder."""
        if not self._place.used:
            return
        with self._place.deciding():
            if not self._place.leave():
                return
            for kind, make in self._kinds.items():
                server = self._servers.get(kind) or PrivateServer(make())
                if server.running() is not None:
                    server.stop()
                    logger.info("the private %s server has stopped; its data are kept", kind)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(self.close)
