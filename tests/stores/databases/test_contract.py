"""One contract for every database: the same calls, placeholders, values and errors, whatever keeps them."""

from __future__ import annotations

import asyncio
import copy
import datetime
import pickle
import time
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.database import Database, Row
from tests.processes import allowed
from tests.stores.opening import opened

KINDS = ["sqlite", "postgresql", "mysql", "orchestrator"]
_SERVERS = {"postgresql": "postgres_server", "mysql": "maria_server"}

# Portable name of a type -> how each writes it.
TYPES: dict[str, dict[str, str]] = {
    "int": {"sqlite": "INTEGER", "postgresql": "bigint", "mysql": "BIGINT"},
    "float": {"sqlite": "REAL", "postgresql": "double precision", "mysql": "DOUBLE"},
    "decimal": {"sqlite": "DECIMAL TEXT", "postgresql": "numeric(30,10)", "mysql": "DECIMAL(30,10)"},
    "text": {"sqlite": "TEXT", "postgresql": "text", "mysql": "LONGTEXT"},
    "bytes": {"sqlite": "BLOB", "postgresql": "bytea", "mysql": "LONGBLOB"},
    "bool": {"sqlite": "BOOLEAN", "postgresql": "boolean", "mysql": "BOOLEAN"},
    "date": {"sqlite": "DATE", "postgresql": "date", "mysql": "DATE"},
    "datetime": {"sqlite": "TIMESTAMP", "postgresql": "timestamptz", "mysql": "TIMESTAMP(6) NULL"},
    "naive": {"sqlite": "DATETIME", "postgresql": "timestamp", "mysql": "DATETIME(6)"},
    "uuid": {"sqlite": "UUID", "postgresql": "uuid", "mysql": "CHAR(36)"},
    "json": {"sqlite": "JSON", "postgresql": "jsonb", "mysql": "JSON"},
}
SOME_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
SOME_TIME = datetime.datetime(2026, 2, 28, 23, 59, 59, 123456, datetime.timezone(datetime.timedelta(hours=5)))
VALUES: list[tuple[str, Any]] = [
    ("int", 0), ("int", -(2**63)), ("int", 2**63 - 1), ("int", None),
    ("float", 1.5), ("float", -1e300), ("float", 5e-324),
    ("decimal", Decimal("12345678901234567890.0123456789")), ("decimal", Decimal("-0.1")),
    ("text", ""), ("text", "ä€𝄞 ' \" \\ \n :a $1 %s % ?"), ("text", "x" * 100_000), ("text", None),
    ("bytes", b""), ("bytes", bytes(range(256))), ("bytes", b"%s :a $1 '\\"),
    ("bool", True), ("bool", False), ("bool", None),
    ("date", datetime.date(2024, 2, 29)),
    ("datetime", SOME_TIME), ("naive", datetime.datetime(1999, 12, 31, 1, 2, 3, 4)),
    ("uuid", SOME_UUID),
    ("json", {"a": [1, 2.5, None, {"b": "ä'\\"}]}), ("json", [1, "two"]), ("json", None),
]  # fmt: skip


class Use(Protocol):
    def __call__(self, check: Callable[[Database], Awaitable[None]], **options: Any) -> None: ...


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return "sqlite:///test.db"
    if request.param == "orchestrator":
        return f"proxied:{request.getfixturevalue('postgres_server').url}"
    return str(request.getfixturevalue(_SERVERS[request.param]).url)


@pytest.fixture
def kind(url: str) -> str:
    """Whose SQL it speaks."""
    return url.removeprefix("proxied:").partition(":")[0]


@pytest.fixture
def use(url: str, tmp_path: Path) -> Use:
    """Run a coroutine function with a database; afterwards its pool must be whole."""

    def run(check: Callable[[Database], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            async with opened(url, tmp_path, **options) as database:
                await check(database)
                pool = database.pool
                assert pool is not None
                assert (pool.in_use, pool.waiting) == (0, 0)
                assert pool.backend.size <= pool.max_size
                assert await database.fetchval("SELECT 1") == 1

        asyncio.run(main())

    return run


async def table(database: Database, columns: str = "id INTEGER PRIMARY KEY, v INTEGER") -> None:
    """An empty table `t`."""
    await database.execute("DROP TABLE IF EXISTS t")
    await database.execute(f"CREATE TABLE t ({columns})")


def fails(code: str, words: str = "") -> Any:
    class Raises:
        def __enter__(self) -> None:
            self.caught = pytest.raises(StoreError)
            self.info = self.caught.__enter__()

        def __exit__(self, *error: Any) -> bool:
            done = self.caught.__exit__(*error)
            assert self.info.value.code == code, str(self.info.value)
            assert str(self.info.value).startswith("databases.default: ")
            assert words in str(self.info.value)
            assert "p@ss" not in str(self.info.value)
            assert "p%40ss" not in str(self.info.value)
            return bool(done)

    return Raises()


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), VALUES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(VALUES)])
def test_values_come_back_as_they_were(use: Use, kind: str, name: str, value: Any) -> None:
    async def check(database: Database) -> None:
        await table(database, f"id INTEGER PRIMARY KEY, v {TYPES[name][kind]}")
        await database.execute("INSERT INTO t (id, v) VALUES ($1, $2)", 1, value)
        found = await database.fetchval("SELECT v FROM t WHERE id = :id", id=1)
        if kind == "mysql" and value is not None and name in ("uuid", "json", "bool"):  # docs: what MySQL gives
            expected = {"uuid": str(value), "bool": int(value) if name == "bool" else 0}.get(name)
            if name == "json":
                import json

                expected, found = value, json.loads(found) if isinstance(found, str) else found
            assert found == expected
            return
        assert found == value
        if name != "float" or value != int(value):
            assert isinstance(found, type(value))
        if name == "datetime":
            assert found.tzinfo is not None

    use(check)


def test_a_row_is_a_mapping_and_its_columns_are_attributes(use: Use) -> None:
    async def check(database: Database) -> None:
        row = await database.fetchrow("SELECT 1 AS a, 'x' AS b, 2 AS items")
        assert row is not None
        assert (row["a"], row.b, row[0], row[-1], row["items"]) == (1, "x", 1, 2, 2)
        assert dict(row) == {"a": 1, "b": "x", "items": 2} == row
        assert list(row) == ["a", "b", "items"]
        assert (len(row), "a" in row, "z" in row, row.get("z", 5)) == (3, True, False, 5)
        assert copy.deepcopy(row) == row == pickle.loads(pickle.dumps(row))
        with pytest.raises(AttributeError, match=r"no column 'z' \(columns: a, b, items\)"):
            _ = row.z
        with pytest.raises(KeyError):
            _ = row["z"]
        with pytest.raises(AttributeError):
            row.a = 5  # type: ignore[attr-defined]

    use(check)


def test_fetching(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        assert await database.fetch("SELECT * FROM t") == []
        assert await database.fetchrow("SELECT * FROM t") is None
        assert await database.fetchval("SELECT v FROM t") is None
        assert await database.executemany("INSERT INTO t VALUES ($1, $2)", [(n, n * n) for n in range(10)]) == 10
        assert await database.executemany("INSERT INTO t VALUES (:id, :v)", [{"id": 10, "v": 100}]) == 1
        assert await database.executemany("INSERT INTO t VALUES ($1, $2)", []) == 0
        assert [row.v for row in await database.fetch("SELECT v FROM t ORDER BY id LIMIT 3")] == [0, 1, 4]
        assert await database.fetchval("SELECT id, v FROM t WHERE id = $1", 3, column=1) == 9
        assert await database.fetchval("SELECT id, v FROM t WHERE id = $1", 3, column="v") == 9
        assert await database.execute("UPDATE t SET v = v + 1 WHERE id < $1", 5) == 5
        assert await database.execute("DELETE FROM t WHERE id > $1", 100) == 0
        assert await database.execute("CREATE INDEX t_v ON t (v)") == 0

    use(check)


# Placeholders ---------------------------------------------------------------------------------------------------------


def test_placeholders_are_none_in_literals_names_and_comments(use: Use, kind: str) -> None:
    quoted = "`a:b$1`" if kind == "mysql" else '"a:b$1"'

    async def check(database: Database) -> None:
        row = await database.fetchrow(
            f"SELECT '$1 :a ''quoted'' %s %' AS one, $1 AS {quoted}, 'it''s :x' AS three"
            " /* $3 :y ' */ -- :z $4 '\n, $2 AS four",
            "x",
            "y",
        )
        assert row is not None
        assert list(row.values()) == ["$1 :a 'quoted' %s %", "x", "it's :x", "y"]
        row = await database.fetchrow(
            f"SELECT ':a $1 100%' AS one, :a AS {quoted}, :b AS three, :a AS four", a="A", b="B"
        )
        assert row is not None
        assert list(row.values()) == [":a $1 100%", "A", "B", "A"]
        assert await database.fetchval(
            "SELECT 'a:b %' || '$1 100%s'" if kind != "mysql" else "SELECT 'a:b %$1 100%s'"
        ) in ("a:b %$1 100%s",)

    use(check)


def test_percent_signs_are_themselves(use: Use) -> None:  # D1 of `databases`
    async def check(database: Database) -> None:
        assert await database.fetchval("SELECT 17 % 5") == 2
        assert await database.fetchval("SELECT 17 % $1", 5) == 2
        await table(database, "id INTEGER PRIMARY KEY, v VARCHAR(20)")
        await database.execute("INSERT INTO t VALUES (1, 'banana')")
        assert await database.fetchval("SELECT count(*) FROM t WHERE v LIKE '%nan%' AND id = $1", 1) == 1
        assert await database.fetchval("SELECT count(*) FROM t WHERE v LIKE '%nan%'") == 1

    use(check)


def test_json_in_a_literal_holds_no_placeholder(use: Use) -> None:  # D5 of `databases`
    async def check(database: Database) -> None:
        assert await database.fetchval("""SELECT '{"a":1, "b": ":c"}' AS j""") == '{"a":1, "b": ":c"}'
        assert await database.fetchval("""SELECT '{"a":1}' AS j WHERE 1 = :one""", one=1) == '{"a":1}'

    use(check)


def test_the_same_placeholder_twice_and_in_another_order(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        await database.execute("INSERT INTO t (v, id) VALUES ($2, $1)", 1, 20)
        assert await database.fetchval("SELECT v FROM t WHERE id = $1 OR id = $1", 1) == 20
        assert await database.fetchval("SELECT v FROM t WHERE id = :n OR id = :n", {"n": 1}) == 20

    use(check)


@pytest.mark.parametrize(
    ("query", "args", "named", "said"),
    [
        ("SELECT $1", (), {}, "the statement has $1, but 0 values were given"),
        ("SELECT $1", (1, 2), {}, "the statement has $1, but 2 values were given"),
        ("SELECT $1, $2", (1,), {}, "the statement has $1 to $2, but 1 values were given"),
        ("SELECT 1", (1,), {}, "the statement has no placeholder, but 1 values were given"),
        ("SELECT :a, :b", (), {"a": 1}, "no value was given for :b"),
        ("SELECT :a", ({"a": 1, "b": 2},), {}, "the statement has no :b"),
        ("SELECT :a", (5,), {"a": 1}, "both in order and by name"),
    ],
)
def test_values_that_do_not_fit_the_placeholders_are_said(
    use: Use, query: str, args: tuple[Any, ...], named: dict[str, Any], said: str
) -> None:
    async def check(database: Database) -> None:
        with fails("arguments", said):
            await database.fetch(query, *args, **named)

    use(check)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors_have_the_same_codes(use: Use, kind: str) -> None:
    async def check(database: Database) -> None:
        await table(database, "id INTEGER PRIMARY KEY, v VARCHAR(5) NOT NULL")
        await database.execute("INSERT INTO t VALUES (1, 'a')")
        with fails("integrity"):
            await database.execute("INSERT INTO t VALUES ($1, $2)", 1, "b")
        with fails("integrity"):
            await database.execute("INSERT INTO t VALUES ($1, $2)", 2, None)
        with fails("statement"):
            await database.fetch("SELEKT 1")
        with fails("statement", "nosuch"):
            await database.fetch("SELECT * FROM nosuch")
        with fails("arguments"):
            await database.execute("INSERT INTO t VALUES ($1, $2)", 3, object())
        with fails("arguments"):
            await database.execute("INSERT INTO t VALUES ($1, $2)", 2**80, "a")
        assert await database.fetchval("SELECT count(*) FROM t") == 1

    use(check)


# Transactions ---------------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (1, 1)")
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO t VALUES (2, 2)")
                raise ZeroDivisionError
        async with database.acquire() as connection:
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (3, 3)")
            assert await connection.fetchval("SELECT count(*) FROM t") == 2

    use(check)


def test_a_transaction_within_one_is_a_savepoint(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO t VALUES (1, 1)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (2, 2)")
                    async with connection.transaction():
                        await connection.execute("INSERT INTO t VALUES (3, 3)")
                    raise ZeroDivisionError
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (4, 4)")
            with fails("integrity"):
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (1, 1)")
            with fails("arguments"):
                async with connection.transaction(isolation="serializable"):
                    pass
        assert [row.id for row in await database.fetch("SELECT id FROM t ORDER BY id")] == [1, 4]

    use(check)


def test_many_rows_are_all_or_nothing(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        with fails("integrity"):
            await database.executemany("INSERT INTO t VALUES ($1, $2)", [(1, 1), (2, 2), (1, 3)])
        assert await database.fetchval("SELECT count(*) FROM t") == 0
        async with database.transaction() as connection:
            await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(1, 1), (2, 2)])
        assert await database.fetchval("SELECT count(*) FROM t") == 2

    use(check)


def test_a_readonly_transaction_writes_nothing(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)
        async with database.transaction(readonly=True) as connection:
            assert await connection.fetchval("SELECT count(*) FROM t") == 0
        with fails("read_only"):
            async with database.transaction(readonly=True) as connection:
                await connection.execute("INSERT INTO t VALUES (1, 1)")
        await database.execute("INSERT INTO t VALUES (1, 1)")

    use(check)


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
def test_isolation_levels_are_taken(use: Use, kind: str, isolation: Any) -> None:
    async def check(database: Database) -> None:
        async with database.transaction(isolation=isolation) as connection:
            if kind == "postgresql":
                assert await connection.fetchval("SHOW transaction_isolation") == isolation.replace("_", " ")
            else:
                assert await connection.fetchval("SELECT 1") == 1

    use(check)


def test_transactions_that_read_and_then_write_wait_for_each_other(use: Use) -> None:  # D4 of `databases`
    async def check(database: Database) -> None:
        await table(database)
        await database.execute("INSERT INTO t VALUES (1, 0)")

        async def count() -> None:
            async with database.transaction() as connection:
                before = await connection.fetchval(
                    "SELECT v FROM t WHERE id = 1 FOR UPDATE" if locks else "SELECT v FROM t"
                )
                await connection.execute("UPDATE t SET v = $1 WHERE id = 1", before + 1)

        pool = database.pool
        assert pool is not None
        locks = pool.backend.kind != "sqlite"
        await asyncio.gather(*(count() for _ in range(30)))
        assert await database.fetchval("SELECT v FROM t") == 30

    use(check)


@pytest.mark.parametrize("url", KINDS[:3], indirect=True)  # there a BEGIN by hand is a statement like any other
def test_what_a_block_leaves_open_is_rolled_back(use: Use, kind: str) -> None:
    async def check(database: Database) -> None:
        await table(database)
        async with database.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO t VALUES (1, 1)")
        assert await database.fetchval("SELECT count(*) FROM t") == 0

    use(check)


def test_a_connection_is_for_one_task_and_its_block(use: Use) -> None:
    async def check(database: Database) -> None:
        async with database.acquire() as connection:
            await table(database)
            found = await asyncio.gather(*(connection.fetchval("SELECT 1") for _ in range(3)), return_exceptions=True)
            assert found[0] == 1
            assert {each.code for each in found[1:] if isinstance(each, StoreError)} == {"connection"}
        with fails("connection", "returned to the pool"):
            await connection.fetchval("SELECT 1")

    use(check)


# Streams --------------------------------------------------------------------------------------------------------------


def test_large_results_stream(use: Use, kind: str) -> None:
    async def check(database: Database) -> None:
        await table(database)
        await database.executemany("INSERT INTO t VALUES ($1, $2)", [(n, n) for n in range(1000)])
        seen = [row.id async for row in database.iterate("SELECT id FROM t WHERE v >= $1 ORDER BY id", 10, chunk=64)]
        assert seen == list(range(10, 1000))
        async with database.acquire() as connection:
            async for row in connection.iterate("SELECT id FROM t ORDER BY id"):
                if row.id == 5:
                    with fails("connection", "busy"):
                        await connection.fetchval("SELECT 1")
                    break
        async with database.transaction() as connection:
            assert len([row async for row in connection.iterate("SELECT id FROM t", chunk=300)]) == 1000
            await connection.execute("DELETE FROM t WHERE id < 500")
        assert await database.fetchval("SELECT count(*) FROM t") == 500
        with fails("statement"):
            async for _ in database.iterate("SELECT nonsense FROM t"):
                pass

    use(check)


# Bounds, and what is cut short ----------------------------------------------------------------------------------------

SLEEP = {
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "postgresql": "SELECT pg_sleep(30)",
    "mysql": "SELECT sleep(30)",
}


def test_an_exhausted_pool_says_so_within_its_time(use: Use) -> None:
    async def check(database: Database) -> None:
        async with database.acquire(), database.acquire():
            began = time.monotonic()
            with fails("exhausted", "all 2 are in use (pool.max, pool.timeout)"):
                await database.fetchval("SELECT 1")
            assert 0.2 < time.monotonic() - began < allowed(1.0)
            with fails("exhausted"):
                async with database.acquire(timeout=0.05):
                    pass
            waiting = asyncio.create_task(database.fetchval("SELECT 2"))
            await asyncio.sleep(0)
        assert await waiting == 2  # as soon as one comes back

    use(check, pool={"min": 1, "max": 2, "timeout": "300ms"})


def test_a_statement_has_its_time(use: Use, kind: str) -> None:
    async def check(database: Database) -> None:
        for _ in range(3):
            began = time.monotonic()
            with fails("timeout"):
                await database.fetch(SLEEP[kind])
            assert time.monotonic() - began < allowed(2.0)
        async with database.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1

    use(check, statement_timeout="300ms", pool={"max": 2})


def test_a_statement_that_is_cancelled_leaves_the_pool_and_the_task_usable(use: Use, kind: str) -> None:
    """D2 of `databases`: as many cancels as there are connections, and more."""

    async def check(database: Database) -> None:
        await table(database)

        async def long() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO t VALUES (1, 1)")
                begun.set()
                await connection.fetch(SLEEP[kind])

        for _ in range(7):
            begun = asyncio.Event()
            task = asyncio.create_task(long())
            await begun.wait()
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 10)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await database.fetch(SLEEP[kind])
            assert await database.fetchval("SELECT count(*) FROM t") == 0

    use(check, pool={"max": 3, "timeout": "5s"})


def test_a_cancellation_at_any_moment_loses_no_connection(use: Use) -> None:
    async def check(database: Database) -> None:
        await table(database)

        async def work(number: int) -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO t VALUES ($1, $1)", number)
                async with connection.transaction():
                    await connection.fetch("SELECT * FROM t")

        for number in range(60):
            task = asyncio.create_task(work(number))
            await asyncio.sleep(number * 0.0001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        there = await database.fetchval("SELECT count(*) FROM t")
        assert 0 <= there <= 60
        await database.execute("DELETE FROM t")  # nobody holds a lock

    use(check, pool={"max": 3, "timeout": "5s"})


# Applied once ---------------------------------------------------------------------------------------------------------


def test_the_script_is_applied_once_whoever_comes_first(url: str, kind: str, tmp_path: Path) -> None:
    script = tmp_path / f"schema-{uuid.uuid4().hex}.sql"
    name = f"t_{uuid.uuid4().hex}"
    trigger = (
        f"CREATE TRIGGER {name}_t AFTER INSERT ON {name} BEGIN SELECT 1; SELECT 2; END;" if kind == "sqlite" else ""
    )
    script.write_text(
        f"-- a ; comment\nCREATE TABLE {name} (id INTEGER, v VARCHAR(20));\n{trigger}\n"
        f"INSERT INTO {name} VALUES (1, 'a;b');\n"
    )

    async def use() -> int:
        async with opened(url, tmp_path, init=script) as database:
            return int(await database.fetchval(f"SELECT count(*) FROM {name}"))

    async def main() -> None:
        assert await asyncio.gather(*(use() for _ in range(4))) == [1] * 4
        assert await use() == 1

    asyncio.run(main())


def test_a_script_that_fails_is_tried_again(url: str, tmp_path: Path) -> None:
    script = tmp_path / f"schema-{uuid.uuid4().hex}.sql"
    name = f"t_{uuid.uuid4().hex}"

    async def main() -> None:
        script.write_text(f"CREATE TABLE IF NOT EXISTS {name} (id INTEGER); INSERT INTO nosuch VALUES (1);")
        with fails("statement", "nosuch"):
            async with opened(url, tmp_path, init=script):
                pass
        script.write_text(f"CREATE TABLE IF NOT EXISTS {name} (id INTEGER); INSERT INTO {name} VALUES (1);")
        async with opened(url, tmp_path, init=script) as database:
            assert await database.fetchval(f"SELECT count(*) FROM {name}") == 1

    asyncio.run(main())


def test_a_script_that_changed_later_is_told_and_not_applied(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / f"schema-{uuid.uuid4().hex}.sql"

    async def main() -> None:
        script.write_text("SELECT 1;")
        async with opened(url, tmp_path, init=script):
            pass
        script.write_text("SELECT 1; SELECT 2;")
        async with opened(url, tmp_path, init=script):
            pass

    asyncio.run(main())
    assert "has changed since it was applied" in caplog.text


def test_rows_know_nothing_of_the_driver() -> None:
    row = Row({"a": 0}, (1,))
    assert repr(row) == "<Row a=1>"
    with pytest.raises(TypeError):
        hash(row)
