"""The connection to NATS: connecting, reconnecting, and the subscriptions on each new client."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.manifest.model import NatsChannel
from pywatt_host.manifest.model.channels import DEV_NATS
from pywatt_host.manifest.values import SecretTemplate, SensitiveUrl
from pywatt_host.net.tls import client_context

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = logging.getLogger("pywatt.channels")

_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 0.2, 5.0  # seconds between two attempts to connect
_OPTIONAL_START_TIMEOUT = 1.5  # seconds that the start waits for servers that are not required
_PING_INTERVAL = 10  # seconds; after two pings without an answer the connection counts as lost
_CLEANUP_GRACE = 0.1  # seconds for the library to clean up after it has tried every server
_RECONNECT_GRACE = 3.0  # seconds after a reconnect in which other modules may still be reconnecting
_DRAIN_TIMEOUT = 5  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds
_WARN_INTERVAL = 60.0  # seconds between two equal warnings

Attach = Callable[["Client"], Awaitable[None]]


class NatsConnection:
    """One NATS client for everything. The functions in `on_connected` are called with each new client, to subscribe;
    those in `on_reconnected` each time a client has reconnected to a server, which may have lost its state."""

    name = "nats"

    def __init__(
        self,
        module_id: str,
        settings: NatsChannel,
        inbox: str,
        *,
        secret_values: Callable[[], Mapping[str, str]],
        resolve: Callable[[str], Path],
        timeout: float,
        private: Callable[[str, str], Awaitable[str]] | None = None,
    ) -> None:
        """`timeout` is the time in seconds for one attempt to connect. `private` starts the private servers of `dev`
        and `up` and returns their URLs."""
        self.settings = settings
        self.on_connected: list[Attach] = []
        self.on_reconnected: list[Callable[[], Awaitable[None]]] = []
        self.reconnects = 0
        self.error = "not connected yet"
        self._module_id = module_id
        self._inbox = inbox
        self._texts = secret_values
        self._resolve = resolve
        self._timeout = timeout
        self._private = private
        self._client: Client | None = None
        self._closed = asyncio.Event()
        self._leaving = False
        self._reconnected_at = -_RECONNECT_GRACE
        self._warned: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def secrets(self) -> frozenset[str]:
        """The names of the secrets that it connects with."""
        values = (self.settings.credentials, self.settings.password, self.settings.token)
        return frozenset(name for value in values if isinstance(value, SecretTemplate) for name in value.names)

    @property
    def address(self) -> str:
        """The servers, without passwords."""
        return ", ".join(SensitiveUrl().shown(url) for url in self.settings.servers)

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def just_reconnected(self) -> bool:
        """Whether this client has just reconnected, so that other modules may still be reconnecting."""
        return time.monotonic() - self._reconnected_at < _RECONNECT_GRACE

    @property
    def client(self) -> Client:
        """The client; also while it looks for a server, when messages wait in its buffer. Raises MessagingError where
        it was never connected."""
        if self._client is None or self._client.is_closed:
            raise MessagingError("unavailable", f"NATS is not connected: {self.error}")
        return self._client

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._library()
        await self._options(self._texts())  # an error in the options does not go away by itself
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keeper = tasks.create_task(self._keep(opened), name="channel nats")
        try:
            limit = self._timeout if self.settings.required else min(self._timeout, _OPTIONAL_START_TIMEOUT)
            await asyncio.wait((opened,), timeout=limit)
            if not self.connected:
                if self.settings.required:
                    why = f"{self.error}; it is required, and did not connect within {limit:g}s"
                    raise ChannelError("nats", self.address, why)
                logger.warning("channel nats (%s): %s; trying again", self.address, self.error)
            yield
        finally:
            self._leaving = True
            keeper.cancel()
            for task in tuple(self._background):
                task.cancel()
            if self._client is not None:
                await _drained(self._client)

    async def check(self) -> None:
        """Raises ChannelError while no server is connected."""
        if not self.connected:
            raise ChannelError("nats", self.address, self.error)

    # Connecting -----------------------------------------------------------------------------------------------------

    async def _keep(self, opened: asyncio.Future[None]) -> None:
        delay = _MIN_RETRY_DELAY
        while True:
            self._closed.clear()
            try:
                client = await self.open()
                await self.use(client)
            except (ChannelError, MessagingError) as error:
                self.error = error.message
            else:
                delay = _MIN_RETRY_DELAY
                if not opened.done():
                    opened.set_result(None)
                await self._closed.wait()
                if not self._leaving:
                    logger.warning("channel nats (%s): %s", self.address, self.error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(delay * 2, _MAX_RETRY_DELAY)

    def _library(self) -> Any:
        try:
            return import_module("nats")
        except ImportError:
            why = "the package nats-py is missing: pip install 'pywatt-host[nats]'"
            raise ChannelError("nats", self.address, why) from None

    async def open(self, secret_values: Mapping[str, str] | None = None) -> Client:
        """A new client that is connected, with these values of secrets. Raises ChannelError."""
        nats = self._library()
        errors = import_module("nats.errors")
        client: Client = nats.NATS()

        errors_seen: list[Exception] = []
        options: dict[str, Any] = {"servers": ()}
        limit: asyncio.Timeout | None = None

        async def failed(error: Exception) -> None:
            if client is not self._client and len(errors_seen) < 100:
                errors_seen.append(error)
                if limit is not None and len(errors_seen) >= len(options["servers"]) and not client.is_connected:
                    # Every server has been tried: enough for one attempt. The library needs a moment to clean up.
                    limit.reschedule(asyncio.get_running_loop().time() + _CLEANUP_GRACE)
            await self._failed(error)

        async def lost() -> None:
            if client is self._client:  # and not a client that was replaced
                await self._lost()

        async def reconnected() -> None:
            if client is self._client:
                await self._reconnected()

        async def over() -> None:
            if client is self._client:
                self.error = _reason(client.last_error)
                self._closed.set()

        try:
            options = await self._options(self._texts() if secret_values is None else secret_values)
            async with asyncio.timeout(self._timeout) as limit:
                await client.connect(
                    **options,
                    name=self._module_id,
                    inbox_prefix=self._inbox,
                    connect_timeout=self._timeout,  # type: ignore[arg-type]
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=random.uniform(0.25, 0.75),  # type: ignore[arg-type]
                    ping_interval=_PING_INTERVAL,
                    max_outstanding_pings=2,
                    pending_size=self.settings.reconnect_buffer,
                    drain_timeout=_DRAIN_TIMEOUT,
                    error_cb=failed,
                    closed_cb=over,
                    disconnected_cb=lost,
                    reconnected_cb=reconnected,
                )
        except (OSError, TimeoutError, errors.Error, ValueError) as error:
            why = _most_telling(errors_seen) if isinstance(error, TimeoutError) else error
            await closed(client)
            raise ChannelError("nats", self.address, _reason(why)) from error
        except BaseException:
            await closed(client)
            raise
        return client

    async def _options(self, secret_values: Mapping[str, str]) -> dict[str, Any]:
        settings = self.settings
        servers = list(settings.servers)
        if servers[0].startswith(DEV_NATS):
            servers = [await self._private_server(servers[0])]
        options: dict[str, Any] = {"servers": servers}
        if settings.credentials is not None:
            options["user_credentials"] = self._credentials(settings.credentials, secret_values)
        if settings.user is not None:
            options |= {"user": settings.user, "password": _text(settings.password, secret_values)}
        if settings.token is not None:
            options["token"] = _text(settings.token, secret_values)
        if settings.tls is not None or any(url.startswith("tls:") for url in servers):
            options["tls"] = client_context(settings.tls, self._resolve, "nats", "channels.nats.tls")
            if settings.tls is not None and settings.tls.server_name is not None:
                options["tls_hostname"] = settings.tls.server_name
        return options

    async def _private_server(self, url: str) -> str:
        if self._private is None:
            raise ChannelError("nats", url, "nats+dev:// is for `pywatt-host dev` and `up` only")
        try:
            return await self._private("nats", url)
        except HostError as error:
            raise ChannelError("nats", url, str(error)) from error

    def _credentials(self, value: str | SecretTemplate, secret_values: Mapping[str, str]) -> Any:
        """The credentials, from a path or from the text itself, which is the usual content of a secret."""
        text = _text(value, secret_values)
        if "-----BEGIN" in text:
            return import_module("nats.aio.client").RawCredentials(text)
        path = self._resolve(text)
        try:
            content = path.read_text()
        except (OSError, ValueError) as error:
            shown = path if isinstance(value, str) else "the file that the secret names"
            reason = getattr(error, "strerror", None) or "it is not text"
            why = f"channels.nats.credentials: {shown} cannot be read: {reason}"
            raise ChannelError("nats", self.address, why) from None
        return import_module("nats.aio.client").RawCredentials(content)

    async def use(self, client: Client) -> None:
        """Switch to a client that is connected. The old client, if there is one, closes once it has sent everything."""
        old, self._client = self._client, client
        self.error = ""
        logger.info("channel nats is connected to %s", _shown(client.connected_url))
        try:
            for subscribe in self.on_connected:
                await subscribe(client)
        except (OSError, import_module("nats.errors").Error) as error:
            self._client = old
            await closed(client)
            raise ChannelError("nats", self.address, _reason(error)) from error
        if old is not None and not old.is_closed:
            self.spawn(_drained(old))

    def replace(self, client: Client) -> None:
        """As `use`, for callers that cannot wait."""
        self.spawn(self.use(client))

    def discard(self, client: Client) -> None:
        """Close a client that was opened and is not used."""
        self.spawn(closed(client))

    def spawn(self, work: Any) -> None:
        """Run work in the background. It is cancelled when the connection is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Callbacks of the client ----------------------------------------------------------------------------------------

    async def _lost(self) -> None:
        if not self._leaving and self._client is not None:
            self.error = "the connection is lost; looking for a server"
            logger.warning("channel nats (%s): the connection is lost; looking for a server", self.address)

    async def _reconnected(self) -> None:
        self.reconnects += 1
        self._reconnected_at = time.monotonic()
        self.error = ""
        logger.info("channel nats is connected to %s again", _shown(self.client.connected_url))
        for callback in self.on_reconnected:
            self.spawn(callback())

    async def _failed(self, error: Exception) -> None:
        """Log an error of the library. A warning is logged once a minute for each text: an absent server repeats
        them."""
        text, now = _reason(error), time.monotonic()
        if (
            not self.connected and "authorization" not in self.error
        ):  # which explains more than the errors that follow from it
            self.error = text
        if "permissions violation" in text.lower() and now - self._warned.get(text, -_WARN_INTERVAL) >= _WARN_INTERVAL:
            if len(self._warned) > 100:
                self._warned.clear()
            self._warned[text] = now
            logger.warning("channel nats: %s", text)
        else:
            logger.debug("channel nats: %s", text)

    def raise_for(self, error: Exception, target: str, timeout: float) -> NoReturn:
        """Raise an error of the library as MessagingError."""
        errors = import_module("nats.errors")
        if isinstance(error, TimeoutError | errors.TimeoutError):
            raise MessagingError("timeout", f"no answer within {timeout:g}s", target) from None
        if isinstance(error, errors.NoRespondersError):
            raise MessagingError("unavailable", "no module takes its messages on NATS", target) from None
        if isinstance(error, errors.MaxPayloadError):
            most = self.client.max_payload
            raise MessagingError("too_large", f"NATS allows {most} bytes in a message (max_payload)", target) from None
        if isinstance(error, errors.OutboundBufferLimitError):
            text = "NATS is not connected, and the buffer for messages is full (channels.nats.reconnect_buffer)"
            raise MessagingError("unavailable", text, target) from None
        raise MessagingError("unavailable", f"NATS: {_reason(error)}", target) from error


async def _drained(client: Client) -> None:
    """Let a client send and handle the messages that it has, then close it."""
    with suppress(Exception):  # named boundary: the stop path
        if client.is_connected:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await client.drain()
    await closed(client)


async def closed(client: Client) -> None:
    """Close a client in any state, within _CLOSE_TIMEOUT.

    The library waits without a limit for the end of its connection, and after a TLS handshake that was cut short that
    end is never reported to it. So it closes in a task of its own, which is left where it takes too long."""
    closing = asyncio.get_running_loop().create_task(client.close())
    closing.add_done_callback(_ignore)
    try:
        await asyncio.wait((closing,), timeout=_CLOSE_TIMEOUT)
    finally:
        closing.cancel()


def _ignore(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _text(value: str | SecretTemplate | None, secret_values: Mapping[str, str]) -> str:
    try:
        return value.render(secret_values) if isinstance(value, SecretTemplate) else value or ""
    except KeyError as error:
        raise ChannelError("nats", "", f"the secret {error.args[0]} is missing") from None


def _most_telling(seen: Sequence[Exception]) -> Exception | None:
    """Of the errors while connecting: the one that says that a server refused the credentials, else the last one."""
    refusals = [error for error in seen if "authorization" in str(error).lower()]
    return refusals[0] if refusals else seen[-1] if seen else TimeoutError("no server answers")


def _shown(url: Any) -> str:
    return f"{url.scheme}://{url.hostname}:{url.port}" if url is not None else "NATS"


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "it was closed"
    if isinstance(error, ChannelError):
        return error.message
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text.removeprefix("nats: ").lower()[:200]
