"""What answers plain HTTP beside a TLS listener: a redirect to the same path over HTTPS."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from pywatt_host.http.problem import send_problem
from pywatt_host.types import Receive, Scope, Send

_HTTPS_PORT = 443
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]*)?\Z")
_SAFE = "/%:@!$&'()*+,;=~?"  # characters of a path and a query that stay as they are (RFC 3986 section 3.3 and 3.4)


class RedirectApp:
    """Answers each request with 308 to the same host and path over HTTPS.

    `port` gives the port of the TLS listener. A request whose Host is not `host_allowed` is answered with 421, so that
    the answer never sends a client to a host that somebody else has chosen.
    """

    def __init__(self, port: Callable[[], int], host_allowed: Callable[[str], bool]) -> None:
        self._port = port
        self._host_allowed = host_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        match, path = _HOST.match(host), scope["raw_path"]
        if match is None or not path.startswith(b"/"):
            await send_problem(send, 400)
        elif not self._host_allowed(host):
            await send_problem(send, 421)
        else:
            port = self._port()
            authority = match[1] if port == _HTTPS_PORT else f"{match[1]}:{port}"
            query = scope["query_string"]
            target = quote(path, safe=_SAFE) + (f"?{quote(query, safe=_SAFE)}" if query else "")
            location = f"https://{authority}{target}".encode()
            headers = [(b"location", location), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 308, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
