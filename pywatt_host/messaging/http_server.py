"""The HTTP channel, as a server: messages that arrive by POST on this module's HTTP listener."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pywatt_host.channels.records import BadRecords
from pywatt_host.exceptions import ProtocolError
from pywatt_host.http.problem import send_problem
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import EventHandler
from pywatt_host.net.limits import GUESSES, Limits, LocalLimits, client_key
from pywatt_host.protocol.jsontext import dumps, loads
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.protocol.session import cut
from pywatt_host.types import Receive, Scope, Send

_MAX_SOURCE_LENGTH = 128  # characters
_CHALLENGE = [(b"www-authenticate", b'Bearer realm="messages"')]


@dataclass(slots=True)
class _PostedMessage:
    """A message that arrived by POST, and the answer that its HTTP request waits for."""

    source: str
    payload: Payload
    answered: asyncio.Future[Any]
    channel: str = "http"
    vouched_by: str = ""
    attempt: int = 1
    kept: ClassVar[bool] = False

    def answer(self, module_id: str, content: Any) -> None:
        dumps(content)  # what cannot be written as JSON is the handler's error, and is answered as that
        if not self.answered.done():
            self.answered.set_result(content)


class HttpMessages:
    """The ASGI application for the path of `channels.http`, which takes messages.

    Without a token it admits clients of Unix sockets alone: each process of this machine, and each page in a browser on
    it, can connect to a port on a loopback address. What a page in a browser can send (with `Origin`, or with a content
    type that needs no preflight) is refused in any case, before its body is read.
    """

    def __init__(
        self, inbox: Inbox, token: Callable[[], str | None], limit: int, event: EventHandler,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        """`limit` is the longest message, in bytes. `limits` makes the limit on wrong tokens; by default it holds for
        this process."""
        self.refused = 0
        self._inbox = inbox
        self._token = token
        self._limit = limit
        self._event = event
        self._refusals = BadRecords("a peer on http")
        # Wrong tokens, by the address that sent them.
        self._guesses = (limits or LocalLimits()).rate_limiter("guesses on channels.http", GUESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await send_problem(send, 405, headers=[(b"allow", b"POST")])
        elif any(name == b"origin" for name, _ in scope["headers"]):
            self._refuse("it is from a page in a browser (it has the header Origin)")
            await send_problem(send, 403, "messages are not taken from pages in browsers (Origin)")
        elif wait := self._guesses.wait_for(client := _client(scope)):
            await send_problem(send, 429, headers=[(b"retry-after", str(math.ceil(wait)).encode())])
        elif not self._is_authorized(scope):
            self._refuse("the token is missing or wrong (channels.http.token)")
            await send_problem(send, 401, headers=_CHALLENGE)
        elif not _is_json(scope):
            self._refuse("its content type is not application/json")
            await send_problem(send, 415, "the content type must be application/json")
        else:
            self._guesses.give_back(client)
            await self._take(receive, send)

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._refusals.refused(why)

    def _is_authorized(self, scope: Scope) -> bool:
        token = self._token()
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not token:
            return token is None and _is_unix(scope)  # an empty one admits no client
        scheme, _, presented = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(presented.strip(), token.encode())

    async def _take(self, receive: Receive, send: Send) -> None:
        body = await _body(receive, self._limit)
        if body is None:
            await send_problem(send, 413, "the message is too long (channels.limits.frame)")
            return
        try:
            document = loads(body)
            envelope = Envelope.open(document)
        except ProtocolError as error:
            await send_problem(send, 400, f"it is not a message: {error}")
            return
        metadata = document.get("metadata") if document.__class__ is dict else None
        metadata = metadata if metadata.__class__ is dict else {}
        source = metadata.get("source")
        source = source if isinstance(source, str) and 0 < len(source) <= _MAX_SOURCE_LENGTH else "http"
        content = envelope.content
        if content.__class__ is dict and content.get("op") == "publish" and isinstance(content.get("topic"), str):
            self._event(content["topic"], source, Payload.of(content.get("payload")), "http", "")
            await _reply(send, envelope.id, None)
            return
        destination = metadata.get("destination")
        if isinstance(destination, str) and destination != self._inbox.module_id:
            text = f"{self._inbox.module_id} does not forward messages to {cut(destination, 60)}"
            await _reply(send, envelope.id, {"type": "error", "code": "unknown_target", "message": text})
            return
        posted = _PostedMessage(source, Payload.of(document), asyncio.get_running_loop().create_future())
        self._inbox.take(posted)
        await _reply(send, envelope.id, await posted.answered)


def _is_unix(scope: Scope) -> bool:
    """Whether the connection was accepted on a Unix socket, which has no port. Another server may not tell."""
    server = scope.get("server")
    return server is not None and server[1] is None


def _is_json(scope: Scope) -> bool:
    given = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(given) == 1 and given[0].partition(b";")[0].strip().lower() == b"application/json"


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client_key(client[0]) if client is not None else ""


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where it is longer than `limit` bytes."""
    pieces, length, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise OSError("the client has disconnected")
        piece = message.get("body", b"")
        length += len(piece)
        if length > limit:
            return None
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


async def _reply(send: Send, id: str | None, content: Any) -> None:
    body = dumps({**({"id": id} if id is not None else {}), "content": content, "metadata": {}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
