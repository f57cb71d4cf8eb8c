"""The collector of `up`: takes the spans of its modules, over OTLP/HTTP on a loopback port of its own."""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Awaitable, Callable

from pywatt_host.http.problem import send_problem
from pywatt_host.observability.protobuf import ProtobufError
from pywatt_host.observability.trace_settings import TOKEN_HEADER
from pywatt_host.types import Receive, Scope, Send

PATH = "/v1/traces"
CONTENT_TYPE = b"application/x-protobuf"
_MOST_BYTES = 8 * 1024**2  # of a body, and of what a compressed one contains


class CollectorApp:
    """`POST /v1/traces` with the token of the collector. `take` gets each body; it raises ProtobufError for what is no
    export of spans."""

    def __init__(self, token: str, take: Callable[[bytes], Awaitable[None]]) -> None:
        self._token = token.encode()
        self._take = take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(TOKEN_HEADER.encode(), b""), self._token):
            await send_problem(send, 401)
        elif scope["path"] != PATH:
            await send_problem(send, 404)
        elif scope["method"] != "POST":
            await send_problem(send, 405, headers=[(b"allow", b"POST")])
        elif headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != CONTENT_TYPE:
            await send_problem(send, 415, f"Send {CONTENT_TYPE.decode()} (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf).")
        elif (coding := headers.get(b"content-encoding", b"identity").lower()) not in (b"identity", b"gzip"):
            await send_problem(send, 415, "The content codings are identity and gzip.")
        else:
            await self._body(receive, send, compressed=coding == b"gzip")

    async def _body(self, receive: Receive, send: Send, *, compressed: bool) -> None:
        body = await _read(receive)
        try:
            if body is not None and compressed:
                body = _decompressed(body)
            if body is None:
                await send_problem(send, 413, f"The spans are longer than {_MOST_BYTES} bytes.")
                return
            await self._take(body)
        except (ProtobufError, zlib.error):
            await send_problem(send, 400, "This is no ExportTraceServiceRequest.")
            return
        head = [(b"content-type", CONTENT_TYPE), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b""})


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None where it is too long."""
    pieces: list[bytes] = []
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        pieces.append(message.get("body", b""))
        length += len(pieces[-1])
        if length > _MOST_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(pieces)


def _decompressed(body: bytes) -> bytes | None:
    """What gzip has compressed; None where it is too long. Raises zlib.error."""
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    found = gzip.decompress(body, _MOST_BYTES)
    return found if gzip.eof else None if gzip.unconsumed_tail else _cut()


def _cut() -> bytes:
    raise zlib.error("the stream ends too early")
