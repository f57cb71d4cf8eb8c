"""Trace contexts: which `traceparent` is valid, what is read of it, and what is sent on."""

from __future__ import annotations

import re

import pytest

from pywatt_host.observability.context import TraceContext, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-02", 2),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-fd", 1),  # reserved flags are dropped
        (f"01-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-ff-what-the-future-holds", 1),  # of a later version, `sampled` alone is known
        (f"cc-{TRACE}-{SPAN}-00-", 0),
    ],
)
def test_a_valid_traceparent_is_read(value: str, flags: int) -> None:
    assert parse_traceparent(value) == parse_traceparent(value.encode()) == TraceContext(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-1g",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has four fields
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",  # the version that is forbidden
        f"FE-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}\N{ARABIC-INDIC DIGIT ONE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
    ids=ascii,
)
def test_what_is_not_valid_is_no_trace(value: str) -> None:
    assert parse_traceparent(value) is None


def test_bytes_that_are_not_ascii_are_no_trace() -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-01".encode() + b"\xff") is None


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_a_child_has_the_same_trace_and_flags_and_a_new_span(flags: str) -> None:
    trace = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
    assert trace is not None
    first, second = trace.child(), trace.child()
    for child in (first, second):
        assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-{flags}", child)
        assert SPAN not in child
    assert first != second


def test_a_child_of_a_later_version_is_of_the_version_that_is_known() -> None:
    trace = parse_traceparent(f"cc-{TRACE}-{SPAN}-ff-more")
    assert trace is not None
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", trace.child())
