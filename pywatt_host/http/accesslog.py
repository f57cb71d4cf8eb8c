"""One line per request."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Literal, Protocol

import orjson

from pywatt_host.http.exchange import Exchange
from pywatt_host.logs import Clock, LogStream


_PLAIN = re.compile(r"[ !#-\[\]-~]*\Z")  # ASCII without quotes, backslashes and control characters


def _escaped(text: str) -> str:
    """The inside of a JSON string; lone surrogates become backslash escapes."""
    return orjson.dumps(text.encode("utf-8", "backslashreplace").decode())[1:-1].decode()


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
        # Written by hand, since it is written for every request: all but the path is known to need no escaping.
        shown = path if _PLAIN.match(path) else _escaped(path)
        trace = f'","trace_id":"{exchange.trace_id}' if exchange.trace_id else ""
        reason = f'","reason":"{exchange.reason}' if exchange.reason else ""
        self._stream.write_soon(
            f'{{"time":"{when}","level":"info","logger":"pywatt.access",'
            f'"message":"{exchange.method} {shown} {exchange.status}","method":"{exchange.method}","path":"{shown}",'
            f'"route":"{exchange.plan.route}","status":{exchange.status},"duration_ms":{exchange.seconds * 1000:.3f},'
            f'"bytes":{exchange.octets},"client":"{exchange.client}",'
            f'"request_id":"{exchange.request_id.decode()}{trace}{reason}"}}\n'.encode()
        )

    def _console(self, when: str, exchange: Exchange) -> bytes:
        status = str(exchange.status)
        if self._colour:
            status = f"\x1b[{32 if exchange.status < 400 else 33 if exchange.status < 500 else 31}m{status}\x1b[0m"
        path = exchange.path if exchange.path.isprintable() else exchange.path.encode("unicode_escape").decode()
        reason = f" ({exchange.reason})" if exchange.reason else ""
        return (
            f"{when[11:23]} {exchange.method} {path} {status}{reason} {exchange.seconds * 1000:.1f}ms"
            f" {exchange.client or '-'} {exchange.request_id.decode()}\n"
        ).encode("utf-8", "backslashreplace")
