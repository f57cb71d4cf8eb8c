"""One line per request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, Protocol

import orjson

from pywatt_host.http.exchange import Exchange
from pywatt_host.logs import Clock, LogStream, dump_line


class AccessLog(Protocol):
    """Where the edge reports a finished request."""

    def write(self, exchange: Exchange) -> None: ...


class NoAccessLog:
    """The access log switched off."""

    def write(self, exchange: Exchange) -> None:
        return


class LineAccessLog:
    """JSON or console lines. The query is left out: it is where clients put what should not be logged."""

    def __init__(
        self, stream: LogStream, style: Literal["json", "console"], exclude: Sequence[str], colour: bool = False
    ) -> None:
        self._stream = stream
        self._json = style == "json"
        self._exclude = tuple(exclude)
        self._below = tuple(prefix.rstrip("/") + "/" for prefix in exclude)
        self._colour = colour
        self._clock = Clock()

    def write(self, exchange: Exchange) -> None:
        path = exchange.path
        if self._exclude and (path in self._exclude or path.startswith(self._below)):
            return
        when = self._clock(time.time())
        if not self._json:
            self._stream.write_soon(self._console(when, exchange))
            return
        document = {
            "time": when,
            "level": "info",
            "logger": "pywatt.access",
            "message": f"{exchange.method} {path} {exchange.status}",
            "method": exchange.method,
            "path": path,
            "route": exchange.plan.route,
            "status": exchange.status,
            "duration_ms": round(exchange.seconds * 1000, 3),
            "bytes": exchange.octets,
            "client": exchange.client,
            "request_id": exchange.request_id,
        }
        if exchange.trace_id:
            document["trace_id"] = exchange.trace_id
        if exchange.reason:
            document["reason"] = exchange.reason
        try:
            line = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # a path with lone surrogates
            line = dump_line(document)
        self._stream.write_soon(line)

    def _console(self, when: str, exchange: Exchange) -> bytes:
        status = str(exchange.status)
        if self._colour:
            status = f"\x1b[{32 if exchange.status < 400 else 33 if exchange.status < 500 else 31}m{status}\x1b[0m"
        path = exchange.path if exchange.path.isprintable() else exchange.path.encode("unicode_escape").decode()
        reason = f" ({exchange.reason})" if exchange.reason else ""
        return (
            f"{when[11:23]} {exchange.method} {path} {status}{reason} {exchange.seconds * 1000:.1f}ms"
            f" {exchange.client or '-'} {exchange.request_id}\n"
        ).encode("utf-8", "backslashreplace")
