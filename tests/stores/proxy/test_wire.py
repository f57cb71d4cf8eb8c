"""Values on their way to an orchestrator and back."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.proxy.wire import error_of, error_text, pack, pack_rows, unpack, unpack_arguments, unpack_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$type", "value", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["$type", "rows", "args"]), inner),
    max_leaves=10,
)
VALUES = st.one_of(
    JSON, st.integers(), st.binary(), st.floats(allow_nan=False), st.decimals(allow_nan=False), st.uuids(), st.dates(),
    st.datetimes(), st.datetimes(timezones=st.just(__import__("datetime").UTC)), st.times(),
)  # fmt: skip


@given(VALUES)
def test_values_come_back_as_they_were(value: object) -> None:
    found = unpack(orjson.loads(orjson.dumps(pack(value, "s"))), "s")
    assert found == value
    assert type(found) is type(value)


@given(ANYTHING)
def test_whatever_a_peer_sends_is_a_value_or_an_error_of_ours(document: object) -> None:
    for read in (lambda: unpack(document, "s"), lambda: unpack_rows(document, "s")):
        try:
            read()
        except StoreError:
            pass
    if isinstance(document, dict):
        try:
            unpack_arguments(document, "s")
        except StoreError:
            pass


@pytest.mark.parametrize(
    "document",
    [{"$type": "decimal", "value": "x"}, {"$type": "nonsense"}, {}, {"$type": "bytes", "value": "?"}, {"$type": ["a"]}],
)
def test_a_value_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(StoreError) as caught:
        unpack(document, "s")
    assert caught.value.code == "arguments"


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(StoreError, match="a value of type object cannot be sent"):
        pack(object(), "s")


def test_rows_and_errors() -> None:
    rows = [Row({"a": 0, "b": 1}, (1, b"x")), Row({"a": 0, "b": 1}, (2, None))]
    assert unpack_rows(orjson.loads(orjson.dumps(pack_rows(rows, "s"))), "s") == rows
    assert unpack_rows(pack_rows([], "s"), "s") == []
    error = error_of("databases.a", error_text(StoreError("databases.b", "integrity", "unique: no")))
    assert (error.store, error.code, error.message) == ("databases.a", "integrity", "unique: no")
    assert error_of("databases.a", "something: else").code == "statement"
