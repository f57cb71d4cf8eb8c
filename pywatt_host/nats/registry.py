"""The registry of services on NATS: a JetStream bucket whose entries last for a lease, which their module renews.

NATS publishes every change of the bucket on a subject (`$KV.BUCKET.KEY`). The registry subscribes to those subjects, so
that a lookup only reads memory. An entry that is not renewed is removed here at the end of its lease, as on the server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.exceptions import MessagingError, ProtocolError
from pywatt_host.nats.connection import NatsConnection
from pywatt_host.nats.subjects import Subjects, name, token
from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.peers.names import is_taken, of_that_name, without_impostors
from pywatt_host.protocol.jsontext import dumps, loads
from pywatt_host.protocol.messages import Provider

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

logger = logging.getLogger("pywatt.discovery")

_MAX_ENTRIES = 10_000
_MAX_ENTRY_SIZE = 8 * 1024  # bytes
_REQUEST_TIMEOUT = 5.0  # seconds for JetStream to answer


@dataclass(slots=True)
class _LeasedProvider:
    provider: Provider
    ends: float  # seconds, on the clock of the registry


class NatsRegistry:
    """The entries of all modules, and those of this process, which it renews three times in a lease."""

    name = "nats registry"

    def __init__(
        self, connection: NatsConnection, subjects: Subjects, module_id: str, healthy: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._module_id = module_id
        self._healthy = healthy
        self._lease = connection.settings.lease
        # A lease that ends while this process pauses may have been renewed: the renewal is read first.
        self._clock = RunningClock(min(1.0, self._lease / 10))
        self._instance = secrets.token_hex(6)
        self._entries: dict[str, _LeasedProvider] = {}
        self._own: dict[str, Provider] = {}
        self._next = 0
        self._bucket: Any = None
        self._subscription: Subscription | None = None
        self._loaded = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._warned = False
        self._taken: set[str] = set()  # names of own services for which the log has that a module has that id
        connection.on_connected.append(self._subscribe)
        connection.on_reconnected.append(self._reconnected)

    # Offering and finding -------------------------------------------------------------------------------------------

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str]
    ) -> str:
        """Register a service and return the id of its provider. The entry is renewed until it is deregistered or the
        process ends. Raises MessagingError."""
        key = next(
            (
                key
                for key, each in self._own.items()
                if (each.service_type, each.name, each.address) == (service_type, name, address)
            ),
            None,
        )
        if key is None:
            key, self._next = self._subjects.key(self._instance, self._next), self._next + 1
        await self._refuse_taken(name)
        provider = Provider(key, self._module_id, service_type, name, version, address, dict(metadata), True)
        if len(_encoded(provider)) > _MAX_ENTRY_SIZE:
            raise MessagingError("too_large", f"its entry in the registry is longer than {_MAX_ENTRY_SIZE} bytes", name)
        self._own[key] = provider
        try:
            await self._put(key, provider)
        except MessagingError as error:
            logger.warning("%s is not registered on NATS yet: %s", name, error.message)
            self._renew_now.set()
        return key

    async def _refuse_taken(self, name: str) -> None:
        """Raise MessagingError where the name is the id of another module that is registered."""
        if self._connection.connected and not self._loaded.is_set():
            with suppress(Exception):  # named boundary: where the bucket cannot be read, its readers decide
                await self._load()
        if is_taken(name, self._module_id, self._modules()):
            text = "this is the id of another module on NATS: give the service another name"
            raise MessagingError("refused", text, name)

    def _modules(self) -> set[str]:
        """The ids of the modules that have entries: those that may write to their keys."""
        return {each.module_id for each in self._current()}

    async def deregister(self, provider_id: str) -> bool:
        """Remove an entry of this process. False where it has no such entry."""
        provider = self._own.pop(provider_id, None)
        if provider is None:
            return False
        self._entries.pop(provider_id, None)
        with suppress(Exception):  # named boundary: where NATS cannot be told, the lease ends
            await (await self._open_bucket()).delete(provider_id)
        return True

    async def discover(self, service_type: str) -> list[Provider]:
        """The providers of a type whose lease has not ended, without services under the id of another module. Raises
        MessagingError where the bucket was never read."""
        await self._wait_until_loaded()
        found = [each for each in self._current() if each.service_type == service_type]
        return without_impostors(found, self._modules())

    async def find(self, wanted: str) -> list[Provider]:
        """The providers of the module of this id, in lower case; only where there is none, of services of that name."""
        await self._wait_until_loaded()
        return of_that_name(self._current(), wanted, ())

    async def _wait_until_loaded(self) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                await self._loaded.wait()
        except TimeoutError:
            text = f"the registry on NATS could not be read yet: {self._connection.error or 'it needs JetStream'}"
            raise MessagingError("unavailable", text) from None

    def _current(self) -> list[Provider]:
        """The providers whose lease has not ended. While no server is connected, which is when no lease can be renewed,
        all that were known last."""
        if not self._connection.connected:
            return [entry.provider for entry in self._entries.values()]
        now = self._clock.time()
        for key in [key for key, entry in self._entries.items() if entry.ends <= now]:
            del self._entries[key]
        return [entry.provider for entry in self._entries.values()]

    def withdraw(self) -> None:
        """Remove the entries of this process in the background."""
        if self._connection.connected:
            for key in tuple(self._own):
                self._connection.spawn(self.deregister(key))

    # The bucket -----------------------------------------------------------------------------------------------------

    async def _open_bucket(self) -> Any:
        """The bucket. It is created where it does not exist, since it is in the memory of the server. Raises the errors
        of the library."""
        if self._bucket is None:
            api, errors = import_module("nats.js.api"), import_module("nats.js.errors")
            stream = self._connection.client.jetstream(timeout=_REQUEST_TIMEOUT)
            try:
                self._bucket = await stream.key_value(self._subjects.bucket)
            except errors.NotFoundError:
                config = api.KeyValueConfig(
                    bucket=self._subjects.bucket, ttl=self._lease, history=1, storage=api.StorageType.MEMORY,
                    description="Services of modules",
                )  # fmt: skip
                try:
                    self._bucket = await stream.create_key_value(config)
                except errors.BadRequestError:  # another module has created it meanwhile
                    self._bucket = await stream.key_value(self._subjects.bucket)
        return self._bucket

    async def _put(self, key: str, provider: Provider) -> None:
        """Raises MessagingError."""
        try:
            bucket = await self._open_bucket()
            await bucket.put(key, _encoded(provider, self._healthy()))
        except Exception as error:  # named boundary: errors of the library, each raised as one of ours
            self._bucket = None
            self._connection.raise_for(error, provider.name, _REQUEST_TIMEOUT)
        self._keep(key, provider, self._lease)

    async def _subscribe(self, client: Client) -> None:
        self._bucket = None
        self._subscription = await client.subscribe(self._subjects.entries, cb=self._changed)
        self._renew_now.set()

    async def _reconnected(self) -> None:
        self._bucket = None
        for entry in self._entries.values():  # modules that still run need time to renew theirs
            entry.ends = max(entry.ends, self._clock.time() + self._lease)
        self._renew_now.set()

    async def _changed(self, message: Msg) -> None:
        key = message.subject.removeprefix(self._subjects.entries[:-1])
        if (message.headers or {}).get("KV-Operation") in ("DEL", "PURGE") or not message.data:
            self._entries.pop(key, None)
        else:
            self._read(key, message.data, self._lease)

    def _read(self, key: str, data: bytes, seconds: float) -> None:
        """Take an entry. Its module is the one that may write to this key, whatever the entry says."""
        parts = key.split(".")
        if len(parts) != 3 or len(data) > _MAX_ENTRY_SIZE:
            return
        try:
            provider = Provider.read({**loads(data), "provider_id": key, "module_id": name(parts[0])})
        except (ProtocolError, TypeError):
            logger.debug("an entry of %s in the registry cannot be read", token(key))
            return
        self._keep(key, provider, seconds)

    def _keep(self, key: str, provider: Provider, seconds: float) -> None:
        if key in self._entries or len(self._entries) < _MAX_ENTRIES:
            self._entries[key] = _LeasedProvider(provider, self._clock.time() + seconds)

    # Renewing -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving removes the entries of this process."""
        loop = asyncio.get_running_loop()
        renewing = loop.create_task(self._renewing(), name="nats registry")
        ticking = loop.create_task(self._tick(), name="nats leases")
        try:
            yield
        finally:
            renewing.cancel()
            ticking.cancel()
            for key in tuple(self._own):
                if self._connection.connected:
                    await self.deregister(key)

    async def _tick(self) -> None:
        while True:
            await self._clock.next_look()

    async def _renewing(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await self._renew_now.wait()
            fresh = self._renew_now.is_set()
            self._renew_now.clear()
            try:
                if fresh or not self._loaded.is_set():
                    await self._load()
                modules = self._modules()
                for key, provider in tuple(self._own.items()):
                    if is_taken(provider.name, self._module_id, modules):  # by a module that has come since
                        self._warn_taken(provider.name)
                    else:
                        await self._put(key, provider)
                self._warned = False
            except Exception as error:  # named boundary: errors of the library; it renews again later
                self._bucket = None
                if not self._warned and self._connection.connected:
                    self._warned = True
                    text = str(error).removeprefix("nats: ")[:200] or type(error).__name__
                    logger.warning("the registry on NATS cannot be used: %s (it needs JetStream)", text)

    def _warn_taken(self, name: str) -> None:
        if name not in self._taken:
            self._taken.add(name)
            logger.warning("the service %s is not registered on NATS any more: a module has this id", name)

    async def _load(self) -> None:
        """Read the entries that exist. Their age is not known: they count for half a lease, within which modules that
        still run renew theirs."""
        errors = import_module("nats.js.errors")
        bucket = await self._open_bucket()
        try:
            keys = await bucket.keys()
        except errors.NoKeysError:
            keys = []
        for key in keys[:_MAX_ENTRIES]:
            with suppress(errors.KeyNotFoundError):
                entry = await bucket.get(key)
                if entry.value is not None and key not in self._entries:
                    self._read(key, entry.value, self._lease / 2)
        self._loaded.set()


def _encoded(provider: Provider, healthy: bool = True) -> bytes:
    document = provider.wire()
    del document["provider_id"], document["module_id"]
    return dumps({**document, "is_healthy": healthy})
