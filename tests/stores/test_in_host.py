"""Databases and caches as applications see them: by AppState, in threads, when they fail, in metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask

from pywatt_host.app.state import AppState
from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.row import Row
from pywatt_host.types import Receive, Scope, Send
from tests.hosting import hello, hosted, run

STORES = {
    "databases": {"default": "sqlite:///:memory:", "other": "sqlite:///other.db"},
    "caches": {"default": "memory://"},
}


def test_they_are_there_before_the_application_is_made(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def factory(app_state: AppState) -> Any:
        async with app_state.db.acquire() as connection:
            seen.append(await connection.fetchval("SELECT 1"))
        await app_state.cache.set("key", "value", expire=60)
        seen.append(await app_state.cache.get("key"))
        seen.append((sorted(app_state.databases), sorted(app_state.caches)))
        return hello

    async def main() -> None:
        async with hosted(STORES, factory, directory=tmp_path) as host:
            seen.append(await host.state.databases["other"].fetchval("SELECT 2"))
        with pytest.raises(StoreError, match="has not opened it yet, or has closed it"):
            await host.state.db.fetchval("SELECT 1")
        with pytest.raises(StoreError, match="has not opened it yet, or has closed it"):
            await host.state.cache.get("key")

    run(main)
    assert seen == [1, "value", (["default", "other"], ["default"]), 2]


def test_what_is_not_declared_says_what_the_manifest_needs() -> None:
    async def main() -> None:
        async with hosted(app=hello) as host:
            with pytest.raises(StoreError, match=r"the manifest needs `databases: \{default: sqlite:///app.db\}`"):
                _ = host.state.db
            with pytest.raises(StoreError, match=r"the manifest needs `caches: \{default: memory://\}`"):
                _ = host.state.cache
            assert dict(host.state.databases) == {}

    run(main)


def test_threads_use_them_blocking() -> None:
    found: dict[str, Any] = {}

    def work(state: AppState) -> None:
        db, cache = state.sync.db, state.sync.cache
        db.execute("CREATE TABLE t (v INTEGER)")
        db.executemany("INSERT INTO t VALUES (:v)", [{"v": number} for number in range(250)])
        found["rows"] = [row.v for row in db.iterate("SELECT v FROM t ORDER BY v", chunk=100)]
        with db.acquire() as connection, connection.transaction():
            connection.execute("DELETE FROM t WHERE v >= $1", 10)
        with pytest.raises(ZeroDivisionError), db.transaction() as connection:
            connection.execute("DELETE FROM t")
            raise ZeroDivisionError
        with pytest.raises(StoreError), db.transaction() as connection:
            connection.execute("DELETE FROM t")
            connection.execute("NONSENSE")
        found["count"] = state.sync.databases["default"].fetchval("SELECT count(*) FROM t")
        found["row"] = db.fetchrow("SELECT v FROM t WHERE v = $1", 3)
        found["all"] = len(db.fetch("SELECT * FROM t"))
        cache.set("a", 1)
        cache.set_many({"b": 2, "c": 3}, expire=60)
        found["cache"] = (cache.get("a"), cache.get_many(["b", "c", "d"]), cache.exists("d"), cache.increment("a"))
        found["computed"] = (cache.get_or_set("e", lambda: 5), state.sync.caches["default"].get_or_set("e", 6))
        found["deleted"] = cache.delete("a", "zz")
        cache.clear()
        found["cleared"] = cache.get("b", "nothing")

    async def main() -> None:
        async with hosted(
            {"databases": {"default": "sqlite:///:memory:"}, "caches": {"default": "memory://"}}, hello
        ) as host:
            await asyncio.to_thread(work, host.state)
            with pytest.raises(RuntimeError, match="would block the event loop"):
                host.state.sync.db.fetch("SELECT 1")

    run(main)
    assert found["rows"] == list(range(250))
    assert (found["count"], found["all"]) == (10, 10)
    assert isinstance(found["row"], Row)
    assert found["cache"] == (1, {"b": 2, "c": 3}, False, 2)
    assert (found["computed"], found["deleted"], found["cleared"]) == ((5, 5), 1, "nothing")


# A store that cannot be reached is 503, in every framework ------------------------------------------------------------

DOWN = {
    "databases": {"default": {"url": "postgresql://u@127.0.0.1:1/d", "optional": True}},
    "caches": {"default": {"url": "redis://127.0.0.1:1/0", "optional": True}},
}


def fastapi(state: AppState) -> Any:
    app = FastAPI()

    @app.get("/db")
    async def db() -> Any:
        return await state.db.fetchval("SELECT 1")

    @app.get("/cache")
    async def cache() -> Any:
        return await state.cache.get("key")

    @app.get("/wrong")
    async def wrong() -> Any:
        return await state.cache.get("")

    @app.get("/handled")
    async def handled() -> Any:
        try:
            return await state.db.fetchval("SELECT 1")
        except StoreError as error:
            return error.code

    return app


def flask(state: AppState) -> Any:
    app = Flask(__name__)
    app.add_url_rule("/db", "db", lambda: str(state.sync.db.fetchval("SELECT 1")))
    app.add_url_rule("/cache", "cache", lambda: str(state.sync.cache.get("key")))
    app.add_url_rule("/wrong", "wrong", lambda: str(state.sync.cache.get("")))
    return app


def raw(state: AppState) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/db":
            await state.db.fetchval("SELECT 1")
        await state.cache.get("key" if scope["path"] == "/cache" else "")

    return app


@pytest.mark.parametrize("factory", [fastapi, flask, raw], ids=lambda factory: factory.__name__)
def test_a_store_that_cannot_be_had_is_503_and_a_fault_of_ours_500(factory: Any) -> None:
    async def main() -> None:
        app = {"import_path": "under_test:app", "factory": True}
        async with hosted({**DOWN, "app": app, "health": False}, factory) as host:
            for path in ("/db", "/cache"):
                answer = await host.get(path)
                assert (answer.status, answer.header("retry-after")) == (503, "1"), path
                assert answer.header("content-type") == "application/problem+json"
                assert answer.json()["status"] == 503
            assert [record["reason"] for record in host.access()] == [
                "databases.default is not available", "caches.default is not available",
            ]  # fmt: skip
            assert (await host.get("/wrong")).status == 500
            if factory is fastapi:
                handled = await host.get("/handled")
                assert (handled.status, handled.json()) == (200, "unavailable")

    run(main)


def test_what_is_counted_and_measured() -> None:
    async def main() -> None:
        async with hosted({**STORES, "metrics": True}, hello) as host:
            await host.state.db.fetchval("SELECT 1")
            with pytest.raises(StoreError):
                await host.state.db.fetch("NONSENSE SECRETS")
            await host.state.cache.set("key", 1)
            await host.state.cache.get("key")
            await host.state.cache.get("other")
            text = (await host.get("/metrics")).body.decode()
        for line in (
            'pywatt_database_connections{database="default",state="idle"} 1.0',
            'pywatt_database_connections{database="other",state="used"} 0.0',
            'pywatt_database_connections_max{database="default"} 1.0',
            'pywatt_database_connections_max{database="other"} 10.0',
            'pywatt_database_connections_waiting{database="other"} 0.0',
            'pywatt_database_errors_total{code="statement",database="default"} 1.0',
            'pywatt_database_operation_duration_seconds_count{database="default",operation="fetchval"} 1.0',
            'pywatt_database_operation_duration_seconds_bucket{database="default",le="+Inf",operation="fetch"} 1.0',
            'pywatt_cache_hits_total{cache="default"} 1.0',
            'pywatt_cache_misses_total{cache="default"} 1.0',
            'pywatt_cache_size{cache="default",of="entries"} 1.0',
            'pywatt_cache_operation_duration_seconds_count{cache="default",operation="get"} 2.0',
        ):
            assert line in text, line
        assert "NONSENSE" not in text

    run(main)


def test_a_busy_database_is_a_healthy_one_and_a_stuck_one_is_not() -> None:
    async def main() -> None:
        async with hosted({"databases": {"default": "sqlite:///:memory:"}}, hello) as host:
            database = host.state.db
            await database.fetchval("SELECT 1")
            async with database.acquire():
                await database.check()  # all connections are in use, and statements come to their ends
                database.answered -= 60
                with pytest.raises(StoreError) as caught:
                    await database.check()
            assert caught.value.code == "exhausted"
            await database.check()

    run(main)
