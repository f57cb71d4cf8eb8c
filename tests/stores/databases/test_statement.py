"""Placeholders: which words of a statement are some, and what each driver is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.statement import MYSQL, POSTGRESQL, SQLITE, Dialect, arguments_of, bind, statements

ALL = [POSTGRESQL, MYSQL, SQLITE]


@pytest.mark.parametrize(
    ("dialect", "text", "arguments", "bound"),
    [
        (POSTGRESQL, "a = $1 AND b = $2", (1, 2), ("a = $1 AND b = $2", (1, 2))),
        (POSTGRESQL, "a = :b AND c = :a AND d = :b", {"a": 1, "b": 2}, ("a = $1 AND c = $2 AND d = $1", (2, 1))),
        (POSTGRESQL, "x::int = :x", {"x": 1}, ("x::int = $1", (1,))),
        (POSTGRESQL, "a[1:2] = :x", {"x": 1}, ("a[1:2] = $1", (1,))),
        (POSTGRESQL, "$$ :x $1 $$, $t$ $1 $$ :y $t$, :x", {"x": 1}, ("$$ :x $1 $$, $t$ $1 $$ :y $t$, $1", (1,))),
        (POSTGRESQL, r"E'it\'s :x' || :x", {"x": 1}, (r"E'it\'s :x' || $1", (1,))),
        (POSTGRESQL, r"'back\' || :x", {"x": 1}, (r"'back\' || $1", (1,))),
        (POSTGRESQL, "/* a /* :b */ :c */ :x", {"x": 1}, ("/* a /* :b */ :c */ $1", (1,))),
        (POSTGRESQL, "col$1 = $1", (1,), ("col$1 = $1", (1,))),
        (POSTGRESQL, "a ? b = $1 -- $2\n", (1,), ("a ? b = $1 -- $2\n", (1,))),
        (MYSQL, "a = $2 AND b LIKE '%x' AND c = $1", (1, 2), ("a = %s AND b LIKE '%%x' AND c = %s", (2, 1))),
        (MYSQL, "a = :a AND b = :a", {"a": 1}, ("a = %s AND b = %s", (1, 1))),
        (MYSQL, r"'it\'s :x' = :x # :y", {"x": 1}, (r"'it\'s :x' = %s # :y", (1,))),
        (MYSQL, "`a:b` = \"c:d\" -- :y\n AND :x", {"x": 1}, ("`a:b` = \"c:d\" -- :y\n AND %s", (1,))),
        (MYSQL, "5--:x", {"x": 1}, ("5--%s", (1,))),
        (MYSQL, "@a := 5 + :x", {"x": 1}, ("@a := 5 + %s", (1,))),
        (MYSQL, "a % 5", (), ("a % 5", ())),
        (SQLITE, "a = $1 AND [b:c] = $2", (1, 2), ("a = ? AND [b:c] = ?", (1, 2))),
        (SQLITE, "a = :x AND b = ':x'", {"x": 1}, ("a = ? AND b = ':x'", (1,))),
        (SQLITE, "strftime('%H:%M', a) = $1", (1,), ("strftime('%H:%M', a) = ?", (1,))),
        (SQLITE, "'open :x", {}, ("'open :x", ())),
        (SQLITE, "$10 = $1", tuple(range(10)), ("? = ?", (9, 0))),
    ],
)  # fmt: skip
def test_what_a_driver_is_given(
    dialect: Dialect, text: str, arguments: object, bound: tuple[str, tuple[object, ...]]
) -> None:
    assert bind(dialect, text, arguments, "databases.a") == bound  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@given(inside=st.text(alphabet="ab:$1x %-/*\n;", max_size=30), value=st.integers())
def test_nothing_in_a_literal_is_a_placeholder(dialect: Dialect, inside: str, value: int) -> None:
    quoted = "'" + inside + "'"
    text, values = bind(dialect, f"SELECT {quoted}, :x", {"x": value}, "databases.a")
    shown = quoted.replace("%", "%%") if dialect.percent else quoted
    assert text == f"SELECT {shown}, {dialect.mark(1)}"
    assert values == (value,)


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@given(text=st.text(alphabet="ab':$1\"`/*-\n\\[];t ", max_size=60))
def test_any_text_comes_to_an_end_and_without_values_it_is_left_alone(dialect: Dialect, text: str) -> None:
    try:
        assert bind(dialect, text, (), "databases.a") == (text, ())
    except StoreError as error:
        if error.code != "arguments":
            raise
    assert "".join(statements(dialect, text)).count("a") <= text.count("a")


def test_one_mapping_stands_for_names_unless_the_statement_has_positions() -> None:
    assert arguments_of("SELECT :a", ({"a": 1},), {}, "s") == {"a": 1}
    assert arguments_of("SELECT $1", ({"a": 1},), {}, "s") == ({"a": 1},)
    assert arguments_of("SELECT :a", (), {"a": 1}, "s") == {"a": 1}
    assert arguments_of("SELECT $1", (1,), {}, "s") == (1,)


def test_a_script_is_split_outside_of_literals_and_comments() -> None:
    script = "-- first; not\nCREATE TABLE a (b text); ;\n/* ; */ INSERT INTO a VALUES ('x;y');\n# only; a comment\n"
    assert statements(MYSQL, script) == [
        "-- first; not\nCREATE TABLE a (b text)",
        "/* ; */ INSERT INTO a VALUES ('x;y')",
    ]
    assert statements(POSTGRESQL, "DO $$ BEGIN; END $$; SELECT 1") == ["DO $$ BEGIN; END $$", "SELECT 1"]
