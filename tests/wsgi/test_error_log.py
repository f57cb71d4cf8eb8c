"""`wsgi.errors`: what an application writes comes out in records that belong together."""

import logging
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.wsgi.error_log import ErrorLog


@pytest.fixture
def messages(caplog: Any) -> Any:
    """The messages of the records so far."""

    def logged() -> list[str]:
        records = [record for record in caplog.records if record.name == "pywatt.wsgi"]
        assert {record.levelno for record in records} <= {logging.ERROR}
        return [record.getMessage() for record in records]

    return logged


def fail() -> None:
    try:
        raise KeyError("first\nin two lines")
    except KeyError as error:
        raise ValueError("second") from error


def test_a_traceback_in_one_write_is_one_record(messages: Any) -> None:
    try:
        fail()
    except ValueError:
        text = traceback.format_exc()
    errors = ErrorLog()
    errors.write("request failed\n" + text)
    errors.flush()
    (record,) = messages()
    assert record == "request failed\n" + text.rstrip("\n")


@pytest.mark.parametrize("ends", ["flush", "next line", "next traceback"])
def test_a_traceback_that_is_written_line_by_line_is_one_record(messages: Any, ends: str) -> None:
    errors = ErrorLog()
    try:
        fail()
    except ValueError:
        text = traceback.format_exc().rstrip("\n")
        traceback.print_exc(file=errors)
    assert messages() == [], "the traceback may go on"
    assert errors.unwritten
    if ends == "flush":
        errors.flush()
        assert messages() == [text]
    elif ends == "next line":
        print("the next request", file=errors)
        assert messages() == [text, "the next request"]
    else:
        print("Traceback (most recent call last):\n  File x\nKeyError: 1", file=errors)
        errors.flush()
        assert "".join(messages()).count("Traceback") == 3
        assert not errors.unwritten


def test_each_line_of_a_traceback_in_a_write_of_its_own_is_one_record(messages: Any) -> None:
    errors = ErrorLog()
    lines = [
        "Traceback (most recent call last):",
        '  File "app.py", line 1, in app',
        "    1 / 0",
        "ZeroDivisionError: /",
    ]
    for line in lines:
        errors.write(line)
        errors.write("\r\n")
    errors.write("after")
    errors.flush()
    assert messages() == ["\n".join(lines), "after"]


def test_a_group_of_exceptions_is_one_record(messages: Any) -> None:
    errors = ErrorLog()
    try:
        raise ExceptionGroup("both", [ValueError("a"), KeyError("b")])
    except ExceptionGroup:
        traceback.print_exc(file=errors)
        text = traceback.format_exc()
    errors.flush()
    assert messages() == [text.strip("\n")]


def test_lines_of_one_write_are_one_record_and_writes_that_end_a_line_are_records_of_their_own(messages: Any) -> None:
    errors = ErrorLog()
    errors.write("a\n  b\n")
    errors.write("c")
    errors.write("d\ne")
    assert messages() == ["a\n  b", "cd"]
    errors.flush()
    errors.flush()
    assert messages() == ["a\n  b", "cd", "e"]


def test_blank_lines_are_no_record(messages: Any) -> None:
    errors = ErrorLog()
    for text in ("", "\n", "\r\n", "  \n", "\n\n", " "):
        errors.write(text)
        errors.flush()
    assert messages() == []
    assert not errors.unwritten


def test_text_without_a_line_end_comes_out_at_the_end_of_the_request_also_where_the_application_raises(
    drive: Any, client: Any, messages: Any
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.errors"].write("about to fail")
        raise KeyError("failed")

    async def scenario(bridge: Any) -> None:
        with pytest.raises(KeyError):
            await client().call(bridge)

    drive(app, scenario)
    assert messages() == ["about to fail"]


def test_a_very_long_text_becomes_records_of_bounded_length(messages: Any) -> None:
    errors = ErrorLog()
    errors.write("Traceback (most recent call last):\n" + "  a line of it\n" * 10_000)
    errors.write("x" * 200_000 + "\n")
    errors.flush()
    assert "".join(messages()).count("a line of it") == 10_000
    assert "".join(messages()).count("x") == 200_000
    assert max(map(len, messages())) <= 64 * 1024


@given(st.lists(st.sampled_from(["a", " b", "\n", "\r\n", "Traceback (most recent call last):", "\n\n", None])))
def test_no_text_is_lost_and_no_record_is_empty(pieces: Any) -> None:
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pywatt.wsgi")
    logger.addHandler(handler)
    try:
        errors = ErrorLog()
        for piece in pieces:
            errors.flush() if piece is None else errors.write(piece)
        errors.flush()
    finally:
        logger.removeHandler(handler)
    assert all(record.strip() for record in records)
    assert "".join("".join(records).split()) == "".join("".join(filter(None, pieces)).split())
