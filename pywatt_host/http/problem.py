"""Error responses of the host: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus

from pywatt_host.types import Headers, Send

# The names in RFC 9110 of codes that http.HTTPStatus names differently in different Python versions.
_TITLES = {413: "Content Too Large", 431: "Request Header Fields Too Large", 422: "Unprocessable Content"}


def title(status: int) -> str:
    """The reason phrase of a status code (RFC 9110 section 15)."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def problem_body(status: int, detail: str = "", **members: object) -> bytes:
    """The JSON object of a problem. `detail` must not help an attacker."""
    document: dict[str, object] = {"type": "about:blank", "title": title(status), "status": status}
    if detail:
        document["detail"] = detail
    document.update(members)
    return json.dumps(document, ensure_ascii=False).encode()


def problem_headers(body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Headers:
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]


async def send_problem(
    send: Send, status: int, detail: str = "", headers: Sequence[tuple[bytes, bytes]] = (), **members: object
) -> None:
    """Answer an HTTP request with a problem document."""
    body = problem_body(status, detail, **members)
    await send({"type": "http.response.start", "status": status, "headers": problem_headers(body, headers)})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(
    send: Send, extensions: object, status: int, detail: str = "", headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Refuse a WebSocket before it is accepted. The response has the status where the server supports that (the ASGI
    extension websocket.http.response), else it is 403."""
    if isinstance(extensions, dict) and "websocket.http.response" in extensions:
        body = problem_body(status, detail)
        await send(
            {"type": "websocket.http.response.start", "status": status, "headers": problem_headers(body, headers)}
        )
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1008})
