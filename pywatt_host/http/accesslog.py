"""The access log: one line for each request."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import orjson

from pywatt_host.http.exchange import Exchange
from pywatt_host.observability.logs import Clock, LogStream

_LONGEST_SUBJECT = 200  # characters of a subject, which comes from a token, that are logged
_PLAIN = re.compile(r"[ !#-\[\]-~]*").fullmatch  # ASCII without quotes, backslashes and control characters


class AccessLog(Protocol):
    """Takes finished requests from the edge: those of one turn of the event loop together."""

    def write(self, exchanges: Iterable[Exchange]) -> None: ...


class NoAccessLog:
    """Takes requests where the access log is off."""

    def write(self, exchanges: Iterable[Exchange]) -> None:
        return


class LineAccessLog:
    """Writes JSON or console lines. The query string is left out, since clients put credentials into it."""

    def __init__(
        self, stream: LogStream, style: Literal["json", "console"], exclude: Sequence[str], colour: bool = False
    ) -> None:
        self._stream = stream
        self._json = style == "json"
        self._exclude = tuple(exclude)
        self._below = tuple(prefix.rstrip("/") + "/" for prefix in exclude)
        self._colour = colour
        self._clock = Clock()

    def write(self, exchanges: Iterable[Exchange]) -> None:
        when = self._clock(time.time())
        line = self._line if self._json else self._console
        lines = [line(when, exchange) for exchange in exchanges if not self._excluded(exchange)]
        if lines:
            self._stream.write("".join(lines).encode("utf-8", "backslashreplace"), len(lines))

    def _excluded(self, exchange: Exchange) -> bool:
        path = exchange.path
        return bool(self._exclude) and (path in self._exclude or path.startswith(self._below))

    @staticmethod
    def _line(when: str, exchange: Exchange) -> str:
        # Not made with a JSON library, since it is made for every request: only path and subject may need escaping.
        path, method, status = exchange.path, exchange.method, exchange.status
        if _PLAIN(path) is None:
            path = _json(path)
        trace = f'","trace_id":"{exchange.trace.trace_id}' if exchange.trace is not None else ""
        reason = f'","reason":"{exchange.reason}' if exchange.reason else ""
        who = exchange.subject
        subject = f'","subject":"{_escaped(who)}' if who else ""
        return (
            f'{{"time":"{when}","level":"info","logger":"pywatt.access","message":"{method} {path} {status}",'
            f'"method":"{method}","path":"{path}","route":"{exchange.plan.route}","status":{status},'
            f'"duration_ms":{exchange.seconds * 1000:.3f},"bytes":{exchange.body_bytes},"client":"{exchange.client}",'
            f'"request_id":"{exchange.request_id.decode()}{trace}{subject}{reason}"}}\n'
        )

    def _console(self, when: str, exchange: Exchange) -> str:
        status = str(exchange.status)
        if self._colour:
            status = f"\x1b[{32 if exchange.status < 400 else 33 if exchange.status < 500 else 31}m{status}\x1b[0m"
        path = _printable(exchange.path)
        reason = f" ({exchange.reason})" if exchange.reason else ""
        subject = f" {_printable(exchange.subject[:_LONGEST_SUBJECT])}" if exchange.subject else ""
        return (
            f"{when[11:23]} {exchange.method} {path} {status}{reason} {exchange.seconds * 1000:.1f}ms"
            f" {exchange.client or '-'} {exchange.request_id.decode()}{subject}\n"
        )


def _json(text: str) -> str:
    """The text escaped as within a JSON string."""
    return orjson.dumps(text.encode("utf-8", "backslashreplace").decode())[1:-1].decode()


@lru_cache(maxsize=1024)
def _escaped(subject: str) -> str:
    subject = subject[:_LONGEST_SUBJECT]
    return subject if _PLAIN(subject) is not None else _json(subject)


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()
