"""What the edge reads from the head of a request under another server: its id, its trace, the length of its body, its
client. Our own server reads the same while it parses (`http/server/connection.py`)."""

from __future__ import annotations

import os
import re

from pywatt_host.http.exchange import Exchange
from pywatt_host.http.forwarding import FORGEABLE, Forwarding
from pywatt_host.http.server.head import CHUNKED
from pywatt_host.observability.context import current_request, read_trace
from pywatt_host.types import Scope

is_request_id = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}").fullmatch

_LONGEST_LENGTH = 19  # digits of a Content-Length that is read
_IDS_PER_BATCH = 256  # request ids that are made together
_READ = FORGEABLE | {b"x-request-id", b"traceparent", b"tracestate", b"content-length", b"transfer-encoding"}


def new_request_ids() -> list[bytes]:
    """A stock of request ids of 128 random bits each."""
    digits = os.urandom(16 * _IDS_PER_BATCH).hex().encode()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


class RequestHead:
    """Reads request heads in one pass over the headers, and applies the forwarding headers of trusted proxies."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        self._ids: list[bytes] = []

    def read(self, scope: Scope, exchange: Exchange) -> None:
        """Fill in what the exchange knows of its request, and make it the current request of the context."""
        foreign_id, forwarded, underscore, headers = 0, False, False, scope["headers"]
        parents, states = list[bytes](), list[bytes]()
        for name, value in headers:
            if name in _READ:
                if name == b"content-length":
                    exchange.length = int(value) if value.isdigit() and len(value) <= _LONGEST_LENGTH else CHUNKED
                elif name == b"transfer-encoding":
                    exchange.length = CHUNKED
                elif name == b"x-request-id":
                    exchange.request_id = value if is_request_id(value) and not foreign_id else b""
                    foreign_id = True
                elif name == b"traceparent":
                    parents.append(value)
                elif name == b"tracestate":
                    states.append(value)
                else:
                    forwarded = True
            elif name[:12] == b"x-forwarded-":
                forwarded = True
            elif b"_" in name:
                underscore = True
        if parents:
            exchange.trace = read_trace(b",".join(parents), b",".join(states))
        if underscore:
            scope["headers"] = headers = [header for header in headers if b"_" not in header[0]]
        if forwarded:
            self._forwarding.apply(scope)
            headers = scope["headers"]
        if not exchange.request_id:
            if foreign_id:  # several ids, or one that is not valid: the application sees ours only
                headers = [header for header in headers if header[0] != b"x-request-id"]
            if not self._ids:
                self._ids = new_request_ids()
            exchange.request_id = self._ids.pop()
            scope["headers"] = [*headers, (b"x-request-id", exchange.request_id)]
        client = scope.get("client")
        if client is not None:
            exchange.client = client[0]
        current_request.set(exchange)
