"""AppState: all that the user's code sees of the host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pywatt_host.app.blocking import Bridge, SyncState
from pywatt_host.app.hooks import Hook, Hooks
from pywatt_host.app.tasks import OnFailure, Tasks, Work
from pywatt_host.clients.http import HttpClients
from pywatt_host.discovery.none import NoDiscovery
from pywatt_host.exceptions import StoreError
from pywatt_host.manifest.model import Manifest
from pywatt_host.messaging.handlers import MessageInfo, caller_names, current_message
from pywatt_host.messaging.local import LocalMessages
from pywatt_host.observability.app_metrics import AppMetrics
from pywatt_host.observability.context import current_request
from pywatt_host.observability.health import CheckFunction, Checks
from pywatt_host.secrets import Secret, SecretsView
from pywatt_host.secrets.rotation import Hook as RotationHook
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.stores.none import NoStores

if TYPE_CHECKING:
    import httpx

    from pywatt_host.discovery.discovery import Discovery
    from pywatt_host.messaging.messages import Messages
    from pywatt_host.protocol.messages import Provider
    from pywatt_host.stores.caches.cache import Cache
    from pywatt_host.stores.databases.database import Database
    from pywatt_host.stores.service import Datastores

H = TypeVar("H", bound=Hook)
C = TypeVar("C", bound=CheckFunction)
M = TypeVar("M", bound=Callable[[Any], Any])
R = TypeVar("R", bound=RotationHook)
T = TypeVar("T")

REQUEST_TIMEOUT = 30.0  # seconds
_UNDECLARED = "it is not declared; the manifest needs `{0}: {{default: {1}}}`"


@dataclass(frozen=True, slots=True)
class InitData:
    """What a module is told before it starts: by its orchestrator's `init`, or stand-alone by the manifest and the
    environment. `listen` is `host:port` or the path of a Unix socket; None: the manifest's `server.listen` counts."""

    module_id: str
    orchestrator_api: str | None
    env: Mapping[str, str] = field(repr=False)
    listen: str | None


class AppState:
    """Handed to the factory; in requests at `scope["state"]["pywatt"]` (ASGI) and `environ["pywatt.state"]` (WSGI).

    Lives from before the application's import to the end of the process.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        metrics: AppMetrics,
        checks: Checks,
        hooks: Hooks,
        rotation: Rotation,
        messages: Messages | LocalMessages,
        discovery: Discovery | NoDiscovery,
        tasks: Tasks,
        bridge: Bridge,
        outbound: HttpClients,
        stores: Datastores | NoStores,
        init: InitData,
    ) -> None:
        self.manifest = manifest
        self.init = init
        self.metrics = metrics
        self.user_state: Any = None  # what `state` made; see the manifest
        self.draining = asyncio.Event()  # set once the host begins to stop: time to end streams that have no end
        self.databases: Mapping[str, Database] = MappingProxyType(stores.databases)  # by their names in the manifest
        self.caches: Mapping[str, Cache] = MappingProxyType(stores.caches)
        self.sync = SyncState(self, bridge, rotation.store, outbound)
        self.logger = logging.getLogger(f"app.{manifest.module_id}")
        self.secrets: Mapping[str, Secret[Any]] = SecretsView(rotation.store)
        self._checks = checks
        self._hooks = hooks
        self._rotation = rotation
        self._messages = messages
        self._discovery = discovery
        self._tasks = tasks
        self._outbound = outbound

    @property
    def module_id(self) -> str:
        """The module's name: `module.id`, else the name of the manifest's folder."""
        return self.manifest.module_id

    @property
    def orchestrator_api(self) -> str | None:
        """The address of the orchestrator's API, as its init has it; None without an orchestrator."""
        return self.init.orchestrator_api

    @property
    def config(self) -> Mapping[str, Any]:
        """The manifest's free-form `config`, read-only."""
        return MappingProxyType(self.manifest.config)

    @property
    def claims(self) -> dict[str, Any]:
        """What the credential of the request or message that is being answered says, verified: `sub` and the like.
        Empty where none was asked for, and outside of both. A copy each time."""
        current = current_request.get()
        return current.claims if current is not None else {}

    @property
    def message(self) -> MessageInfo | None:
        """What is known of the message or event that is being handled beside its content: who sent it, who vouches for
        that, over which channel. None outside of a handler."""
        return current_message.get()

    def health_check(self, name: str) -> Callable[[C], C]:
        """Decorator: a function, sync or async, that returns when healthy and raises saying why when not.

        Raises ValueError where the name is taken.
        """

        def register(function: C) -> C:
            self._checks.add(name, function)
            return function

        return register

    def on_startup(self, hook: H) -> H:
        """Decorator: run the function, sync or async, after the application has started and before requests arrive.

        Hooks run in the order in which they were registered. One that raises stops the start (exit code 3).
        """
        self._hooks.startup.append(hook)
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Decorator: run the function, sync or async, after the last request, before the lifespan ends.

        Hooks run in reverse order. One that raises is logged; the others still run.
        """
        self._hooks.shutdown.append(hook)
        return hook

    def spawn(self, work: Work, *, name: str | None = None, on_failure: OnFailure = "log") -> asyncio.Task[None]:
        """Run a coroutine, or a coroutine function without arguments, in the background until it is done or the host
        has drained; it is cancelled then and waited for, before the shutdown hooks.

        A crash is logged and counted (`pywatt_task_crashes_total`). `on_failure`: `log` leaves it at that, `restart`
        calls the function again, after 1 s, then 2 s, up to a minute, `unready` makes readiness and health fail. Call
        it on the event loop; from threads there is `app_state.sync.spawn`. Raises RuntimeError once the host stops.
        """
        return self._tasks.spawn(work, name, on_failure)

    @property
    def http(self) -> httpx.AsyncClient:
        """An httpx client that is opened when it is first used and closed with the host. It passes on the id
        (`X-Request-ID`) and trace (`traceparent`) of the request in whose course it is used, and keeps no cookies.
        Timeouts: 10 s for each of connecting, writing and waiting for octets, unless the call says otherwise; those,
        retries and circuit breakers of `resiliency` for its targets. module://NAME/path leads to whoever provides the
        module or service at the moment; where nobody does, the request raises httpx.ConnectError. Raises RuntimeError
        on another event loop, and once the host has stopped."""
        return self._outbound.client()

    @property
    def db(self) -> Database:
        """The database `default` of the manifest. Raises StoreError where there is none."""
        found = self.databases.get("default")
        if found is None:
            raise StoreError("databases.default", "arguments", _UNDECLARED.format("databases", "sqlite:///app.db"))
        return found

    @property
    def cache(self) -> Cache:
        """The cache `default` of the manifest. Raises StoreError where there is none."""
        found = self.caches.get("default")
        if found is None:
            raise StoreError("caches.default", "arguments", _UNDECLARED.format("caches", "memory://"))
        return found

    # Secrets --------------------------------------------------------------------------------------------------------

    @overload
    async def get_secret(self, key: str) -> Secret[str]: ...

    @overload
    async def get_secret(self, key: str, type: type[T]) -> Secret[T]: ...

    async def get_secret(self, key: str, type: type[Any] = str) -> Secret[Any]:
        """The present value, as `str`, `int`, `float`, `bool`, `dict` or `list`. A name that the manifest does not
        declare is fetched from the same sources. Raises SecretError where no source has it, or it is of another type.

        After a rotation it gives the new value; `on_rotation` tells when.
        """
        return await self._rotation.store.get(key, type)

    def on_rotation(self, key: str) -> Callable[[R], R]:
        """Decorator: call the function, sync (in a thread) or async, with the new Secret each time `key` rotates.

        It is called before the new value is in use. Raising refuses the rotation: everything stays as it was, and hooks
        that had taken the new value are called with the old one.
        """

        def register(hook: R) -> R:
            self._rotation.on(key, hook)
            return hook

        return register

    # Other modules --------------------------------------------------------------------------------------------------

    async def send_message(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        """Send `message` to the module `target`, without waiting for what it makes of it; an error that it answers is
        logged. At most once, unless `channels.nats.delivery` says `at_least_once`: then it returns once the message is
        kept, and it is delivered until it has been handled.

        `message` is a dict with a `type`, that JSON can hold, or a pydantic model or dataclass with a field `type`.
        `authorization`, such as the Authorization header of the request that is being answered, goes along: the other
        module verifies it with its own schemes, and its handler finds what it says in `claims`. `channel` allows that
        channel only: ipc, tcp, stdio, http or nats. Raises MessagingError where it cannot be sent."""
        await self._messages.send(target, message, authorization=authorization, channel=channel)

    async def request(
        self,
        target: str,
        message: Any,
        timeout: float = REQUEST_TIMEOUT,
        authorization: str | None = None,
        channel: str | None = None,
    ) -> Any:
        """The reply of the module `target` to `message`. `timeout` in seconds; the deadline travels along, and so does
        `authorization`, see `send_message`. Raises MessagingError, whose `code` says why: no_handler, handler_failed,
        timeout, unknown_target, lost, ..., with the other side's own words."""
        return await self._messages.request(target, message, timeout, authorization, channel)

    def on_message(self, type: str, *, concurrency: int | None = None) -> Callable[[M], M]:
        """Decorator: let the function, sync (in a thread) or async, handle messages of a type. What it returns is the
        reply; what it raises is answered as `handler_failed` with its text. Where its parameter is annotated with a
        pydantic model or a dataclass it gets one, and what does not fit is answered as `invalid_message`.

        `concurrency`: so many of it run at the same time; left out, as many as `channels.limits.messages` allows.
        Raises ValueError where the type is taken."""
        names = caller_names(1)

        def register(handler: M) -> M:
            self._messages.handlers.on(type, handler, concurrency, names)
            return handler

        return register

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> None:
        """Tell everyone who subscribed to `topic` (words with dots between them, such as `orders.created`), in this
        process and in others, over every channel there is or over `channel` alone. At most once. Raises ValueError
        where it is no topic, MessagingError where no channel is connected."""
        await self._messages.publish(topic, message, channel)

    def subscribe(self, topic: str, *, concurrency: int = 1) -> Callable[[M], M]:
        """Decorator: call the function, sync (in a thread) or async, with what is published on a topic, also by this
        process itself. In the order in which it came, unless `concurrency` lets several run at the same time. Where
        more than 1024 wait for it, what comes is dropped and counted. Annotations count as for `on_message`. Raises
        ValueError where it is no topic."""
        names = caller_names(1)

        def register(handler: M) -> M:
            self._messages.topics.on(topic, handler, concurrency, names)
            return handler

        return register

    async def register_service(
        self,
        name: str,
        service_type: str,
        address: str = "auto",
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Offer a service; gives the provider's id. `address`: `auto` is where this module really listens for HTTP
        (before it listens the id is empty, and it is registered as soon as it does). Registered again after each
        reconnect. Raises MessagingError."""
        return await self._discovery.register(name, service_type, address, version, metadata)

    async def deregister_service(self, service: str) -> None:
        """Offer a service no more: by its name, or the id that `register_service` gave. Raises MessagingError where
        this module has registered no such service."""
        await self._discovery.deregister(service)

    async def discover_services(self, type: str) -> list[Provider]:
        """Who offers services of a type (`database`, `cache` and `jwt` in any case are the protocol's own, `module`
        are modules), healthy ones first: each with `name`, `address`, `module_id`, `metadata`, `is_healthy`. Raises
        MessagingError."""
        return await self._discovery.discover(type)

    def __repr__(self) -> str:
        return f"<AppState {self.module_id}>"
