"""The access log: one line for each request."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, Protocol

from pywatt_host.http.exchange import Exchange
from pywatt_host.manifest.values.paths import covers
from pywatt_host.observability.escaping import console_text, json_text
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import Clock

_LONGEST_REMEMBERED = 256  # characters of a path whose part of a line is remembered
_LONGEST_SUBJECT = 200  # characters of a subject, which comes from a token, that are logged


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
        self,
        stream: LogStream,
        style: Literal["json", "console"],
        exclude: Sequence[str],
        colour: bool = False,
        worker: int | None = None,
    ) -> None:
        """`worker` is the number of the worker process, where the host has several."""
        self._stream = stream
        self._json = style == "json"
        self._exclude = tuple(exclude)
        self._colour = colour
        self._clock = Clock()
        self._worker = "" if worker is None else f'"worker":{worker},' if self._json else f" worker={worker}"

    def write(self, exchanges: Iterable[Exchange]) -> None:
        when = self._clock(time.time())
        line = self._line if self._json else self._console
        lines = [line(when, exchange) for exchange in exchanges if not self._excluded(exchange)]
        if lines:
            self._stream.write("".join(lines).encode("utf-8", "backslashreplace"), len(lines))

    def _excluded(self, exchange: Exchange) -> bool:
        path = exchange.path
        return bool(self._exclude) and any(covers(prefix, path) for prefix in self._exclude)

    def _line(self, when: str, exchange: Exchange) -> str:
        # Not made with a JSON library, since it is made for every request, and most of it is the same in many.
        path, trace, who = exchange.path, exchange.trace, exchange.identity
        request = _request if len(path) <= _LONGEST_REMEMBERED else _request.__wrapped__
        request_id = exchange.request_id.decode("latin-1")
        more = ""
        if trace is not None:
            more = f'","trace_id":"{trace.trace_id}'
            if exchange.span_id:
                more += f'","span_id":"{exchange.span_id}'
        if who is not None and who.subject:
            more += f'","subject":"{_text(who.subject[:_LONGEST_SUBJECT])}'
        if exchange.reason:
            more += f'","reason":"{json_text(exchange.reason)}'
        return (
            f'{{"time":"{when}",{self._worker}{request(exchange.method, path, exchange.plan.route, exchange.status)}'
            f'"duration_ms":{exchange.seconds * 1000:.3f},"bytes":{exchange.body_bytes},'
            f'"client":"{_text(exchange.client)}",'
            f'"request_id":"{request_id if request_id.isalnum() else json_text(request_id)}{more}"}}\n'
        )

    def _console(self, when: str, exchange: Exchange) -> str:
        status = str(exchange.status)
        if self._colour:
            status = f"\x1b[{32 if exchange.status < 400 else 33 if exchange.status < 500 else 31}m{status}\x1b[0m"
        path, method, client, reason = exchange.path, exchange.method, exchange.client or "-", exchange.reason
        if not f"{method}{path}{client}{reason}".isprintable():
            path, method, client = console_text(path), console_text(method), console_text(client)
            reason = console_text(reason)
        reason = f" ({reason})" if reason else ""
        subject = f" {console_text(exchange.subject[:_LONGEST_SUBJECT])}" if exchange.subject else ""
        request_id = exchange.request_id.decode("latin-1")
        shown_id = request_id if request_id.isprintable() else console_text(request_id)
        return (
            f"{when[11:23]} {method} {path} {status}{reason} {exchange.seconds * 1000:.1f}ms {client}"
            f" {shown_id}{subject}{self._worker}\n"
        )


@lru_cache(maxsize=4096)
def _request(method: str, path: str, route: str, status: int) -> str:
    """The members of a line that say what was asked for, and the status."""
    method, path = json_text(method), json_text(path)
    return (
        f'"level":"info","logger":"pywatt.access","message":"{method} {path} {status}",'
        f'"method":"{method}","path":"{path}","route":"{json_text(route)}","status":{status},'
    )


_text = lru_cache(maxsize=4096)(json_text)
