"""WebSockets through the gateway: each message is passed on, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.http.problem import refuse_websocket
from pywatt_host.orchestrator.upstream import Address, BrokenError
from pywatt_host.types import Headers, Receive, Scope, Send

if TYPE_CHECKING:
    import ssl

_MAX_MESSAGE_SIZE = 16 * 1024**2  # bytes, as in the server
_OPEN_TIMEOUT = 10.0  # seconds for the module's handshake
_CLOSE_TIMEOUT = 2.0  # seconds
_INTERNAL_ERROR = 1011  # close code where the module sent none (RFC 6455, section 7.4.1)
_RESERVED_CODES = frozenset({1005, 1006, 1015})


async def tunnel(
    address: Address,
    target: str,
    headers: Headers,
    scope: Scope,
    receive: Receive,
    send: Send,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Connect to the module, accept the WebSocket if the module does, and pass messages on until one side closes. `tls`
    is for a module that speaks TLS. Raises OSError where the module accepts no connection, and BrokenError where its
    answer is no handshake; nothing was sent to the client then."""
    exceptions = import_module("websockets.exceptions")
    refusal: int
    try:
        async with _connected(address, target, headers, scope["subprotocols"], tls) as module:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": module.subprotocol})
            await _pump(module, receive, send)
            return
    except exceptions.InvalidStatus as error:
        refusal = error.response.status_code
    except (
        exceptions.InvalidHandshake,
        exceptions.InvalidURI,
        TimeoutError,
        ValueError,
    ) as error:  # a port above 65535
        raise BrokenError(f"no WebSocket: {error or 'it did not answer'}") from error
    await receive()
    await refuse_websocket(send, scope.get("extensions"), refusal)


@asynccontextmanager
async def _connected(
    address: Address, target: str, headers: Headers, subprotocols: list[str], tls: ssl.SSLContext | None
) -> AsyncIterator[Any]:
    connect = import_module("websockets.asyncio.client").connect
    host = next(value for name, value in headers if name == b"host").decode("latin-1")
    more = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name not in (b"host", b"origin", b"user-agent") and not name.startswith(b"sec-websocket-")
    ]
    given = {name: value.decode("latin-1") for name, value in headers if name in (b"origin", b"user-agent")}
    place: dict[str, Any] = (
        {"unix": True, "path": address.path}
        if address.path is not None
        else {"host": address.host, "port": address.port}
    )
    if tls is not None:
        place |= {"ssl": tls, "server_hostname": address.host}
    connection = await connect(
        f"{'ws' if tls is None else 'wss'}://{host}{target}",
        origin=given.get(b"origin"),
        user_agent_header=given.get(b"user-agent"),
        additional_headers=more,
        subprotocols=subprotocols or None,
        compression=None,
        proxy=None,
        open_timeout=_OPEN_TIMEOUT,
        close_timeout=_CLOSE_TIMEOUT,
        ping_interval=None,
        max_size=_MAX_MESSAGE_SIZE,
        max_queue=4,
        **place,
    )
    try:
        yield connection
    finally:
        await connection.close()


async def _pump(module: Any, receive: Receive, send: Send) -> None:
    """Pass messages on until one side closes; the other side is closed with the same code."""
    outward = asyncio.create_task(_from_client(module, receive))
    inward = asyncio.create_task(_to_client(module, send))
    try:
        await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
        if inward.done() and not outward.done():
            code, reason = module.close_code or _INTERNAL_ERROR, module.close_reason or ""
            code = _INTERNAL_ERROR if code in _RESERVED_CODES and code != 1005 else code
            await send({"type": "websocket.close", "code": 1000 if code == 1005 else code, "reason": reason})
    finally:
        for task in (outward, inward):
            task.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)


async def _from_client(module: Any, receive: Receive) -> None:
    closed = import_module("websockets.exceptions").ConnectionClosed
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or 1005
            if code in _RESERVED_CODES:
                await module.close()
            else:
                await module.close(code, message.get("reason") or "")
            return
        try:
            text = message.get("text")
            await module.send(text if text is not None else message["bytes"])
        except closed:
            return


async def _to_client(module: Any, send: Send) -> None:
    async for message in module:
        if isinstance(message, str):
            await send({"type": "websocket.send", "text": message})
        else:
            await send({"type": "websocket.send", "bytes": message})
