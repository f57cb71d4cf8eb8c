"""What a span says about a statement: never one of its values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.stores.summary import _DIALECTS, LONGEST_TEXT, summarise, without_values

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("kind", "statement", "text", "short"),
    [
        (
            "postgresql",
            "SELECT * FROM users u JOIN orders o ON o.u = u.id WHERE n = 'A''da' AND age > 36.5e3 AND x = $1 -- hers",
            "SELECT * FROM users u JOIN orders o ON o.u = u.id WHERE n = ? AND age > ? AND x = $1",
            "SELECT users orders",
        ),
        (
            "postgresql",
            r"INSERT INTO orders (id, x) VALUES (1, E'a\'b', $$c$$, $t$d$t$) ON CONFLICT DO UPDATE SET x = 2",
            "INSERT INTO orders (id, x) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET x = ?",
            "INSERT orders",
        ),
        (
            "mysql",
            r'INSERT INTO `orders` VALUES ("it\"s", 0xAF, -1) ON DUPLICATE KEY UPDATE id = 3 # more',
            "INSERT INTO `orders` VALUES (?, ?, -?) ON DUPLICATE KEY UPDATE id = ?",
            "INSERT orders",
        ),
        (
            "sqlite",
            'CREATE TABLE IF NOT EXISTS "my notes" (id INTEGER PRIMARY KEY) /* of 1999 */',
            'CREATE TABLE IF NOT EXISTS "my notes" (id INTEGER PRIMARY KEY)',
            "CREATE my notes",
        ),
        (
            "postgresql",
            "WITH a AS (SELECT id FROM t1)\n  SELECT * FROM a, generate_series(1, 2) FOR UPDATE",
            "WITH a AS (SELECT id FROM t1) SELECT * FROM a, generate_series(?, ?) FOR UPDATE",
            "SELECT t1 a",
        ),
        (
            "postgresql",
            "select * from public.users where id = :id and z::int = 5 and note = 'not terminated",
            "select * from public.users where id = :id and z::int = ? and note = ?",
            "SELECT public.users",
        ),
        ("postgresql", "/* a /* b */ 'c' */ UPDATE users SET n = 'd'", "UPDATE users SET n = ?", "UPDATE users"),
        ("sqlite", "DELETE FROM t1 WHERE a2 = 5;", "DELETE FROM t1 WHERE a2 = ?;", "DELETE t1"),
        ("sqlite", "BEGIN", "BEGIN", "BEGIN"),
        ("orchestrator", "SELECT 'x' FROM users", "", "SELECT"),
    ],
)
def test_a_statement_keeps_names_and_placeholders_and_loses_values_and_comments(
    kind: str, statement: str, text: str, short: str
) -> None:
    summary = summarise(kind, statement)
    assert summary.text == text
    assert summary.short == short


@given(
    st.sampled_from(["postgresql", "mysql", "sqlite"]),
    st.text(max_size=60),
    st.sampled_from(["SELECT {} FROM t", "INSERT INTO t VALUES (1, {}, $1)", "UPDATE t SET a = {} WHERE b = 2"]),
)
def test_no_string_leaves_a_statement(kind: str, secret: str, pattern: str) -> None:
    """Whatever a string contains, also quotes, comment signs and backslashes, as long as it is written correctly."""
    value = f"x{SECRET}{secret}{SECRET}x".replace("'", "''")
    if kind == "mysql":
        value = value.replace("\\", "\\\\")
    summary = summarise(kind, pattern.replace("{}", f"'{value}'"))
    assert SECRET not in summary.text
    assert SECRET not in summary.short


def test_a_long_statement_is_cut_and_what_is_cut_within_a_string_does_not_show() -> None:
    summary = summarise("sqlite", "SELECT " + "a, " * 5000 + f"'{SECRET}' FROM t")
    assert len(summary.text) == LONGEST_TEXT
    summary = summarise("sqlite", "SELECT '" + SECRET * 5000 + "' FROM t")
    assert summary.text == "SELECT ?"


@pytest.mark.parametrize(
    ("kind", "statement", "text"),
    [
        ("sqlite", 'SELECT * FROM "users" WHERE token = "s3cret"', 'SELECT * FROM "users" WHERE token = ?'),
        ("sqlite", 'INSERT INTO "a b" VALUES ("s3cret")', 'INSERT INTO "a b" VALUES (?)'),
        ("sqlite", 'SELECT u."name" FROM "main"."users" AS "u"', 'SELECT u."name" FROM "main"."users" AS "u"'),
        ("sqlite", 'PRAGMA key = "s3cret"', "PRAGMA key = ?"),
        ("sqlite", "SELECT ?1, :1, @1", "SELECT ?1, :1, @1"),
        ("postgresql", 'SELECT "name" FROM "users"', 'SELECT "name" FROM "users"'),
        ("postgresql", "SELECT a[1:99123], b=@4242", "SELECT a[?:?], b=@?"),
    ],
)
def test_what_may_be_a_value_is_replaced(kind: str, statement: str, text: str) -> None:
    assert without_values(_DIALECTS[kind], statement) == text
