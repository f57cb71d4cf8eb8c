"""What the host answers in place of a WSGI application: problem documents (RFC 9457), and the reason for the log."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import NamedTuple

from pywatt_host.observability.context import current_request
from pywatt_host.types import Headers, Scope, Send

_NO_WEBSOCKETS = "a WSGI application serves no WebSockets"


class Refusal(NamedTuple):
    """A response of the host. `detail` is for the client."""

    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(document).encode()

    def head(self, body: bytes) -> Headers:
        length = (b"content-length", b"%d" % len(body))
        return [(b"content-type", b"application/problem+json"), length, *self.headers]


BUSY = Refusal(503, "The application is too busy to accept the request, or is stopping.", ((b"retry-after", b"1"),))
# The rest of the body is not read, so that the connection cannot be used for another request.
NOT_STORED = Refusal(507, "The server has no room for the body of the request.", ((b"connection", b"close"),))
_NOT_SERVED = Refusal(403, "The application serves no WebSockets.")


async def refuse(scope: Scope, send: Send, refusal: Refusal, reason: str) -> None:
    """Answer an HTTP request. `reason` is for the access log."""
    _note(reason)
    body = refusal.body()
    await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.head(body)})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def refuse_websocket(scope: Scope, send: Send) -> None:
    """Refuse a WebSocket before it is accepted: with 403, and a body where the server can send one."""
    _note(_NO_WEBSOCKETS)
    if "websocket.http.response" in (scope.get("extensions") or ()):
        body = _NOT_SERVED.body()
        head = _NOT_SERVED.head(body)
        await send({"type": "websocket.http.response.start", "status": _NOT_SERVED.status, "headers": head})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1000})


def _note(reason: str) -> None:
    request = current_request.get()
    if request is not None:
        request.reason = reason
