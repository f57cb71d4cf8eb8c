"""AppState: what the application sees of its host.

Longer than most files, since every public method has its example beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
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
    from pywatt_host.messaging.traced import TracedMessages
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
_UNDECLARED = "it is not declared; the manifest needs `{0}: {{default: {1}}}`"  # messages of StoreError


@dataclass(frozen=True, slots=True)
class InitData:
    """What a module is told before it starts: by its orchestrator's `init`; without an orchestrator, by the manifest
    and the environment.

    `listen` is `host:port` or the path of a Unix socket; None means that the manifest's `server.listen` is used.
    """

    module_id: str
    orchestrator_api: str | None
    env: Mapping[str, str] = field(repr=False)
    listen: str | None


class AppState:
    """The host as the application sees it: its configuration, secrets, stores, messages, hooks and background tasks.

    The factory gets it as an argument. In requests it is at `scope["state"]["pywatt"]` (ASGI) and at
    `environ["pywatt.state"]` (WSGI); `pywatt_host.fastapi`, `flask`, `django` and `starlette` give it in the way of
    their framework. It exists before the application is imported, and until the process ends.

    Attributes: `manifest` is the typed manifest, `init` what the orchestrator said first, `metrics` makes Prometheus
    metrics, `logger` is the logger `app.MODULE_ID`, `secrets` maps the declared names to secrets, `databases` and
    `caches` map the names of the manifest to stores, `user_state` is what the manifest's `state` function returned.
    `draining` is an asyncio.Event that is set when the host begins to stop: the time to end endless streams. `sync` has
    the same methods for threads, blocking.

    >>> import asyncio
    >>> from pywatt_host import AppState, pywatt_module
    >>> @pywatt_module(config={"greeting": "hello"})
    ... def create_app(app_state: AppState):
    ...     @app_state.on_message("greet")
    ...     def greet(message):
    ...         return f"{app_state.config['greeting']} {message['name']}"
    ...     async def app(scope, receive, send): ...
    ...     return app
    >>> async def main() -> None:
    ...     async with create_app({"module_id": "users"}) as app:
    ...         print(await app.state.request("users", {"type": "greet", "name": "Ada"}))
    >>> asyncio.run(main())
    hello Ada
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        metrics: AppMetrics,
        checks: Checks,
        hooks: Hooks,
        rotation: Rotation,
        messages: Messages | LocalMessages | TracedMessages,
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
        self.user_state: Any = None
        self.draining = asyncio.Event()
        self.databases: Mapping[str, Database] = MappingProxyType(stores.databases)
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
        """The module's name: `module.id`, by default the name of the manifest's folder."""
        return self.manifest.module_id

    @property
    def orchestrator_api(self) -> str | None:
        """The address of the orchestrator's API, from its `init`; None without an orchestrator."""
        return self.init.orchestrator_api

    @property
    def config(self) -> Mapping[str, Any]:
        """The manifest's free-form `config`, read-only."""
        return MappingProxyType(self.manifest.config)

    @property
    def claims(self) -> dict[str, Any]:
        """The verified claims (`sub` and others) of the request or message that is being handled; a new copy each time.

        Empty where the endpoint asks for no credential, and outside of requests and messages.
        """
        current = current_request.get()
        return current.claims if current is not None else {}

    @property
    def message(self) -> MessageInfo | None:
        """What is known of the message or event that is being handled: its `source`, what vouches for the source
        (`vouched_by`), and its `channel`. None outside of a handler."""
        return current_message.get()

    def health_check(self, name: str) -> Callable[[C], C]:
        """Decorator: add a health check. The function, sync or async, returns where all is well; where it raises, the
        check fails, and the exception's text is in the report.

        The check runs every `health.interval` and counts for readiness. Raises ValueError where another check has the
        name.

        >>> def add_checks(app_state: AppState) -> None:
        ...     @app_state.health_check("payments")
        ...     async def payments_answer() -> None:
        ...         response = await app_state.http.get("https://payments.example/health")
        ...         response.raise_for_status()
        """

        def register(function: C) -> C:
            self._checks.add(name, function)
            return function

        return register

    def on_startup(self, hook: H) -> H:
        """Decorator: run a function, sync or async, after the application has started and before requests arrive.

        Hooks run in the order in which they were registered. A hook that raises makes the start fail (exit code 3).

        >>> def add_hooks(app_state: AppState) -> None:
        ...     @app_state.on_startup
        ...     async def fill_the_cache() -> None:
        ...         await app_state.cache.set("ready", True)
        """
        self._hooks.startup.append(hook)
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Decorator: run a function, sync or async, after the last request and before the application's lifespan ends.

        Hooks run in the reverse of the order in which they were registered. An exception of a hook is logged, and the
        other hooks still run.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module()
        ... def create_app(app_state: AppState):
        ...     app_state.on_startup(lambda: print("started"))
        ...     app_state.on_shutdown(lambda: print("stopping"))
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app():
        ...         print("serving")
        >>> asyncio.run(main())
        started
        serving
        stopping
        """
        self._hooks.shutdown.append(hook)
        return hook

    def spawn(self, work: Work, *, name: str | None = None, on_failure: OnFailure = "log") -> asyncio.Task[None]:
        """Run `work` in the background: a coroutine, or a coroutine function without arguments.

        The task runs until it is done or the host has drained. It is then cancelled and waited for, before the shutdown
        hooks run. `name` is the task's name in logs and metrics, by default that of the function.

        A crash is logged and counted (`pywatt_task_crashes_total`). With `on_failure="restart"` the function is called
        again after 1 s, then 2 s, and so on up to a minute; with `"unready"` readiness and health fail.

        Call it on the event loop; in threads there is `app_state.sync.spawn`. Raises RuntimeError once the host stops,
        TypeError where `work` cannot be run (or restarted, for a coroutine), ValueError for another `on_failure`.

        >>> def start_polling(app_state: AppState) -> None:
        ...     async def poll() -> None:
        ...         while True:
        ...             await app_state.publish("stock.polled", {})
        ...             await asyncio.sleep(60)
        ...
        ...     app_state.spawn(poll, on_failure="restart")
        """
        return self._tasks.spawn(work, name, on_failure)

    @property
    def http(self) -> httpx.AsyncClient:
        """An httpx client for calls to other services. It is opened when it is first used and closed with the host.

        Each request passes on the id (`X-Request-ID`) and trace (`traceparent`) of the request that is being handled.
        The client keeps no cookies. Its timeouts are 10 s for each of connecting, writing and waiting for bytes, unless
        a call says otherwise; targets of `resiliency` have their own timeouts, retries and circuit breakers.

        `module://NAME/path` leads to a module or service of that name; where none is known, the request raises
        httpx.ConnectError. Raises RuntimeError on another event loop, and once the host has stopped.

        >>> async def invoice(app_state: AppState, number: int) -> dict[str, Any]:
        ...     response = await app_state.http.get(f"module://billing/invoices/{number}")
        ...     return response.raise_for_status().json()
        """
        return self._outbound.client()

    @property
    def db(self) -> Database:
        """The database `default` of the manifest. Raises StoreError where none is declared.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module(enable_database=True, database_config={"url": "sqlite:///:memory:"})
        ... def create_app(app_state: AppState):
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app() as app:
        ...         print(await app.state.db.fetchval("SELECT 1 + 1"))
        >>> asyncio.run(main())
        2
        """
        found = self.databases.get("default")
        if found is None:
            raise StoreError("databases.default", "arguments", _UNDECLARED.format("databases", "sqlite:///app.db"))
        return found

    @property
    def cache(self) -> Cache:
        """The cache `default` of the manifest. Raises StoreError where none is declared.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module(enable_cache=True)
        ... def create_app(app_state: AppState):
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app() as app:
        ...         await app.state.cache.set("greeting", "hello")
        ...         print(await app.state.cache.get("greeting"))
        >>> asyncio.run(main())
        hello
        """
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
        """The secret `key` with its current value, read as `type`: `str`, `int`, `float`, `bool`, `dict` or `list`.

        A name that the manifest does not declare is fetched from the same sources. After a rotation the new value is
        returned; `on_rotation` tells when that is. Raises SecretError where no source has the secret, or its value is
        not of the type.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module(secrets=["PIN"])
        ... async def create_app(app_state: AppState):
        ...     pin = await app_state.get_secret("PIN", int)
        ...     print(pin, pin.expose_secret() + 1)
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app({"module_id": "users", "env": {"PIN": "12345678"}}):
        ...         pass
        >>> asyncio.run(main())
        *** 12345679
        """
        return await self._rotation.store.get(key, type)

    def on_rotation(self, key: str) -> Callable[[R], R]:
        """Decorator: call a function, async or sync (in a thread), with the new Secret each time `key` rotates.

        It is called before the new value is in use. Raising refuses the rotation: everything stays as it was, and hooks
        that had already taken the new value are called again with the old one.

        >>> def follow(app_state: AppState, client: Any) -> None:
        ...     @app_state.on_rotation("API_KEY")
        ...     async def use_new_key(key: Secret[str]) -> None:
        ...         await client.login(key.expose_secret())
        """

        def register(hook: R) -> R:
            self._rotation.on(key, hook)
            return hook

        return register

    # Other modules --------------------------------------------------------------------------------------------------

    async def send_message(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        """Send `message` to the module `target` without waiting for its reply. An error that it answers is logged.

        `message` is a dict with a `type` that can be written as JSON, or a pydantic model or dataclass with a field
        `type`. It is delivered at most once. With `channels.nats.delivery: at_least_once` the call returns once NATS
        keeps the message, which is delivered until it has been handled.

        `authorization` is a credential for the other module, such as the Authorization header of the request that is
        being handled: the other module verifies it with its own schemes, and its handler finds the result in `claims`.
        `channel` allows one channel only: ipc, tcp, stdio, http or nats. Raises MessagingError where the message cannot
        be sent.

        >>> async def notify(app_state: AppState) -> None:
        ...     await app_state.send_message("mailer", {"type": "welcome", "to": "ada@example.com"})
        """
        await self._messages.send(target, message, authorization=authorization, channel=channel)

    async def request(
        self,
        target: str,
        message: Any,
        timeout: float = REQUEST_TIMEOUT,
        authorization: str | None = None,
        channel: str | None = None,
    ) -> Any:
        """Send `message` to the module `target` and return its reply.

        `timeout` is in seconds; the other module gets the deadline with the message. `message`, `authorization` and
        `channel` are those of `send_message`. Raises MessagingError, whose `code` says why (no_handler, handler_failed,
        timeout, unknown_target, lost and others) and whose `message` is that of the other module.

        >>> async def stock(app_state: AppState, item: str) -> int:
        ...     return await app_state.request("stock", {"type": "count", "item": item}, timeout=2)
        """
        return await self._messages.request(target, message, timeout, authorization, channel)

    def on_message(
        self, type: str, *, concurrency: int | None = None, auth: str | Sequence[str] = ()
    ) -> Callable[[M], M]:
        """Decorator: handle messages of a type with a function, async or sync (in a thread).

        What the function returns is the reply. Where it raises a MessagingError of its own, that error is answered. Any
        other exception is answered as `handler_failed` with an id that the log has beside the traceback; the text of
        the exception stays here. Where its parameter is annotated with a pydantic model or a dataclass, it gets an
        instance of that; a message that does not fit is answered as `invalid_message`.

        `concurrency` is how many calls of this handler may run at the same time, by default as many as
        `channels.limits.messages` allows. Raises ValueError where another handler has the type.

        `auth` names the schemes of the manifest's `auth`, of type jwt, oidc or basic, of which a message must have a
        credential. Other messages are answered with the code `unauthorized`. Without it, a message needs no credential;
        `claims["pywatt.auth"]` tells which scheme has verified the one that it has.

        >>> def handle_messages(app_state: AppState) -> None:
        ...     @app_state.on_message("count", concurrency=4)
        ...     async def count(message: dict[str, Any]) -> int:
        ...         return await app_state.db.fetchval("SELECT stock FROM items WHERE id = $1", message["item"])
        """
        names, schemes = caller_names(1), self._schemes_of_messages(auth)

        def register(handler: M) -> M:
            self._messages.handlers.on(type, handler, concurrency, names, schemes)
            return handler

        return register

    def _schemes_of_messages(self, auth: str | Sequence[str]) -> tuple[str, ...]:
        """The schemes that a handler names. Raises ValueError for one that messages cannot have credentials of."""
        schemes = (auth,) if isinstance(auth, str) else tuple(auth)
        for name in schemes:
            scheme = self.manifest.auth.get(name)
            if scheme is None:
                declared = ", ".join(self.manifest.auth) or "none"
                raise ValueError(f"auth: {name!r} is not a declared scheme (declared: {declared})")
            if scheme.type in ("api_key", "mtls"):
                what = "API keys" if scheme.type == "api_key" else "client certificates"
                raise ValueError(f"auth: {name!r} has the type {scheme.type}, and messages have no {what}")
        return schemes

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> None:
        """Publish an event to all subscribers of `topic`, in this process and in others, each at most once.

        A topic is words with dots between them, such as `orders.created`. The event goes over every channel, or over
        `channel` only. Raises ValueError for an invalid topic, MessagingError where no channel is connected.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module()
        ... def create_app(app_state: AppState):
        ...     @app_state.subscribe("orders.created")
        ...     def created(order):
        ...         print("order", order["id"])
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app() as app:
        ...         await app.state.publish("orders.created", {"id": 7})
        >>> asyncio.run(main())
        order 7
        """
        await self._messages.publish(topic, message, channel)

    def subscribe(self, topic: str, *, concurrency: int = 1) -> Callable[[M], M]:
        """Decorator: call a function, async or sync (in a thread), with each event that is published on a topic, also
        by this process itself. See `publish` for an example.

        Events are handled in the order in which they arrive, unless `concurrency` lets several calls run at the same
        time. While 1024 events wait for the function, further ones are dropped and counted. The annotation of its
        parameter is used as in `on_message`. Raises ValueError for an invalid topic.
        """
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
        """Register a service that this module provides; returns the provider's id.

        `address` is where other modules reach the service; `auto` is the address where this module listens for HTTP.
        Before it listens, the id is empty, and the service is registered as soon as it does. The service is registered
        again after each reconnect. Raises MessagingError where it cannot be registered.

        >>> import asyncio
        >>> from pywatt_host import AppState, pywatt_module
        >>> @pywatt_module()
        ... def create_app(app_state: AppState):
        ...     async def app(scope, receive, send): ...
        ...     return app
        >>> async def main() -> None:
        ...     async with create_app({"module_id": "users"}) as app:
        ...         await app.state.register_service("users-api", "api", "127.0.0.1:8080")
        ...         for provider in await app.state.discover_services("api"):
        ...             print(provider.name, provider.address)
        >>> asyncio.run(main())
        users-api 127.0.0.1:8080
        """
        return await self._discovery.register(name, service_type, address, version, metadata)

    async def deregister_service(self, service: str) -> None:
        """Withdraw a service, by its name or by the id that `register_service` returned. Raises MessagingError where
        this module has registered no such service."""
        await self._discovery.deregister(service)

    async def discover_services(self, type: str) -> list[Provider]:
        """The providers of a type of service, healthy ones first. Each has `name`, `address`, `module_id`, `metadata`
        and `is_healthy`. See `register_service` for an example.

        `module` finds modules; `database`, `cache` and `jwt`, in upper or lower case, are types of the protocol itself.
        Raises MessagingError where they cannot be looked up.
        """
        return await self._discovery.discover(type)

    def __repr__(self) -> str:
        return f"<AppState {self.module_id}>"
