"""Logs: one JSON object or one line of text for each record, always on standard error.

`LogStream` (`log_stream`) is the only writer. The access log writes the lines of one turn of the event loop together;
all other records come through `logging` of the standard library.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from types import MappingProxyType
from typing import Any, Literal

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.context import current_request, current_span
from pywatt_host.observability.escaping import console_text, json_line
from pywatt_host.observability.log_stream import LogStream, lost_text
from pywatt_host.observability.tracebacks import short_traceback

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class Clock:
    """Times as RFC 3339 texts in UTC with milliseconds. A text is made once for each millisecond."""

    def __init__(self) -> None:
        self._second = (-1, "")  # seconds, and their text; one attribute each, since several threads log
        self._millisecond = (-1, "")

    def __call__(self, now: float) -> str:
        millisecond = int(now * 1000)
        last, text = self._millisecond
        if millisecond != last:
            second = millisecond // 1000
            last, to_second = self._second
            if second != last:
                to_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second, to_second
            text = f"{to_second}.{millisecond % 1000:03d}Z"
            self._millisecond = millisecond, text
        return text


def _redacted(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            str(name): "***" if str(name).lower() in names else _redacted(item, names) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(item, names) for item in value]
    return value


class RecordFormatter:
    """Turns a logging record into the bytes of one line. The values of the fields in `redact` are replaced. Each record
    has the fields `always`. With `short_tracebacks`, tracebacks begin at the application's own frames."""

    def __init__(
        self,
        style: Literal["json", "console"],
        redact: Iterable[str],
        colour: bool,
        always: Mapping[str, Any] = MappingProxyType({}),
        short_tracebacks: bool = False,
    ) -> None:
        self._style = style
        self._short_tracebacks = short_tracebacks
        self._redact = frozenset(name.lower() for name in redact)
        self._colour = colour
        self._always = dict(always)
        self._clock = Clock()

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a record beside its message: those of the process and the request, then its own `extra`."""
        fields: dict[str, Any] = dict(self._always)
        request = current_request.get()
        if request is not None:
            fields["request_id"] = request.request_id.decode("utf-8", "backslashreplace")
        place = current_span.get()
        if place is not None:
            fields["trace_id"], fields["span_id"] = place.trace_id, place.parent_id
        elif request is not None and request.trace is not None:
            fields["trace_id"] = request.trace.trace_id
            if request.span_id:
                fields["span_id"] = request.span_id
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES})
        return _redacted(fields, self._redact) if self._redact else fields

    def format(self, record: logging.LogRecord) -> bytes:
        """The line of a record, with its line feed. The traceback of an exception is in it."""
        message = record.getMessage()
        pieces = _traceback(record, short=self._short_tracebacks)
        if self._style == "json":
            return self._json(record, message, "".join(pieces).strip())
        return self._console(record, message, _console_traceback(pieces).strip())

    def _json(self, record: logging.LogRecord, message: str, trace: str) -> bytes:
        document: dict[str, Any] = {
            "time": self._clock(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        for name, value in self.fields(record).items():
            document.setdefault(name, value)
        if trace:
            document["exception"] = trace
        return json_line(document)

    def _console(self, record: logging.LogRecord, message: str, trace: str) -> bytes:
        when = self._clock(record.created)[11:23]
        level = record.levelname.lower()
        if self._colour:
            level = f"{_COLOURS.get(record.levelno, '')}{level}\x1b[0m"
        extra = "".join(f" {console_text(name)}={console_text(value)}" for name, value in self.fields(record).items())
        text = f"{when} {level} {console_text(record.name)}: {console_text(message)}{extra}"
        return (f"{text}\n{trace}" if trace else text).encode("utf-8", "backslashreplace") + b"\n"


_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}


def _traceback(record: logging.LogRecord, *, short: bool) -> list[str]:
    """The traceback of a record in pieces: each is one line, or a message of several lines."""
    pieces: list[str] = []
    if short and record.exc_info and record.exc_info[1] is not None:
        pieces += short_traceback(record.exc_info[1])
    elif record.exc_info and record.exc_info[0] is not None:
        pieces += traceback.format_exception(*record.exc_info)
    elif record.exc_text:
        pieces.append(f"{record.exc_text}\n")
    if record.stack_info:
        pieces.append(f"{record.stack_info}\n")
    return pieces


def _console_traceback(pieces: list[str]) -> str:
    """A traceback for a terminal. Lines of an exception's message are indented, so that none looks like a record."""
    shown = []
    for piece in pieces:
        first, *more = console_text(piece, keep="\n\t").split("\n")
        own = bool(first) and first[0] != " "  # neither a frame nor a heading
        shown += [first, *(f"  {line}" if own and line and line[0] != " " else line for line in more)]
        if len(shown) > 1 and not shown[-1]:
            shown.pop()
    return "\n".join(shown)


class StreamHandler(logging.Handler):
    """The handler of `logging` that writes to the stream. It has no lock of its own: that of the stream is not held for
    long, whatever standard error is, and so no thread that logs can keep another from ending the process."""

    def __init__(self, stream: LogStream, formatter: RecordFormatter) -> None:
        super().__init__()
        self._stream = stream
        self._formatter = formatter

    def createLock(self) -> None:  # noqa: N802 -- the name in `logging`
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        kept = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self._formatter.format(record))
        except Exception:  # named boundary: a record whose arguments cannot be formatted must not stop its caller
            self._stream.write(
                json_line({"level": "error", "logger": record.name, "message": f"unformattable record: {record.msg!r}"})
            )

    def flush(self) -> None:
        """Try once more to write what the stream did not take; does not wait for its reader."""
        self._stream.flush()

    def lost_line(self, lines: int) -> bytes:
        """The line that tells how many lines were lost."""
        record = logging.LogRecord("pywatt.host", logging.WARNING, __file__, 0, lost_text(lines), (), None)
        record.lost = lines
        return Context().run(self._formatter.format, record)  # it belongs to no request


CUT = "shutdown limit"  # the argument of the cancellation of a request that is cut off when the host stops


class ResponseCutError(Exception):
    """A response that had begun could not be completed. Its cause is logged already. It ends the connection."""


class _NotLoggedTwice(logging.Filter):
    """Drops the records of the server about errors that the edge has logged already, or that stop the server."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, ResponseCutError) or (isinstance(error, CancelledError) and CUT in error.args):
            return False
        text = record.getMessage()
        if text == "ASGI callable returned without completing handshake.":
            # From a WebSocket that the edge has refused, which any client can cause.
            return not getattr(current_request.get(), "reason", "")
        return text != "Invalid HTTP request received."


def style_for(settings: Logging, stream_is_terminal: bool) -> Literal["json", "console"]:
    """The format of `logging.format`; `auto` is `console` on a terminal and `json` elsewhere."""
    if settings.format == "auto":
        return "console" if stream_is_terminal else "json"
    return settings.format


@contextmanager
def configured(
    settings: Logging,
    stream: LogStream,
    *,
    terminal: bool,
    colour: bool,
    always: Mapping[str, Any] = MappingProxyType({}),
    short_tracebacks: bool = False,
) -> Iterator[None]:
    """Send the logging of the process to `stream` as the manifest says; each record has the fields `always`. Leaving
    restores the previous configuration. `short_tracebacks`: below the level debug, tracebacks begin at the
    application's own frames."""
    short = short_tracebacks and settings.level != "debug"
    formatter = RecordFormatter(style_for(settings, terminal), settings.redact, colour, always, short)
    root, handler = logging.getLogger(), StreamHandler(stream, formatter)
    levels: dict[str, int] = {"uvicorn": logging.WARNING, "asyncio": logging.WARNING}
    if settings.level != "debug":  # they log a line for each request that the application makes
        levels |= {"httpx": logging.WARNING, "httpcore": logging.WARNING}
    levels.update({name: LEVELS[level] for name, level in settings.loggers.items()})
    before = (root.level, root.handlers[:])
    levels_before = {name: logging.getLogger(name).level for name in levels}
    server_logger, not_twice = logging.getLogger("uvicorn.error"), _NotLoggedTwice()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[settings.level])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    server_logger.addFilter(not_twice)
    logging.captureWarnings(True)
    stream.tell_lost_with(handler.lost_line)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        server_logger.removeFilter(not_twice)
        for name, level in levels_before.items():
            logging.getLogger(name).setLevel(level)
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        stream.finish()
        stream.tell_lost_with(None)


def standard_error() -> LogStream:
    """The real standard error of the process, also where `sys.stderr` was replaced."""
    return LogStream(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
