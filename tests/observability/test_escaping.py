"""No text of a client breaks a log line: not in the access log, not in a record, not in JSON and not on a terminal."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.http.accesslog import LineAccessLog
from pywatt_host.http.exchange import Plan, WrappedExchange
from pywatt_host.messaging.context import MessageContext
from pywatt_host.observability.context import current_request
from pywatt_host.observability.escaping import console_text, json_line, json_text
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import RecordFormatter
from pywatt_host.observability.metrics import NoCells

HOSTILE = {
    "line feed": "a\nb",
    "carriage return": "a\rb",
    "both and a forged line": 'a\r\n{"level":"info"}',
    "quote": 'a"b',
    "backslash": "a\\",
    "escape": "a\x1b[2Jb",
    "bell": "a\x07b",
    "nul": "a\x00b",
    "delete": "a\x7fb",
    "control sequence introducer": "a\x9b2Jb",
    "next line": "a\x85b",
    "vertical tab": "a\x0bb",
    "form feed": "a\x0cb",
    "file separator": "a\x1cb",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "high surrogate": "a\ud800b",
    "low surrogate": "a\udfff",
    "not a character": "a\uffffb",
    "right to left": "a\u202eb",
    "beyond the plane": "a\U0001f600b",
}
# A record may hold any text of a client in its message, and in any of its fields.
ANY = st.text(st.characters(codec=None))  # lone surrogates, too
PLACES = ("method", "path", "client", "subject", "reason", "request_id")


@dataclass(frozen=True)
class Verified:
    """The verdict on a good credential."""

    subject: str
    status: int = 200
    reason: str = ""
    is_guess: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    claims: dict[str, Any] = field(default_factory=dict)


async def _nowhere(message: Any) -> None: ...


def access_line(style: Any, place: str, text: str) -> bytes:
    with tempfile.TemporaryFile() as file:
        log = LineAccessLog(LogStream(file.fileno()), style, ())
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        exchange = WrappedExchange(scope, _nowhere)
        exchange.plan, exchange.observe = Plan("/r", NoCells()), lambda done: log.write([done])
        exchange.client, exchange.request_id, exchange.status = "203.0.113.9", b"r1", 200
        if place == "subject":
            exchange.identity = Verified(text)
        elif place == "request_id":
            exchange.request_id = text.encode("utf-8", "surrogatepass")
        else:
            setattr(exchange, place, text)
        exchange.finish()
        return os.pread(file.fileno(), 1 << 16, 0)


def record_line(style: Any, text: str) -> bytes:
    record = logging.LogRecord("pywatt.edge", logging.WARNING, "f", 1, "%s of %r", (text, "x"), None)
    record.peer, record.target, record.topic = text, [text], {text: text}
    return RecordFormatter(style, (), colour=False).format(record)


def is_one_line(line: bytes) -> None:
    text = line.decode()  # valid UTF-8
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert not [char for char in text[:-1] if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", PLACES)
def test_an_access_line_is_one_line_whatever_a_client_sends(place: str, text: str) -> None:
    line = access_line("json", place, text)
    is_one_line(line)
    document = json.loads(line)
    assert document["status"] == 200
    if place != "request_id":
        assert document[place] == text.encode("utf-8", "backslashreplace").decode()
    console = access_line("console", place, text)
    is_one_line(console)
    assert console.decode()[:-1].isprintable()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_record_is_one_line_whatever_a_client_sends(text: str) -> None:
    line = record_line("json", text)
    is_one_line(line)
    assert text.encode("utf-8", "backslashreplace").decode() in json.loads(line)["message"]
    console = record_line("console", text)
    is_one_line(console)
    assert console.decode()[:-1].isprintable()


@given(text=ANY, place=st.sampled_from(PLACES), style=st.sampled_from(["json", "console"]))
def test_any_text_in_any_place_makes_one_line(text: str, place: str, style: str) -> None:
    is_one_line(access_line(style, place, text))
    is_one_line(record_line(style, text))


@given(text=st.text())
def test_what_is_escaped_for_json_is_read_as_it_was(text: str) -> None:
    assert json.loads(f'"{json_text(text)}"') == text
    assert json.loads(json_line({"text": text, "more": [text]})) == {"text": text, "more": [text]}


@given(text=ANY)
def test_text_for_a_terminal_can_be_printed_but_for_what_is_kept(text: str) -> None:
    assert console_text(text).isprintable()
    assert {char for char in console_text(text, keep="\t") if not char.isprintable()} <= {"\t"}


def test_the_request_id_of_a_message_may_be_any_octets() -> None:
    token = current_request.set(MessageContext(b"\xff\n\x1b"))
    try:
        for style in ("json", "console"):
            is_one_line(record_line(style, "x"))
    finally:
        current_request.reset(token)


def test_the_message_of_an_exception_neither_forges_a_record_nor_steers_the_terminal() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("a\n12:00:00.000 info pywatt.access: GET /forged 200\x1b[2J") from first
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "bad", (), (type(error), error, error.__traceback__))
    lines = RecordFormatter("console", (), colour=False).format(record).decode().split("\n")
    assert lines[1] == "Traceback (most recent call last):"
    assert "The above exception was the direct cause of the following exception:" in lines
    assert lines[-3:] == ["ValueError: a", "  12:00:00.000 info pywatt.access: GET /forged 200\\x1b[2J", ""]
    is_one_line(RecordFormatter("json", (), colour=False).format(record))
