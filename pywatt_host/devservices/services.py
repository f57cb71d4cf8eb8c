"""The private servers of one folder: started when a store asks for one, stopped with their last user."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pywatt_host.devservices.nats import Nats
from pywatt_host.devservices.postgresql import Postgresql
from pywatt_host.devservices.server import PrivateServer, ServerKind, server_error
from pywatt_host.devservices.shared_folder import SharedFolder
from pywatt_host.devservices.valkey import Valkey

logger = logging.getLogger("pywatt.dev")


class DevServices:
    """Starts a private server when it is first asked for. All processes that use the same folder share its servers; the
    last of them stops the servers. As a Service, it calls `close` at its end."""

    name = "dev services"

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = SharedFolder(folder)
        self._kinds: dict[str, Callable[[], ServerKind]] = {
            "postgresql": lambda: Postgresql(self._folder.root, environ),
            "redis": lambda: Valkey(self._folder.root),
            "nats": lambda: Nats(self._folder.root),
        }
        self._servers: dict[str, PrivateServer] = {}
        self._lock = asyncio.Lock()

    async def url(self, kind: str, name: str) -> str:
        """The URL of the database `name` on the server of a kind: `postgresql`, `redis` or `nats`. Starts the server if
        it does not run. Raises StoreError."""
        async with self._lock:
            return await asyncio.to_thread(self._url, kind, name)

    def _url(self, kind: str, name: str) -> str:
        try:
            self._folder.create()
            with self._folder.locked():
                self._folder.join()
                server = self._servers.get(kind)
                if server is None:
                    server = self._servers[kind] = PrivateServer(self._kinds[kind]())
                began = time.monotonic()
                if server.running() is None:
                    logger.info("starting a private %s server in %s", kind, server.kind.folder)
                if server.start():
                    logger.info("the private %s server answers after %.1f s", kind, time.monotonic() - began)
                return server.kind.url(name)
        except OSError as error:
            raise server_error(kind, f"the private server cannot be started: {error}") from error

    def keep(self) -> None:
        """Become a user of the servers that child processes have started here, so that they go on running between two
        children."""
        if self._folder.exists:
            with self._folder.locked():
                self._folder.join()

    def close(self) -> None:
        """Stop being a user of the servers. The last user stops every server of the folder."""
        if not self._folder.exists:
            return
        with self._folder.locked():
            if not self._folder.leave():
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
