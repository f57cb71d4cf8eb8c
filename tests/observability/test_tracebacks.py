"""Tracebacks in `dev`: they begin where the application's code begins."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from json import loads
from pathlib import Path

import pytest

from pywatt_host.observability.tracebacks import short_traceback
from tests.observability.test_logs import logging_to


def raised(call: Callable[[], object]) -> BaseException:
    """What a call raises that the standard library makes."""
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(call).exception()
    assert error is not None
    return error


def broken() -> None:
    raise LookupError("no such poem")


def test_frames_of_libraries_in_front_are_left_out_and_counted() -> None:
    error = raised(lambda: loads("{"))
    *shown, last = short_traceback(error)
    text = "".join(shown)
    assert "/concurrent/" not in text
    assert text.startswith(f'Traceback (most recent call last):\n  File "{__file__}"')
    assert "json/decoder.py" in text  # what the application has called is shown
    assert "outside the application not shown; --log-level debug shows all" in last


def test_causes_and_groups_are_shortened_too() -> None:
    def wrapped() -> None:
        try:
            broken()
        except LookupError as error:
            raise ExceptionGroup("two", [RuntimeError("never raised"), error]) from raised(lambda: int("x"))

    text = "".join(short_traceback(raised(wrapped)))
    assert "/concurrent/" not in text
    for said in ("ValueError: invalid literal", "RuntimeError: never raised", "LookupError: no such poem"):
        assert said in text


def test_a_traceback_without_the_application_is_whole() -> None:
    error = raised(lambda: loads("{"))
    frames = error.__traceback__
    while frames is not None and "/json/" not in frames.tb_frame.f_code.co_filename:
        frames = frames.tb_next
    error = error.with_traceback(frames)
    assert "".join(short_traceback(error)) == "".join(traceback.format_exception(error))


@pytest.mark.parametrize(("level", "whole"), [("info", False), ("debug", True)])
def test_the_level_debug_shows_all(tmp_path: Path, level: str, whole: bool) -> None:
    with logging_to(tmp_path / "log", level=level, short_tracebacks=True) as log:
        logging.getLogger("app").error("bad", exc_info=raised(broken))
        assert ("/concurrent/" in log.records[-1]["exception"]) is whole
