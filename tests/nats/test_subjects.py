"""Subjects: any name is one token, and comes back as it was."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.nats.subjects import Subjects, name, token

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


@given(NAMES)
def test_a_name_is_one_token_and_comes_back(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token(text))
    assert name(token(text)) == text


@given(NAMES, NAMES)
def test_who_sent_is_read_from_the_subject(module: str, other: str) -> None:
    ours, theirs = Subjects("p", module), Subjects("p", other)
    assert theirs.source(theirs.message(module)) == other
    assert theirs.source(theirs.work(module)) == other
    assert theirs.source(theirs.event("a.b")) == other
    assert ours.messages.removesuffix("*") == theirs.message(module).rpartition(".")[0] + "."


def test_the_subjects_are_those_that_are_documented() -> None:
    subjects = Subjects("pywatt", "users")
    assert subjects.message("billing") == "pywatt.message.billing.users"
    assert subjects.work("billing") == "pywatt.work.billing.users"
    assert subjects.dead("billing") == "pywatt.dead.users.billing"
    assert subjects.event("orders.created") == "pywatt.event.users.orders.created"
    assert subjects.events("orders.created") == "pywatt.event.*.orders.created"
    assert subjects.entries == "$KV.pywatt-services.>"
    assert token("a.b *>/ü") == "a=2Eb=20=2A=3E=2F=C3=BC"
