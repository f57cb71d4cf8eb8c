"""What the edge reads from the head of a request: its id, its trace, the length of its body, its client."""

from __future__ import annotations

import os
import re

from pywatt_host.http.exchange import HttpExchange
from pywatt_host.http.forwarding import FORGEABLE, Forwarding
from pywatt_host.observability.context import current_request, parse_traceparent
from pywatt_host.types import Scope

NO_LENGTH = -1  # the length of a body whose head does not say it

_VALID_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}\Z")
_LONGEST_LENGTH = 19  # digits of a Content-Length that is read
_IDS_PER_BATCH = 256  # request ids that are made together
_READ = FORGEABLE | {b"x-request-id", b"traceparent", b"content-length", b"transfer-encoding"}
# The headers of nearly every request that the edge does not read: they are skipped after one look-up each.
_SKIPPED = frozenset(
    (
        b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control",
        b"connection", b"content-type", b"cookie", b"if-modified-since", b"if-none-match", b"origin", b"referer",
        b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site",
    )
)  # fmt: skip


class RequestHead:
    """Reads request heads in one pass over the headers, and applies the forwarding headers of trusted proxies."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        self._ids: list[bytes] = []

    def read(self, scope: Scope, exchange: HttpExchange) -> int:
        """Fill in what the exchange knows of its request, and make it the current request of the context.

        Returns the declared length of the body in bytes: 0 without a body, NO_LENGTH for a body of unknown length.
        """
        length, foreign_id, forwarded, headers = 0, False, False, scope["headers"]
        for name, value in headers:
            if name in _SKIPPED:
                continue
            if name in _READ:
                if name == b"content-length":
                    length = int(value) if value.isdigit() and len(value) <= _LONGEST_LENGTH else NO_LENGTH
                elif name == b"transfer-encoding":
                    length = NO_LENGTH
                elif name == b"x-request-id":
                    exchange.request_id = value if _VALID_ID.match(value) and not foreign_id else b""
                    foreign_id = True
                elif name == b"traceparent":
                    exchange.trace = parse_traceparent(value) or exchange.trace
                else:
                    forwarded = True
            elif name[:12] == b"x-forwarded-":
                forwarded = True
        if forwarded:
            self._forwarding.apply(scope)
            headers = scope["headers"]
        if not exchange.request_id:
            if foreign_id:  # several ids, or one that is not valid: the application sees ours only
                scope["headers"] = headers = [header for header in headers if header[0] != b"x-request-id"]
            exchange.request_id = self._ids.pop() if self._ids else self._new_id()
            headers.append((b"x-request-id", exchange.request_id))
        client = scope.get("client")
        if client is not None:
            exchange.client = client[0]
        current_request.set(exchange)
        return length

    def _new_id(self) -> bytes:
        """A request id of 128 random bits; makes a batch of them."""
        digits = os.urandom(16 * _IDS_PER_BATCH).hex().encode()
        self._ids = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        return self._ids.pop()
