"""Logs: one object or one line per record, always on standard error.

`LogStream` is the only writer: the access log hands it the lines of one turn of the event loop together, everything
else comes through the standard library's `logging`.
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

import orjson

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.context import current_request

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


_STALLED_AFTER = 1.0  # seconds that a non-blocking standard error may refuse octets before a batch is given up
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class LogStream:
    """Whole lines to a file descriptor, with secrets masked by `mask`, where that is set. Safe from any thread."""

    def __init__(self, fd: int, mask: Callable[[bytes], bytes] | None = None) -> None:
        self.mask = mask
        self._fd = fd
        self._lock = threading.RLock()  # a signal's handler may log while this thread is writing
        self.lost = 0

    def write(self, data: bytes, lines: int = 1) -> None:
        """Write `lines` whole lines. What nobody takes is counted in `lost`."""
        if self.mask is not None:
            data = self.mask(data)
        with self._lock:
            self._write(data, lines)

    def _write(self, data: bytes, lines: int) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                if not select.select((), (self._fd,), (), _STALLED_AFTER)[1]:
                    self.lost += lines
                    return
            except OSError:  # nobody reads any more, or the disk is full: serving goes on
                self.lost += lines
                return


class Clock:
    """RFC 3339 times in UTC with milliseconds; each text is made once and serves for its millisecond."""

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
    """A logging record to the octets of one line."""

    def __init__(self, style: Literal["json", "console"], redact: Iterable[str], colour: bool) -> None:
        self._style = style
        self._redact = frozenset(name.lower() for name in redact)
        self._colour = colour
        self._clock = Clock()

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a record carries beyond its message: the request's fields, then its own `extra`."""
        fields: dict[str, Any] = {}
        request = current_request.get()
        if request is not None:
            fields["request_id"] = request.request_id.decode()
            if request.trace is not None:
                fields["trace_id"] = request.trace.trace_id
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        return _redacted(fields, self._redact) if self._redact else fields

    def format(self, record: logging.LogRecord) -> bytes:
        message = record.getMessage()
        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        elif record.exc_text:
            trace = record.exc_text
        if record.stack_info:
            trace = f"{trace}\n{record.stack_info}".strip()
        if self._style == "json":
            return self._json(record, message, trace)
        return self._console(record, message, trace)

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
        return dump_line(document)

    def _console(self, record: logging.LogRecord, message: str, trace: str) -> bytes:
        when = self._clock(record.created)[11:23]
        level = record.levelname.lower()
        if self._colour:
            level = f"{_COLOURS.get(record.levelno, '')}{level}\x1b[0m"
        extra = "".join(f" {name}={_plain(value)}" for name, value in self.fields(record).items())
        text = f"{when} {level} {record.name}: {_plain(message)}{extra}"
        return (f"{text}\n{trace}" if trace else text).encode("utf-8", "backslashreplace") + b"\n"


_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}


def _plain(value: object) -> str:
    """Text for a terminal: line ends and control characters escaped, so that no value forges a line."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def dump_line(document: dict[str, Any]) -> bytes:
    """One JSON line. Values that JSON does not know become their text; surrogates are replaced."""
    try:
        return orjson.dumps(document, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, integers beyond 64 bits, dicts with odd keys, cycles
        plain = {_encodable(str(name)): _encodable(str(value)) for name, value in document.items()}
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class StreamHandler(logging.Handler):
    """The bridge from the standard library's logging to the stream."""

    def __init__(self, stream: LogStream, formatter: RecordFormatter) -> None:
        super().__init__()
        self._stream = stream
        self._formatter = formatter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self._formatter.format(record))
        except Exception:  # named boundary: a record whose own arguments fail to format must not stop its caller
            self._stream.write(
                dump_line({"level": "error", "logger": record.name, "message": f"unformattable record: {record.msg!r}"})
            )


CUT = "shutdown limit"  # what the cancellation says of a request that is cut when the host stops


class ResponseCutError(Exception):
    """A response that had begun could not be completed; whatever caused it has been logged. Ends the connection."""


class _NotLoggedTwice(logging.Filter):
    """Drops the server's own record of what the edge has logged already, or what stops the server."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, ResponseCutError) or (isinstance(error, CancelledError) and CUT in error.args):
            return False
        text = record.getMessage()
        if text == "ASGI callable returned without completing handshake.":
            # Of a WebSocket that the edge has refused, which anybody may ask for.
            return not getattr(current_request.get(), "reason", "")
        return text != "Invalid HTTP request received."


def style_for(settings: Logging, stream_is_terminal: bool) -> Literal["json", "console"]:
    if settings.format == "auto":
        return "console" if stream_is_terminal else "json"
    return settings.format


@contextmanager
def configured(settings: Logging, stream: LogStream, *, terminal: bool, colour: bool) -> Iterator[None]:
    """Route the process's logging to `stream` as the manifest says; leaving puts back what stood before."""
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
    """The process's real standard error, whatever `sys.stderr` was replaced with."""
    return LogStream(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
