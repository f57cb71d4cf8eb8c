"""A rotated URL or password: the new pool first, then the swap, then what ran on the old one to its end."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]
import pytest

from pywatt_host.exceptions import SecretError, StoreError
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.kinds import StoreContext
from tests.hosting import hello, hosted, run
from tests.servers import PASSWORD, Server
from tests.stores.opening import database_of

ROLE = "rotating"


async def as_owner(server: Server, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def role(server: Server, password: str) -> None:
    there = f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; END IF"
    await as_owner(server, f"DO $$ BEGIN {there}; END $$", f"ALTER ROLE {ROLE} PASSWORD '{password}'")


def url_of(server: Server, password: str) -> str:
    return server.url.replace(f"tester:{quote(PASSWORD, safe='')}", f"{ROLE}:{quote(password, safe='')}")


def database(server: Server, tmp_path: Path, **options: Any) -> Database:
    options = {"pool": {"min": 0, "max": 3, "timeout": "3s"}, **options}
    return database_of(server.url, StoreContext(tmp_path, "tests"), rotates=True, **options)


def test_what_runs_on_the_old_pool_comes_to_its_end(postgres_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        await role(postgres_server, "one")
        db = database(postgres_server, tmp_path)
        await db.open(url_of(postgres_server, "one"))
        async with db.transaction() as connection:
            old = await connection.fetchval("SELECT pg_backend_pid()")
            await role(postgres_server, "t@/#%wo")
            db.swap(await db.replacement(url_of(postgres_server, "t@/#%wo")))
            assert await db.fetchval("SELECT pg_backend_pid()") != old
            assert await connection.fetchval("SELECT pg_backend_pid()") == old
        await asyncio.gather(*db._draining)
        assert await db.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", old) == 0
        await db.close(1)

    run(main)


def test_a_new_pool_that_cannot_connect_leaves_the_old_one(postgres_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        await role(postgres_server, "one")
        db = database(postgres_server, tmp_path, pool={"min": 0, "max": 3, "timeout": "500ms"})
        await db.open(url_of(postgres_server, "one"))
        with pytest.raises(StoreError) as caught:
            await db.replacement(url_of(postgres_server, "another"))
        assert caught.value.code == "authentication"
        assert "another" not in str(caught.value)
        assert await db.fetchval("SELECT 1") == 1
        await db.close(1)

    run(main)


def test_who_is_refused_waits_for_the_rotation_that_is_on_its_way(postgres_server: Server, tmp_path: Path) -> None:
    """The server has the new password already, and the secret comes later."""

    async def main() -> None:
        await role(postgres_server, "one")
        db = database(postgres_server, tmp_path)
        await db.open(url_of(postgres_server, "one"))
        await role(postgres_server, "two")
        waiting = [asyncio.create_task(db.fetchval("SELECT 1")) for _ in range(5)]
        await asyncio.sleep(0.4)
        assert not any(task.done() for task in waiting)
        db.swap(await db.replacement(url_of(postgres_server, "two")))
        assert await asyncio.gather(*waiting) == [1] * 5
        await db.close(1)

    run(main)


def test_a_secret_may_come_before_the_server_knows_it(postgres_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        await role(postgres_server, "one")
        db = database(postgres_server, tmp_path)
        await db.open(url_of(postgres_server, "one"))
        coming = asyncio.create_task(db.replacement(url_of(postgres_server, "two")))
        await asyncio.sleep(0.4)
        await role(postgres_server, "two")
        db.swap(await coming)
        assert await db.fetchval("SELECT 1") == 1
        await db.close(1)

    run(main)


def test_without_a_rotation_in_sight_a_wrong_password_is_said_at_once(postgres_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        await role(postgres_server, "one")
        db = database_of(postgres_server.url, StoreContext(tmp_path, "tests"))
        await db.open(url_of(postgres_server, "wrong"))
        async with asyncio.timeout(2):
            with pytest.raises(StoreError) as caught:
                await db.fetchval("SELECT 1")
        assert caught.value.code == "authentication"
        await db.close(1)

    run(main)


def test_the_host_rotates_its_stores_and_says_what_it_refuses(
    postgres_server: Server, valkey_server: Server, tmp_path: Path
) -> None:
    """By changed files, as a mounted secret changes."""

    async def main() -> None:
        await role(postgres_server, "one@/")
        (tmp_path / "PASSWORD").write_text("one@/")
        (tmp_path / "NUMBER").write_text("0")
        url = re.sub(r"//[^@]*@", "//rotating:${secret:PASSWORD}@", postgres_server.url)
        cache_url = f"redis://127.0.0.1:{valkey_server.port}/?db=${{secret:NUMBER}}"
        manifest = {
            "secrets": {"rotate": True, "sources": [{"directory": str(tmp_path)}], "interval": "50ms"},
            "databases": {"default": {"url": SecretTemplate.parse(url), "pool": {"min": 0, "timeout": "400ms"}}},
            "caches": {"default": {"url": SecretTemplate.parse(cache_url)}},
        }
        async with hosted(manifest, hello) as host:
            db, cache = host.state.db, host.state.cache
            await cache.set("where", 0)
            await role(postgres_server, "two#%")
            (tmp_path / "PASSWORD").write_text("two#%")
            (tmp_path / "NUMBER").write_text("1")
            await host.host.rotation.rotate(["PASSWORD", "NUMBER"], "a test")
            assert await db.fetchval("SELECT 1") == 1
            assert await cache.get("where") is None  # another database of the server
            await cache.set("where", 1)
            # A value with which nothing connects is refused as a whole.
            (tmp_path / "PASSWORD").write_text("a wrong one")
            (tmp_path / "NUMBER").write_text("0")
            with pytest.raises(SecretError, match=r"databases\.default: postgresql://rotating:\*\*\*@") as caught:
                await host.host.rotation.rotate(["PASSWORD", "NUMBER"], "a test")
            assert "a wrong one" not in str(caught.value)
            assert await cache.get("where") == 1
            assert await db.fetchval("SELECT 1") == 1
            with pytest.raises(SecretError):
                host.host.rotation.check()

    run(main)
