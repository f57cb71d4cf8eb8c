"""Logs: one JSON object or one line of text for each record, always on standard error.

`LogStream` is the only writer. The access log writes the lines of one turn of the event loop together; all other
records come through `logging` of the standard library.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
import traceback
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.context import current_request
from pywatt_host.observability.escaping import console_text, json_line

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


_WRITE_TIMEOUT = 1.0  # seconds that a non-blocking standard error may refuse bytes before a batch is dropped
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class LogStream:
    """Writes whole lines to a file descriptor, each masked by `mask` where there is one. Safe from any thread."""

    def __init__(self, fd: int, mask: Callable[[bytes], bytes] | None = None) -> None:
        self._mask = mask
        self._fd = fd
        self._lock = threading.RLock()  # a signal handler may log while this thread is writing
        self.lost = 0

    def mask_with(self, mask: Callable[[bytes], bytes]) -> None:
        """Mask what is written from now on. The stream exists before the secrets of a host are known."""
        self._mask = mask

    def masked(self, data: bytes) -> bytes:
        """The data as this stream would write it, with secrets masked."""
        return data if self._mask is None else self._mask(data)

    def write(self, data: bytes, lines: int = 1) -> None:
        """Write data of so many whole `lines`. Lines that could not be written are counted in `lost`."""
        masked = self.masked(data)
        with self._lock:
            self._write(masked, lines)

    def _write(self, data: bytes, lines: int) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                if not select.select((), (self._fd,), (), _WRITE_TIMEOUT)[1]:
                    self.lost += lines
                    return
            except OSError:  # the reader has gone, or the disk is full: serving goes on
                self.lost += lines
                return


class Clock:
    """Times as RFC 3339 texts in UTC with milliseconds. A text is made once for each millisecond."""

    def __init__(self) -> None:
        self._second = -1
        self._to_second = ""
        self._millisecond = -1
        self._text = ""

    def __call__(self, now: float) -> str:
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            second = millisecond // 1000
            if second != self._second:
                self._to_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            self._millisecond = millisecond
            self._text = f"{self._to_second}.{millisecond % 1000:03d}Z"
        return self._text


def _redacted(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            str(name): "***" if str(name).lower() in names else _redacted(item, names) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted(item, names) for item in value]
    return value


class RecordFormatter:
    """Turns a logging record into the bytes of one line. The values of the fields in `redact` are replaced."""

    def __init__(self, style: Literal["json", "console"], redact: Iterable[str], colour: bool) -> None:
        self._style = style
        self._redact = frozenset(name.lower() for name in redact)
        self._colour = colour
        self._clock = Clock()

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a record beside its message: those of the request, then its own `extra`."""
        fields: dict[str, Any] = {}
        request = current_request.get()
        if request is not None:
            fields["request_id"] = request.request_id.decode("utf-8", "backslashreplace")
            if request.trace is not None:
                fields["trace_id"] = request.trace.trace_id
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES})
        return _redacted(fields, self._redact) if self._redact else fields

    def format(self, record: logging.LogRecord) -> bytes:
        """The line of a record, with its line feed. The traceback of an exception is in it."""
        message = record.getMessage()
        pieces = _traceback(record)
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


def _traceback(record: logging.LogRecord) -> list[str]:
    """The traceback of a record in pieces: each is one line, or a message of several lines."""
    pieces: list[str] = []
    if record.exc_info and record.exc_info[0] is not None:
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
    """The handler of `logging` that writes to the stream."""

    def __init__(self, stream: LogStream, formatter: RecordFormatter) -> None:
        super().__init__()
        self._stream = stream
        self._formatter = formatter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self._formatter.format(record))
        except Exception:  # named boundary: a record whose arguments cannot be formatted must not stop its caller
            self._stream.write(
                json_line({"level": "error", "logger": record.name, "message": f"unformattable record: {record.msg!r}"})
            )


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
def configured(settings: Logging, stream: LogStream, *, terminal: bool, colour: bool) -> Iterator[None]:
    """Send the logging of the process to `stream` as the manifest says. Leaving restores the previous configuration."""
    formatter = RecordFormatter(style_for(settings, terminal), settings.redact, colour)
    root, handler = logging.getLogger(), StreamHandler(stream, formatter)
    levels: dict[str, int] = {"uvicorn": logging.WARNING, "asyncio": logging.WARNING}
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
    try:
        yield
    finally:
        logging.captureWarnings(False)
        server_logger.removeFilter(not_twice)
        for name, level in levels_before.items():
            logging.getLogger(name).setLevel(level)
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def standard_error() -> LogStream:
    """The real standard error of the process, also where `sys.stderr` was replaced."""
    return LogStream(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
