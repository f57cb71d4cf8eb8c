"""The HTTP channel, as a client: messages by POST to the HTTP listeners of other modules.

A request is a Message envelope with `Authorization: Bearer TOKEN`, and so is its answer; see docs/messages.md.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pywatt_host.exceptions import ChannelError, MessagingError
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.messaging.transport import trace_headers
from pywatt_host.protocol.jsontext import dumps
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import cut

if TYPE_CHECKING:
    from ssl import SSLContext

    import httpx

logger = logging.getLogger("pywatt.channels")

_MAX_CONNECTIONS = 4  # of one HTTP client
_MAX_CLIENTS = 32  # HTTP clients for one peer
_MAX_EVENTS = 1024  # that wait for one peer
_EVENT_TIMEOUT = 5.0  # seconds for a peer to take an event
_CLOSE_GRACE = 1.0  # seconds for events that wait, at the end

Text = str | SecretTemplate | None


def rendered(text: Text, secret_values: Mapping[str, str]) -> str | None:
    """The present value of a token. Raises ChannelError where one of its secrets is missing."""
    if not isinstance(text, SecretTemplate):
        return text
    try:
        return text.render(secret_values)
    except KeyError as error:
        raise ChannelError("http", "", f"the secret {error.args[0]} is missing") from None


@dataclass(slots=True)
class _PooledClient:
    """One of several HTTP clients for the same peer, and how many requests it runs."""

    http: httpx.AsyncClient
    running: int = 0


class HttpPeer:
    """The HTTP listener of another module. Its HTTP clients are made when they are first needed."""

    channel: ClassVar[str] = "http"
    keeps: ClassVar[bool] = False

    def __init__(
        self, module: str, url: str, own: str, token: Callable[[], str | None], limit: int,
        tls: SSLContext | None = None,
    ) -> None:  # fmt: skip
        """`url` is where the module takes messages, `own` the id of this module, `limit` the greatest length of a
        message in bytes."""
        self.module = module
        self.url = url
        self._own = own
        self._token = token
        self._limit = limit
        self._tls = tls
        self._clients: list[_PooledClient] = []
        self._events: deque[tuple[str, Payload]] = deque()
        self._delivering: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def ready(self) -> bool:
        return True

    async def available(self, timeout: float, target: str) -> None:
        return

    async def drained(self) -> None:
        return

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "messages are not kept on this channel", target)

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        """See MessageRoute."""
        envelope = payload.document()
        metadata = {**envelope.get("metadata", {}), "source": self._own, "destination": target}
        return await self._post(
            {"id": request_id, "content": envelope["content"], "metadata": metadata}, payload, timeout
        )

    async def _post(self, document: Any, message: Payload, timeout: float) -> Payload:
        httpx = import_module("httpx")
        body = dumps(document)
        if len(body) > self._limit:
            raise MessagingError("too_large", f"a message is longer than {self._limit} bytes", self.module)
        headers = {"content-type": "application/json", "accept-encoding": "identity", **trace_headers(message)}
        token = self._token()
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        try:
            async with asyncio.timeout(timeout):
                return Payload(await self._sent(body, headers), "Json")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            text = f"{self.url} cannot be reached: {str(error) or type(error).__name__}"
            raise MessagingError("unavailable", text, self.module) from error
        except (TimeoutError, httpx.TimeoutException):
            raise MessagingError("timeout", f"no answer within {timeout:g}s", self.module) from None
        except httpx.HTTPError as error:
            text = f"{self.url} closed the connection before its answer: {str(error) or type(error).__name__}"
            raise MessagingError("lost", text, self.module) from error

    async def _sent(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        client = self._open()
        client.running += 1
        try:
            async with client.http.stream("POST", self.url, content=body, headers=headers) as response:
                return await self._answer(response)
        finally:
            client.running -= 1

    async def _answer(self, response: httpx.Response) -> bytes:
        """The body of an answer, as the peer has sent it. What is longer than the limit is not read to its end, and no
        content coding is decoded: a few kilobytes of gzip can become gigabytes."""
        status = response.status_code
        if status != 200:
            code, why = _REFUSALS.get(status, ("refused", f"it answered with status {status}"))
            raise MessagingError(code, f"{self.url}: {why}", self.module)
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            text = f"{self.url}: the answer has the content coding {cut(coding, 20)}, which was not asked for"
            raise MessagingError("invalid_message", text, self.module)
        pieces, length = [], 0
        async for piece in response.aiter_raw():
            length += len(piece)
            if length > self._limit:
                text = f"{self.url}: the answer is longer than {self._limit} bytes (channels.limits.frame)"
                raise MessagingError("too_large", text, self.module)
            pieces.append(piece)
        return b"".join(pieces)

    def _open(self) -> _PooledClient:
        """A client with a free connection. There are several small ones, since the time that the pool of httpx takes
        grows with the square of its requests."""
        for client in self._clients:
            if client.running < _MAX_CONNECTIONS:
                return client
        if len(self._clients) >= _MAX_CLIENTS:
            return min(self._clients, key=lambda client: client.running)
        httpx = import_module("httpx")
        verify = (
            self._tls if self._tls is not None else False
        )  # for http:// alone, where there is no certificate to verify
        client = _PooledClient(
            httpx.AsyncClient(
                verify=verify, timeout=None, trust_env=False, headers={"user-agent": "pywatt-host"},
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS),
            )
        )  # fmt: skip
        self._clients.append(client)
        return client

    def enqueue(self, topic: str, event: Payload) -> None:
        """Send an event in the background. Events leave in order; they are dropped and counted where the peer is too
        slow."""
        if len(self._events) >= _MAX_EVENTS:
            self.dropped += 1
            return
        self._events.append((topic, event))
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.get_running_loop().create_task(
                self._deliver_events(), name=f"events for {self.module}"
            )

    async def _deliver_events(self) -> None:
        while self._events:
            topic, event = self._events.popleft()
            content = {"op": "publish", "topic": topic, "payload": event.document()}
            try:
                await self._post({"content": content, "metadata": {"source": self._own}}, event, _EVENT_TIMEOUT)
            except MessagingError as error:
                self.dropped += 1
                logger.debug("%s did not get an event of %s: %s", self.module, topic, error)

    async def aclose(self) -> None:
        """Send the events that wait, for a moment, and close."""
        if self._delivering is not None and not self._delivering.done():
            await asyncio.wait((self._delivering,), timeout=_CLOSE_GRACE)
            self._delivering.cancel()
        for client in self._clients:
            await client.http.aclose()


_REFUSALS = {
    401: ("refused", "the token is missing or wrong (channels.http.token)"),
    404: ("unsupported", "it does not take messages at this path (its channels.http.path)"),
    405: ("unsupported", "it does not take messages at this path (its channels.http.path)"),
    413: ("too_large", "the message is longer than it allows (its channels.limits.frame)"),
    503: ("unavailable", "it does not take requests now (status 503)"),
}


class HttpTransport:
    """The HTTP listeners of other modules, as a transport and a service."""

    name = "channels.http"

    def __init__(self, peers: Sequence[HttpPeer]) -> None:
        self.peers = tuple(peers)

    def routes(self, target: str, channel: str | None) -> Sequence[HttpPeer]:
        """See Transport."""
        if channel not in (None, "http"):
            return ()
        return [peer for peer in self.peers if peer.module == target]

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """See Transport. There are no subscriptions over HTTP: each peer gets each event, and drops those that it has
        no handler for."""
        if not self.peers or channel not in (None, "http"):
            return None
        for peer in self.peers:
            peer.enqueue(topic, event)
        return True

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for peer in self.peers:
                await peer.aclose()
