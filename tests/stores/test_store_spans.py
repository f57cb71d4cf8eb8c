"""The spans of databases and caches, with real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import StoreError
from pywatt_host.manifest.model import Cache as CacheOptions
from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.stores.caches.cache import Cache
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.kinds import StoreContext
from pywatt_host.stores.service import CacheStore, DatabaseStore
from pywatt_host.stores.traced import target_of
from tests.collector import Collected, recorded
from tests.hosting import PATIENCE, run
from tests.stores.opening import Wired

SECRET = "hunter2"


@pytest.fixture
def tracer() -> Tracer:
    return Tracer(SpanBuffer())


@asynccontextmanager
async def database(tracer: Tracer, url: str, folder: Path, **options: Any) -> AsyncIterator[Database]:
    parsed = DatabaseOptions.model_validate({"url": url, **options})
    store = DatabaseStore("default", parsed, StoreContext(folder, "tests"), rotates=False, tracer=tracer)
    await store.try_once({})
    try:
        yield store.database
    finally:
        await store.close()


@asynccontextmanager
async def cache(tracer: Tracer, url: str, folder: Path, **options: Any) -> AsyncIterator[Cache]:
    parsed = CacheOptions.model_validate({"url": url, **options})
    store = CacheStore("default", parsed, StoreContext(folder, "tests"), tracer=tracer)
    await store.try_once({})
    try:
        yield store.cache
    finally:
        await store.close()


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/test.db"
        return
    server = request.getfixturevalue({"postgresql": "postgres_server", "mysql": "maria_server"}[request.param])
    yield server.url


def test_each_statement_is_a_client_span_with_its_text_without_values(tracer: Tracer, url: str, tmp_path: Path) -> None:
    system = url.partition(":")[0].replace("mariadb", "mysql")

    async def main() -> None:
        async with database(tracer, url, tmp_path) as db:
            with tracer.span("around"):
                await db.execute("DROP TABLE IF EXISTS spans")
                await db.execute("CREATE TABLE spans (id INTEGER PRIMARY KEY, text VARCHAR(40))")
                await db.execute("INSERT INTO spans VALUES ($1, $2)", 1, SECRET)
                await db.execute(f"INSERT INTO spans VALUES (2, '{SECRET}')")
                await db.executemany("INSERT INTO spans VALUES (:id, :text)", [{"id": n, "text": ""} for n in (3, 4)])
                assert len(await db.fetch("SELECT id, text FROM spans /* all */ WHERE id < 9")) == 4
                assert [row async for row in db.iterate("SELECT id FROM spans", chunk=1)]

    run(main)
    *spans, around = recorded(tracer)
    statements = [span for span in spans if span.name != "pool.acquire"]
    assert SECRET not in str(spans)
    assert {(span.trace, span.parent, span.kind) for span in statements} == {(around.trace, around.id, "client")}
    assert [(span.name, span.attributes["db.query.text"]) for span in statements] == [
        ("DROP spans", "DROP TABLE IF EXISTS spans"),
        ("CREATE spans", "CREATE TABLE spans (id INTEGER PRIMARY KEY, text VARCHAR(?))"),
        ("INSERT spans", "INSERT INTO spans VALUES ($1, $2)"),
        ("INSERT spans", "INSERT INTO spans VALUES (?, ?)"),
        ("INSERT spans", "INSERT INTO spans VALUES (:id, :text)"),
        ("SELECT spans", "SELECT id, text FROM spans WHERE id < ?"),
        ("SELECT spans", "SELECT id FROM spans"),
    ]
    assert [span.attributes.get("db.operation.batch.size") for span in statements] == [None] * 4 + [2, None, None]
    first = statements[2].attributes
    assert first["db.system.name"] == system
    assert (first["db.operation.name"], first["db.collection.name"]) == ("INSERT", "spans")
    assert (first["db.query.summary"], first["pywatt.store"]) == ("INSERT spans", "databases.default")
    assert ("server.address" in first) == (system != "sqlite" and "@" in url and "@/" not in url)


def test_an_error_has_the_code_of_the_server_and_no_value(tracer: Tracer, url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tracer, url, tmp_path) as db:
            await db.execute("DROP TABLE IF EXISTS once")
            await db.execute("CREATE TABLE once (text VARCHAR(40) PRIMARY KEY)")
            await db.execute("INSERT INTO once VALUES ($1)", SECRET)
            with pytest.raises(StoreError):
                await db.execute("INSERT INTO once VALUES ($1)", SECRET)

    run(main)
    failed = recorded(tracer)[-1]
    assert (failed.failed, failed.attributes["error.type"]) == (True, "integrity")
    assert failed.attributes["db.response.status_code"] in ("23505", "1062", "SQLITE_CONSTRAINT_PRIMARYKEY")
    assert SECRET not in str(failed)


def test_a_transaction_shows_its_round_trips(tracer: Tracer, url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tracer, url, tmp_path) as db:
            async with db.transaction() as connection, connection.transaction():
                await connection.fetchval("SELECT 1")
            with pytest.raises(LookupError):
                async with db.transaction():
                    raise LookupError

    run(main)
    names = [span.name for span in recorded(tracer) if span.name != "pool.acquire"]
    assert names == ["BEGIN", "SAVEPOINT", "SELECT", "RELEASE", "COMMIT", "BEGIN", "ROLLBACK"]


def test_waiting_for_a_connection_has_a_span_where_it_takes_long(tracer: Tracer, tmp_path: Path) -> None:
    async def main() -> None:
        url, pool = f"sqlite:///{tmp_path}/test.db", {"max": 1, "timeout": "100ms"}
        async with database(tracer, url, tmp_path, pool=pool) as db:
            with tracer.span("around"):
                await db.fetchval("SELECT 1")
            tracer.buffer.take()
            async with db.acquire():
                with tracer.span("around"), pytest.raises(StoreError):
                    await db.fetchval("SELECT 2")
                waiting = asyncio.ensure_future(db.fetchval("SELECT 3"))  # outside of any trace
                await asyncio.sleep(0.01)
            await waiting

    run(main)
    wait, around, last = recorded(tracer)
    assert (wait.name, wait.kind, wait.parent) == ("pool.acquire", "internal", around.id)
    assert (wait.failed, wait.attributes["error.type"]) == (True, "exhausted")
    assert wait.attributes["db.client.connection.pool.name"] == "databases.default"
    assert wait.end - wait.start >= 90_000_000
    assert last.name == "SELECT"


def test_a_loop_over_rows_that_is_left_early_ends_its_span(tracer: Tracer, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tracer, f"sqlite:///{tmp_path}/test.db", tmp_path) as db, db.acquire() as connection:
            rows = connection.iterate("WITH n(i) AS (VALUES (1), (2)) SELECT i FROM n", chunk=1)
            async for _ in rows:
                assert len(tracer.buffer) == 0
                break
            await rows.aclose()
            assert len(tracer.buffer) == 1

    run(main)
    (span,) = recorded(tracer)
    assert (span.name, span.failed) == ("SELECT n", False)


def test_health_checks_have_no_spans(tracer: Tracer, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tracer, f"sqlite:///{tmp_path}/test.db", tmp_path) as db,
            cache(tracer, "memory://", tmp_path) as store,
        ):
            await db.check()
            await store.ping()

    run(main)
    assert recorded(tracer) == []


def test_a_store_of_the_orchestrator_has_the_operation_alone(tracer: Tracer, tmp_path: Path) -> None:
    """What a literal is depends on the kind of database, which only the orchestrator knows."""

    async def main() -> None:
        async with database(Tracer(SpanBuffer()), f"sqlite:///{tmp_path}/test.db", tmp_path) as far:
            parsed = DatabaseOptions.model_validate({"url": "orchestrator:shared"})
            around = StoreContext(tmp_path, "tests", Wired(far))
            store = DatabaseStore("default", parsed, around, rotates=False, tracer=tracer)
            await store.try_once({})
            await store.database.fetchval(f"SELECT '{SECRET}'")
            await store.close()

    run(main)
    (span,) = [span for span in recorded(tracer) if span.name != "pool.acquire"]
    assert (span.name, span.attributes["db.system.name"]) == ("SELECT", "orchestrator")
    assert SECRET not in str(span)


def cache_spans(tracer: Tracer, url: str, folder: Path) -> list[Collected]:
    async def main() -> None:
        async with cache(tracer, url, folder) as store:
            await store.set(SECRET, {"a": SECRET}, expire=60)
            assert await store.get(SECRET) == {"a": SECRET}
            await store.set_many({SECRET: 1})
            await store.get_many([SECRET])
            with pytest.raises(StoreError):
                await store.set(SECRET, "text")
                await store.increment(SECRET)
            await store.delete(SECRET)

    run(main)
    return recorded(tracer)


def test_operations_on_a_cache_have_no_keys(tracer: Tracer, tmp_path: Path) -> None:
    spans = cache_spans(tracer, "memory://", tmp_path)
    assert [span.name for span in spans] == [
        f"{name} caches.default" for name in ("set", "get", "set_many", "get_many", "set", "increment", "delete")
    ]
    assert {span.kind for span in spans} == {"client"}
    assert [span.failed for span in spans] == [False] * 5 + [True, False]
    assert spans[5].attributes["error.type"] == "arguments"
    assert spans[0].attributes == {
        "db.system.name": "memory", "db.operation.name": "set", "pywatt.store": "caches.default",
    }  # fmt: skip
    assert SECRET not in str(spans)


def test_operations_on_a_server_name_it(tracer: Tracer, tmp_path: Path, valkey_server: Any) -> None:
    spans = cache_spans(tracer, valkey_server.url, tmp_path)
    assert {span.attributes["db.system.name"] for span in spans} == {"redis"}
    assert {span.attributes["db.namespace"] for span in spans} == {"0"}
    assert SECRET not in str(spans)


def target(system: str, name: str = "", host: str = "", port: int = 0) -> dict[str, Any]:
    found = {"db.system.name": system, "db.namespace": name, "server.address": host, "server.port": port}
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            f"postgresql://ada:{SECRET}@db.example/shop?password={SECRET}",
            target("postgresql", "shop", "db.example", 5432),
        ),
        ("mariadb://db:3307/shop", target("mariadb", "shop", "db", 3307)),
        (f"rediss://:{SECRET}@cache:6380/3", target("redis", "3", "cache", 6380)),
        ("unix:///run/redis.sock?db=2", target("redis", "2")),
        ("memcached://cache", target("memcached", "", "cache", 11211)),
        ("postgresql+dev://", target("postgresql")),
        ("orchestrator:shared", target("orchestrator")),
    ],
)
def test_what_a_span_says_about_a_server_has_no_password(url: str, expected: dict[str, Any]) -> None:
    assert target_of(url, "databases.default") == expected


def test_calls_of_threads_hang_below_the_span_of_the_thread(tracer: Tracer, tmp_path: Path) -> None:
    """As those of `app_state.sync`: the coroutine runs on the event loop in the context of the thread."""

    async def main() -> None:
        async with cache(tracer, "memory://", tmp_path) as store:
            loop = asyncio.get_running_loop()

            def in_thread() -> None:
                with tracer.span("around"):
                    asyncio.run_coroutine_threadsafe(store.get("key"), loop).result(PATIENCE)

            thread = threading.Thread(target=in_thread)
            thread.start()
            await asyncio.to_thread(thread.join)

    run(main)
    get, around = recorded(tracer)
    assert (get.name, get.parent) == ("get caches.default", around.id)
