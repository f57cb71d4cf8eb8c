"""What peers can write into our log: little, and nothing that moves a terminal."""

from __future__ import annotations

import logging

import pytest

from pywatt_host.channels.records import BadRecords


def test_a_hundred_a_minute_are_logged_then_how_many_more_there_were(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    records = BadRecords("evil", lambda: now)
    for _ in range(250):
        records.add("it is not JSON", b"x")
    assert len(caplog.records) == 100
    now += 59.9
    records.add("it is not JSON", b"x")
    assert len(caplog.records) == 100
    now += 0.1
    records.add("it is not JSON", b"x")
    assert [each.getMessage() for each in caplog.records[100:]] == [
        "evil: 151 more such records",
        "evil sent data that is not part of the protocol: it is not JSON: x",
    ]
    for _ in range(100):
        records.add("it is not JSON", b"x")
    records.summary()
    records.summary()
    assert [each.getMessage() for each in caplog.records[201:]] == ["evil: 1 more such records"]
    assert records.count == 352
    assert all(each.levelno == logging.WARNING and vars(each)["peer"] == "evil" for each in caplog.records)


def test_what_is_shown_is_escaped_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    records = BadRecords("evil")
    records.add("it is not JSON", b"\x1b[2J\nforged line\x00\xff" + b"y" * 10_000_000)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.isprintable()
    assert text.endswith("...")
    assert len(text) < 300
    assert r"\x1b[2J\nforged line\x00\xff" in text
