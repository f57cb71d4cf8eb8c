"""Random connections: what holds for every input. `python -m tests.http.server.fuzz SECONDS` runs for longer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.http.server.fuzz import CORPUS, Fuzz, FuzzError, mutated


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    logger = logging.getLogger("pywatt.server")
    logger.disabled = True
    loop = asyncio.new_event_loop()
    yield Fuzz(loop)
    loop.close()
    logger.disabled = False


def test_each_case_of_the_suite_is_read_the_same_in_pieces(fuzz: Fuzz) -> None:
    rng = random.Random(1)
    for data in CORPUS:
        fuzz.check(data, rng)
    assert fuzz.compared > 50


@given(seed=st.integers(0, 2**64 - 1))
def test_random_changes_break_nothing(fuzz: Fuzz, seed: int) -> None:
    rng = random.Random(seed)
    fuzz.check(mutated(rng), rng)


def test_an_application_that_sees_another_request_than_was_sent_is_found(fuzz: Fuzz) -> None:
    """The comparison is one that can fail."""
    outcome = fuzz._run([(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 0)])
    with pytest.raises(FuzzError):
        fuzz._compare(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", outcome)
