"""Stores under a real host: killed, restarted, hung and not there; what clients see, and what is kept."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests import servers
from tests.processes import PATIENCE, Connection, Host, Project, allowed
from tests.servers import MissingServerError, Server

APP = """
from fastapi import FastAPI

def create_app(state):
    app = FastAPI()

    @app.get("/write/{number}")
    async def write(number: int):
        await state.db.execute("INSERT INTO acknowledged (id) VALUES ($1)", number)
        return number

    @app.get("/written")
    async def written():
        return [row.id for row in await state.db.fetch("SELECT id FROM acknowledged")]

    @app.get("/cached/{number}")
    async def cached(number: int):
        await state.cache.set(f"n{number}", number)
        return await state.cache.get(f"n{number}")

    @app.get("/ping")
    async def ping():
        return await state.db.fetchval("SELECT 1")

    return app
"""
SQL = "CREATE TABLE acknowledged (id INTEGER PRIMARY KEY);\n"
GOOD_AGAIN = 2.0  # seconds after the return of a server


class Load:
    """Clients that ask for numbers of their own, without a pause."""

    def __init__(self, address: str, path: str, clients: int = 4) -> None:
        self.acknowledged: list[int] = []
        self.others: list[tuple[int, dict[str, str], bytes]] = []
        self.good_at = 0.0
        self.faults: list[str] = []
        self._address, self._path = address, path
        self._next = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _ask(self) -> None:
        try:
            with Connection(self._address) as connection:
                while not self._over.is_set():
                    number = self._number()
                    response = connection.request("GET", f"/{self._path}/{number}")
                    if response.status == 200:
                        self.acknowledged.append(number)
                        self.good_at = time.monotonic()
                    else:
                        self.others.append((response.status, response.headers, response.body))
                        time.sleep(0.01)
        except (OSError, EOFError, ValueError) as error:
            self.faults.append(repr(error))

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, self.others[-3:]
            time.sleep(0.01)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def made(make: Callable[[Path], Server], folder: Path) -> Server:
    folder.mkdir(exist_ok=True)
    try:
        server = make(folder)
    except MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    return server


def said(host: Host) -> str:
    """All that it has logged."""
    return "\n".join(host.lines)


def raised(host: Host) -> str:
    return "\n".join(line for line in host.lines if "raised" in line)[:6000]


def manifest(project: Project, **keys: Any) -> None:
    project.write("main.py", APP)
    project.write("schema.sql", SQL)
    project.manifest(app="main:create_app", logging={"access": False}, **keys)


@pytest.mark.parametrize("make", [servers.postgres, servers.maria], ids=["postgresql", "mysql"])
def test_a_database_killed_and_restarted_under_load(
    project: Project, tmp_path: Path, make: Callable[[Path], Server]
) -> None:
    server = made(make, tmp_path / "server")
    try:
        manifest(
            project,
            databases={"default": {"url": server.url, "init": "schema.sql", "pool": {"timeout": "1s"}}},
        )
        host = project.host()
        load = Load(host.address, "write")
        try:
            for _ in range(2):
                enough = len(load.acknowledged) + 50
                load.until(lambda enough=enough: len(load.acknowledged) >= enough)  # type: ignore[misc]
                server.kill()
                failed = len(load.others) + 20
                load.until(lambda failed=failed: len(load.others) >= failed)  # type: ignore[misc]
                server.start()
                back = time.monotonic()
                load.until(lambda back=back: load.good_at > back)  # type: ignore[misc]
                assert load.good_at - back < GOOD_AGAIN
        finally:
            load.stop()
        assert load.faults == []
        assert {status for status, _, _ in load.others} == {503}, "\n".join(
            line for line in host.lines if "raised" in line
        )[:6000]
        assert all(headers["retry-after"] == "1" for _, headers, _ in load.others)
        assert all(json.loads(body)["status"] == 503 for _, _, body in load.others)
        written = set(json.loads(host.get("/written").body))
        assert set(load.acknowledged) <= written  # nothing that was acknowledged is lost
        assert "p@ss" not in said(host)
        assert "p%40ss" not in said(host)
    finally:
        server.kill()


@pytest.mark.parametrize("make", [servers.valkey, servers.memcached], ids=["redis", "memcached"])
def test_a_cache_killed_and_restarted_under_load(
    project: Project, tmp_path: Path, make: Callable[[Path], Server]
) -> None:
    server = made(make, tmp_path / "server")
    try:
        manifest(project, caches={"default": {"url": server.url}})
        host = project.host()
        load = Load(host.address, "cached")
        try:
            load.until(lambda: len(load.acknowledged) >= 50)
            server.kill()
            load.until(lambda: len(load.others) >= 20)
            server.start()
            back = time.monotonic()
            load.until(lambda: load.good_at > back)
            assert load.good_at - back < GOOD_AGAIN
        finally:
            load.stop()
        assert load.faults == []
        assert {status for status, _, _ in load.others} == {503}, "\n".join(
            line for line in host.lines if "raised" in line
        )[:6000]
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("make", [servers.postgres, servers.maria], ids=["postgresql", "mysql"])
def test_a_database_that_hangs_is_a_bounded_wait_and_a_clear_error(
    project: Project, tmp_path: Path, make: Callable[[Path], Server]
) -> None:
    server = made(make, tmp_path / "server")
    try:
        database = {"url": server.url, "init": "schema.sql", "pool": {"timeout": "500ms"}, "statement_timeout": "500ms"}
        manifest(project, databases={"default": database}, health={"interval": "100ms", "retries": 1})
        host = project.host()
        assert host.get("/ping").status == 200
        server.suspend()
        began = time.monotonic()
        answers = [host.get("/ping") for _ in range(3)]
        assert [answer.status for answer in answers] == [503] * 3
        assert time.monotonic() - began < allowed(8.0)
        deadline = time.monotonic() + PATIENCE
        while host.get("/readyz").status != 503:
            assert time.monotonic() < deadline
        assert host.get("/livez").status == 200
        server.resume()
        deadline = time.monotonic() + PATIENCE
        while host.get("/ping").status != 200 or host.get("/readyz").status != 200:
            assert time.monotonic() < deadline
    finally:
        server.kill()


def test_the_start_waits_for_a_store_and_then_names_it(project: Project, tmp_path: Path) -> None:
    server = made(servers.postgres, tmp_path / "server")
    server.kill()
    try:
        manifest(project, databases={"default": server.url}, health={"start_period": "3s"})
        host = project.host()
        assert host.wait() == 3
        (line,) = [json.loads(line) for line in said(host).splitlines() if '"critical"' in line]
        assert line["message"].startswith("databases.default: postgresql://tester:***@127.0.0.1:")
        assert "waited 3s: health.start_period" in line["message"]
        assert "Traceback" not in said(host)
        # It comes while it is waited for.
        manifest(project, databases={"default": server.url}, health={"start_period": "20s"})
        host = project.host()
        host.wait_for("waiting for databases.default")
        server.start()
        assert host.get("/ping").body == b"1"
    finally:
        server.kill()


@pytest.mark.slow
def test_an_optional_store_degrades_instead(project: Project, tmp_path: Path) -> None:
    server = made(servers.valkey, tmp_path / "server")
    server.kill()
    try:
        manifest(
            project,
            databases={"default": {"url": "sqlite:///app.db"}},
            caches={"default": {"url": server.url, "optional": True}},
            health={"interval": "100ms", "retries": 1},
        )
        host = project.host()
        host.wait_for("starting without caches.default")
        assert host.get("/ping").status == 200
        assert host.get("/cached/1").status == 503
        deadline = time.monotonic() + PATIENCE
        while json.loads(host.get("/health").body)["status"] != "degraded":
            assert time.monotonic() < deadline
        assert host.get("/readyz").status == 200
        server.start()
        while json.loads(host.get("/health").body)["status"] != "healthy":
            assert time.monotonic() < deadline
        assert host.get("/cached/1").body == b"1"
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"databases": {"default": "postgresql+dev://"}}, 3, "only `pywatt-host dev` and `up` start"),
        ({"databases": {"default": "orchestrator:shared"}}, 3, "this host has no orchestrator"),
        ({"databases": {"default": "sqlite:///nowhere/app.db"}}, 3, "there is no directory nowhere"),
        ({"databases": {"default": "mysql://h/d?nonsense=1"}}, 3, "unknown option nonsense"),
        ({"caches": {"default": "redis://h/a"}}, 3, "the database must be a number"),
        ({"databases": {"default": "sqlite://app.db"}}, 3, "sqlite:///app.db"),
    ],
)
def test_a_store_that_cannot_be_ends_the_start_at_once(
    project: Project, keys: dict[str, Any], code: int, words: str
) -> None:
    manifest(project, **keys, health={"start_period": "1500ms"})
    host = project.host()
    assert host.wait() == code
    assert words in said(host)
    assert "Traceback" not in said(host)


@pytest.mark.slow
def test_fifty_changes_of_a_password_under_load_fail_no_request(project: Project, tmp_path: Path) -> None:
    server = made(servers.postgres, tmp_path / "server")
    secrets = tmp_path / "secrets"
    secrets.mkdir()

    def change(number: int) -> None:
        """The server first, as operators do, then the file that is watched."""
        password = f"p@ss/{number}#%"

        async def alter() -> None:
            connection = await asyncpg.connect(server.url)
            await connection.execute(f"ALTER ROLE rotating PASSWORD '{password}'")
            await connection.close()

        asyncio.run(alter())
        staged = secrets / ".staged"
        staged.write_text(password)
        staged.rename(secrets / "PASSWORD")

    async def prepare() -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE ROLE rotating LOGIN SUPERUSER")
        await connection.close()

    try:
        asyncio.run(prepare())
        change(0)
        url = f"postgresql://rotating:${{secret:PASSWORD}}@127.0.0.1:{server.port}/postgres"
        manifest(
            project,
            secrets={"rotate": True, "sources": [{"directory": str(secrets)}], "interval": "50ms"},
            databases={"default": {"url": url, "init": "schema.sql", "pool": {"min": 0, "max": 4}}},
            metrics=True,
        )
        host = project.host()
        load = Load(host.address, "write", clients=6)
        slowest = 0.0
        try:
            for number in range(1, 51):
                change(number)
                began = time.monotonic()
                wanted = f'pywatt_secret_rotations_total{{result="success"}} {float(number)}'
                while wanted not in host.get("/metrics").body.decode():
                    assert time.monotonic() - began < PATIENCE
                slowest = max(slowest, time.monotonic() - began)
        finally:
            load.stop()
        assert (load.faults, load.others) == ([], [])
        assert set(load.acknowledged) <= set(json.loads(host.get("/written").body))
        assert not any("p@ss" in line for line in host.lines)
        print(f"{len(load.acknowledged)} requests; slowest rotation {slowest:.2f} s")
    finally:
        server.kill()
