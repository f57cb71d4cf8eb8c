"""What is SQLite's own: files, other processes, a disk that is full."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from pywatt_host.exceptions import StoreError
from tests.processes import allowed
from tests.stores.opening import opened

URL = "sqlite:///app.db"


def test_write_ahead_log_foreign_keys_and_durable_writes(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path) as database:
            assert await database.fetchval("PRAGMA journal_mode") == "wal"
            assert await database.fetchval("PRAGMA foreign_keys") == 1
            assert await database.fetchval("PRAGMA synchronous") == 2
            await database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
            await database.execute("CREATE TABLE b (a INTEGER REFERENCES a)")
            with pytest.raises(StoreError) as caught:
                await database.execute("INSERT INTO b VALUES (5)")
            assert caught.value.code == "integrity"
        async with opened(f"{URL}?synchronous=normal", tmp_path) as database:
            assert await database.fetchval("PRAGMA synchronous") == 1

    asyncio.run(main())


def test_a_database_in_memory_is_one_and_lasts_as_long_as_the_host(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened("sqlite:///:memory:", tmp_path, pool={"timeout": "200ms"}) as database:
            await database.execute("CREATE TABLE t (v INTEGER)")
            await asyncio.gather(*(database.execute("INSERT INTO t VALUES (1)") for _ in range(20)))
            assert await database.fetchval("SELECT count(*) FROM t") == 20
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await database.fetch(
                        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT sum(x) FROM c"
                    )
            assert await database.fetchval("SELECT count(*) FROM t") == 20
            async with database.acquire():
                with pytest.raises(StoreError) as caught:
                    await database.fetchval("SELECT 1")
            assert caught.value.code == "exhausted"

    asyncio.run(main())


def test_a_writer_waits_for_another_process_and_then_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path, pool={"timeout": "300ms"}) as database:
            await database.execute("CREATE TABLE t (v INTEGER)")
            other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(StoreError, match="locked by another process") as caught:
                await database.execute("INSERT INTO t VALUES (1)")
            assert caught.value.code == "timeout"
            assert time.monotonic() - began < allowed(2.0)
            assert await database.fetchval("SELECT count(*) FROM t") == 0  # who reads does not wait
            waiting = asyncio.create_task(database.execute("INSERT INTO t VALUES (2)"))
            await asyncio.sleep(0.1)
            other.execute("COMMIT")
            other.close()
            assert await waiting == 1

    asyncio.run(main())


def test_a_transaction_that_writes_too_long_lets_others_say_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path, pool={"timeout": "200ms"}) as database:
            await database.execute("CREATE TABLE t (v INTEGER)")
            async with database.transaction():
                with pytest.raises(StoreError, match="another transaction has been writing") as caught:
                    await database.execute("INSERT INTO t VALUES (1)")
            assert caught.value.code == "timeout"
            assert await database.execute("INSERT INTO t VALUES (1)") == 1

    asyncio.run(main())


def test_a_full_disk_is_a_clear_error_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path, pool={"min": 1, "max": 1}) as database:
            await database.execute("CREATE TABLE t (v BLOB)")
            await database.fetchval("PRAGMA max_page_count = 40")
            acknowledged = 0
            with pytest.raises(StoreError) as caught:
                for _ in range(1000):
                    async with database.transaction() as connection:
                        await connection.execute("INSERT INTO t VALUES (zeroblob(2000))")
                        await connection.execute("INSERT INTO t VALUES (zeroblob(2000))")
                    acknowledged += 2
            assert caught.value.code == "full"
            assert caught.value.passing
            assert "sqlite:///app.db: database or disk is full" in str(caught.value)
            assert await database.fetchval("SELECT count(*) FROM t") == acknowledged > 0
            await database.execute("DELETE FROM t")
            assert await database.execute("INSERT INTO t VALUES (zeroblob(100))") == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("sqlite:///nowhere/app.db", "unavailable", "there is no directory nowhere; create it"),
        ("sqlite://app.db", "arguments", "sqlite:///app.db"),
        ("sqlite:///app.db?mode=nonsense", "arguments", "mode must be one of ro, rw, rwc"),
        ("sqlite:///app.db?cache=shared", "arguments", "unknown option cache (known: mode, synchronous)"),
        ("sqlite:///app.db?mode=rw", "unavailable", "unable to open"),
        ("sqlite:///text.db", "unavailable", "not a database"),
        ("sqlite:///folder", "unavailable", "unable to open"),
    ],
)
def test_a_file_that_cannot_be_is_said(tmp_path: Path, url: str, code: str, said: str) -> None:
    (tmp_path / "text.db").write_text("this is no database, but a text that is long enough to be told from one\n" * 20)
    (tmp_path / "folder").mkdir()

    async def main() -> None:
        with pytest.raises(StoreError) as caught:
            async with opened(url, tmp_path):
                pass
        assert (caught.value.code, said in str(caught.value)) == (code, True), str(caught.value)

    asyncio.run(main())


def test_a_file_may_be_opened_to_read_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path) as database:
            await database.execute("CREATE TABLE t (v INTEGER)")
        async with opened(f"{URL}?mode=ro", tmp_path) as database:
            assert await database.fetchval("SELECT count(*) FROM t") == 0
            with pytest.raises(StoreError) as caught:
                await database.execute("INSERT INTO t VALUES (1)")
            assert caught.value.code == "read_only"

    asyncio.run(main())


def test_what_does_not_convert_comes_as_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(URL, tmp_path) as database:
            await database.execute("CREATE TABLE t (a TIMESTAMP, b BOOLEAN, c UUID, d JSON, e DECIMAL)")
            await database.execute("INSERT INTO t VALUES ('yesterday', 'maybe', 'no uuid', '{', 'many')")
            row = await database.fetchrow("SELECT * FROM t")
            assert row is not None
            assert tuple(row.values()) == ("yesterday", "maybe", "no uuid", "{", "many")

    asyncio.run(main())
