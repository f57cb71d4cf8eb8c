"""The blocking form of AppState, for code that is not async: WSGI applications, thread pools, own threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from pywatt_host.app.tasks import OnFailure, Work, close
from pywatt_host.clients.http import HttpClients
from pywatt_host.secrets import Secret, SecretStore

if TYPE_CHECKING:
    import httpx

    from pywatt_host.protocol.messages import Provider
    from pywatt_host.stores.blocking import SyncCache, SyncDatabase
    from pywatt_host.stores.caches.cache import Cache
    from pywatt_host.stores.databases.database import Database

T = TypeVar("T")

_ON_LOOP = "app_state.sync blocks, and would block the event loop here: use `await app_state.{name}(...)` in async code"


class Bridge:
    """Runs coroutines on the host's event loop for threads, while the host runs."""

    name = "sync"

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._lock = threading.Lock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        with self._lock:
            self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._loop = None
                left = tuple(self._waiting)
            for future in left:  # the event loop runs no more coroutines
                future.cancel()

    def on_loop(self) -> bool:
        """Whether the current thread is that of the event loop, which must not be blocked."""
        return threading.get_ident() == self._thread

    def call(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `make` returns on the event loop, and return its result or raise its exception.

        `name` is the method that errors name. Raises RuntimeError on the thread of the event loop, before the host has
        started, and when the host stops, also while the call waits.
        """
        if self.on_loop():
            raise RuntimeError(_ON_LOOP.format(name=name))
        with self._lock:
            if self._loop is None:
                raise RuntimeError(
                    f"app_state.sync.{name}: the host has {'stopped' if self._thread else 'not started'}"
                )
            future = asyncio.run_coroutine_threadsafe(make(), self._loop)
            self._waiting.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError(f"app_state.sync.{name}: the host has stopped") from None
        finally:
            with self._lock:
                self._waiting.discard(future)


class AsyncState(Protocol):
    """The methods of AppState that SyncState calls on the event loop."""

    @property
    def db(self) -> Database: ...
    @property
    def databases(self) -> Mapping[str, Database]: ...
    @property
    def cache(self) -> Cache: ...
    @property
    def caches(self) -> Mapping[str, Cache]: ...

    async def get_secret(self, key: str, type: type[T]) -> Secret[T]: ...
    async def send_message(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None: ...
    async def request(
        self,
        target: str,
        message: Any,
        timeout: float = 30.0,
        authorization: str | None = None,
        channel: str | None = None,
    ) -> Any: ...
    async def publish(self, topic: str, message: Any, channel: str | None = None) -> None: ...
    async def register_service(
        self,
        name: str,
        service_type: str,
        address: str = "auto",
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str: ...
    async def deregister_service(self, service: str) -> None: ...
    async def discover_services(self, type: str) -> list[Provider]: ...
    def spawn(self, work: Work, *, name: str | None = None, on_failure: OnFailure = "log") -> asyncio.Task[None]: ...


class SyncState:
    """The methods of AppState for threads, at `app_state.sync`: each blocks its thread until the result is there.

    They are safe from any thread but that of the event loop, where they raise RuntimeError instead of blocking it. Else
    they raise what the methods of AppState raise.

    >>> import asyncio
    >>> from pywatt_host import AppState, pywatt_module
    >>> @pywatt_module(enable_cache=True)
    ... def create_app(app_state: AppState):
    ...     async def app(scope, receive, send): ...
    ...     return app
    >>> async def main() -> None:
    ...     async with create_app() as app:
    ...         def in_a_thread():
    ...             app.state.sync.cache.set("greeting", "hello")
    ...             return app.state.sync.cache.get("greeting")
    ...         print(await asyncio.to_thread(in_a_thread))
    >>> asyncio.run(main())
    hello
    """

    def __init__(self, state: AsyncState, bridge: Bridge, store: SecretStore, outbound: HttpClients) -> None:
        self._state = state
        self._store = store
        self._outbound = outbound
        self._bridge = bridge

    @overload
    def get_secret(self, key: str) -> Secret[str]: ...

    @overload
    def get_secret(self, key: str, type: type[T]) -> Secret[T]: ...

    def get_secret(self, key: str, type: type[Any] = str) -> Secret[Any]:
        """As AppState.get_secret. A secret that has been fetched already is returned on any thread, also in a
        factory."""
        known = self._store.peek(key, type)
        return (
            known if known is not None else self._bridge.call("get_secret", lambda: self._state.get_secret(key, type))
        )

    def send_message(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        """As AppState.send_message."""
        self._bridge.call("send_message", lambda: self._state.send_message(target, message, authorization, channel))

    def request(
        self,
        target: str,
        message: Any,
        timeout: float = 30.0,
        authorization: str | None = None,
        channel: str | None = None,
    ) -> Any:
        """As AppState.request: `timeout` in seconds."""
        return self._bridge.call(
            "request", lambda: self._state.request(target, message, timeout, authorization, channel)
        )

    def publish(self, topic: str, message: Any, channel: str | None = None) -> None:
        """As AppState.publish."""
        self._bridge.call("publish", lambda: self._state.publish(topic, message, channel))

    def register_service(
        self,
        name: str,
        service_type: str,
        address: str = "auto",
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """As AppState.register_service."""
        return self._bridge.call(
            "register_service", lambda: self._state.register_service(name, service_type, address, version, metadata)
        )

    def deregister_service(self, service: str) -> None:
        """As AppState.deregister_service."""
        self._bridge.call("deregister_service", lambda: self._state.deregister_service(service))

    def discover_services(self, type: str) -> list[Provider]:
        """As AppState.discover_services."""
        return self._bridge.call("discover_services", lambda: self._state.discover_services(type))

    def spawn(self, work: Work, *, name: str | None = None, on_failure: OnFailure = "log") -> None:
        """As AppState.spawn; the task runs on the event loop."""
        if self._bridge.on_loop():
            self._state.spawn(work, name=name, on_failure=on_failure)
            return

        async def begin() -> None:
            self._state.spawn(work, name=name, on_failure=on_failure)

        try:
            self._bridge.call("spawn", begin)
        except RuntimeError:
            close(work)
            raise

    @property
    def db(self) -> SyncDatabase:
        """As AppState.db, blocking: `with app_state.sync.db.acquire() as conn: conn.fetch(...)`."""
        return self._database(self._state.db)

    @property
    def databases(self) -> Mapping[str, SyncDatabase]:
        """As AppState.databases, blocking."""
        return {name: self._database(database) for name, database in self._state.databases.items()}

    @property
    def cache(self) -> SyncCache:
        """As AppState.cache, blocking."""
        return self._cache(self._state.cache)

    @property
    def caches(self) -> Mapping[str, SyncCache]:
        """As AppState.caches, blocking."""
        return {name: self._cache(cache) for name, cache in self._state.caches.items()}

    def _database(self, database: Database) -> SyncDatabase:
        blocking: SyncDatabase = import_module("pywatt_host.stores.blocking").SyncDatabase(database, self._bridge.call)
        return blocking

    def _cache(self, cache: Cache) -> SyncCache:
        blocking: SyncCache = import_module("pywatt_host.stores.blocking").SyncCache(cache, self._bridge.call)
        return blocking

    @property
    def http(self) -> httpx.Client:
        """As AppState.http, a blocking httpx client. It is safe from any thread; on that of the event loop its requests
        raise RuntimeError."""
        return self._outbound.blocking()
