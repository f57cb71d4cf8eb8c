"""Log records: one line each, valid whatever they hold, redacted, and never in the way of who logs."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.escaping import json_line
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import Clock, RecordFormatter, configured, style_for


class Log:
    """Where a configured process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def lines(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@contextmanager
def logging_to(
    path: Path, *, terminal: bool = False, colour: bool = False, short_tracebacks: bool = False, **settings: Any
) -> Iterator[Log]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shown: dict[str, Any] = {"terminal": terminal, "colour": colour, "short_tracebacks": short_tracebacks}
    try:
        with configured(Logging(**settings), LogStream(fd), **shown):
            yield Log(path)
    finally:
        os.close(fd)


def test_a_record_is_one_json_object_with_its_extras(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log") as log:
        logging.getLogger("shop").warning(
            "sold %d", 3, extra={"shop": "a", "level": "forged", "items": [1, {"x": None}]}
        )
        (record,) = log.records
        assert record.pop("time")[-1] == "Z"
        assert record == {
            "level": "warning",
            "logger": "shop",
            "message": "sold 3",
            "shop": "a",
            "items": [1, {"x": None}],
        }


def test_a_traceback_is_a_field_and_line_ends_stay_inside_the_line(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log") as log:
        try:
            raise ValueError("a\nb")
        except ValueError:
            logging.getLogger("x").exception("bad\n{}")
        (record,) = log.records
        assert record["message"] == "bad\n{}"
        assert record["exception"].startswith("Traceback")
        assert record["exception"].endswith("ValueError: a\nb")


def test_levels_are_the_manifests_and_put_back_afterwards(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, root.handlers[:], logging.getLogger("noisy").level)
    with logging_to(tmp_path / "log", level="warning", loggers={"noisy": "error", "chatty": "debug"}) as log:
        for name in ("x", "noisy", "chatty"):
            for level in ("debug", "info", "warning", "error"):
                getattr(logging.getLogger(name), level)(f"{name} {level}")
        assert [record["message"] for record in log.records] == [
            *("x warning", "x error", "noisy error"),
            *("chatty debug", "chatty info", "chatty warning", "chatty error"),
        ]
    assert (root.level, root.handlers, logging.getLogger("noisy").level) == before


def test_warnings_become_records(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(tmp_path / "log") as log:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            assert log.records[0]["logger"] == "py.warnings"


def test_named_fields_are_redacted_at_any_depth_and_in_any_case(tmp_path: Path) -> None:
    fields = {
        "Authorization": "Bearer hunter2",
        "request": {"headers": [{"AUTHORIZATION": "hunter2"}, ("password", {"password": "hunter2"})]},
        "kept": "yes",
    }
    for style in ("json", "console"):
        with logging_to(tmp_path / style, format=style, redact=("authorization", "Password")) as log:
            logging.getLogger("x").warning("seen", extra=fields)
            (line,) = log.lines
            assert "hunter2" not in line
            assert "***" in line
            assert "yes" in line


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    ["\ud800", 10**40, float("nan"), {1: {2: 3}}, {("a", "b"): 1}, b"\xff", object(), {"\ud800": 1}, CYCLE, Path("/x")],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("redact", [(), ("password",)])
def test_any_value_makes_one_valid_line(tmp_path: Path, value: Any, redact: tuple[str, ...]) -> None:
    with logging_to(tmp_path / "log", redact=redact) as log:
        logging.getLogger("x").warning("odd", extra={"value": value})
        (record,) = log.records
        assert "odd" in record["message"]


def test_a_record_that_cannot_be_formatted_is_told_and_its_caller_goes_on(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log") as log:
        logging.getLogger("x").warning("%d items", "many")
        logging.getLogger("x").warning("odd %s", Unprintable())
        logging.getLogger("x").warning("odd", extra={"value": Unprintable()})
        assert len(log.records) == 3
        assert "%d items" in log.records[0]["message"]


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4), max_size=4
    )
)
def test_a_dumped_line_is_one_valid_line(document: dict[str, Any]) -> None:
    line = json_line(document)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    json.loads(line)


@given(st.text())
def test_no_message_forges_a_console_line_or_steers_the_terminal(text: str) -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s", (text,), None)
    record.extra = text
    line = RecordFormatter("console", (), colour=False).format(record).decode()
    assert len(line.splitlines()) == 1
    assert line[:-1].isprintable()


def test_the_format_follows_the_terminal_unless_it_is_said() -> None:
    assert [style_for(Logging(), terminal) for terminal in (True, False)] == ["console", "json"]
    assert style_for(Logging(format="json"), True) == "json"
    assert style_for(Logging(format="console"), False) == "console"


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    for colour in (True, False):
        with logging_to(tmp_path / str(colour), terminal=True, colour=colour) as log:
            logging.getLogger("x").error("no")
            assert ("\x1b[31merror\x1b[0m" in log.lines[0]) == colour


def test_times_are_utc_with_milliseconds() -> None:
    clock = Clock()
    times = [clock(second) for second in (0.0, 0.001, 0.9996, 1.0, 1_700_000_000.125, 0.0)]
    assert times == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.001Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "2023-11-14T22:13:20.125Z",
        "1970-01-01T00:00:00.000Z",
    ]


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log") as log:

        def work(number: int) -> None:
            for _ in range(100):
                logging.getLogger("x").warning(str(number) * 500)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(record["message"][0] for record in log.records) == sorted("01234567" * 100)


@pytest.mark.parametrize(
    ("settings", "shown"), [({}, False), ({"level": "debug"}, True), ({"loggers": {"httpx": "info"}}, True)]
)
def test_each_request_of_the_http_client_is_a_line_only_where_it_is_wanted(
    tmp_path: Path, settings: dict[str, Any], shown: bool
) -> None:
    with logging_to(tmp_path / "log", **settings) as log:
        logging.getLogger("httpx").info("HTTP Request: GET http://x/")
        assert bool(log.lines) is shown
