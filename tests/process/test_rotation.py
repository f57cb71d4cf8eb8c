"""Rotation while requests run: nothing fails, nothing is acknowledged twice, the new value is soon in use."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import PATIENCE, Connection, Project, allowed
from tests.scripted import Orchestrated

# A figure is that of the host alone: what measures the coverage of processes makes it slower by far.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}

APP = """
import os
import statistics

def create_app(state):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("declined")
        secret = await state.get_secret("KEY")
        if scope["path"] == "/undeclared":
            secret = await state.get_secret("UNDECLARED")
        body = f"{secret.expose_secret()} {os.environ['KEY_URL']}".encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"x-pid", b"%d" % os.getpid())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
"""
ROTATIONS = 50
SOON = 1.0  # seconds within which a new value is in use


class Load:
    """Clients that ask without a pause until they are told to stop."""

    def __init__(self, address: str, clients: int = 4) -> None:
        self._address = address
        self._over = threading.Event()
        self.faults: list[str] = []
        self.answers = 0
        self.seen: set[str] = set()
        self.latest: dict[str, str] = {}  # what each process has answered, by its id
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        try:
            with Connection(self._address) as connection:
                while not self._over.is_set():
                    response = connection.request("GET", "/")
                    value, _ = response.body.decode().split(" ")
                    if response.status != 200 or not value.startswith("value-number-"):
                        self.faults.append(f"{response.status} {response.body!r}")
                    self.answers += 1
                    self.seen.add(value)
                    self.latest[response.headers["x-pid"]] = value
        except (OSError, EOFError, ValueError) as error:
            self.faults.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    made.write("main.py", APP)
    yield made
    made.end()


def in_use(address: str, value: str) -> float:
    """Seconds until a request sees the value, in the secret and in the environment."""
    began = time.monotonic()
    with Connection(address) as connection:
        while connection.request("GET", "/").body.decode() != f"{value} db://{value}@h":
            assert time.monotonic() - began < PATIENCE
    return time.monotonic() - began


def put(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}")
    staged.write_text(text)
    os.replace(staged, path)


@pytest.mark.slow
def test_fifty_rotations_by_the_orchestrator_under_load(project: Project) -> None:
    project.manifest(
        app={"import_path": "main:create_app", "env": {"KEY_URL": "db://${secret:KEY}@h"}},
        secrets={"rotate": True, "keys": {"KEY": {}}},
        logging={"access": False},
        health=False,
    )
    module = Orchestrated(project.folder)
    try:
        module.give(KEY="value-number-0")
        address = f"http://{module.hear('announce')['listen']}"
        load = Load(address)
        slowest = 0.0
        for number in range(1, ROTATIONS + 1):
            module.say(op="rotated", keys=["KEY"], rotation_id=f"rotation-{number}")
            module.give(KEY=f"value-number-{number}")
            assert module.hear("rotation_ack") == {
                "op": "rotation_ack", "rotation_id": f"rotation-{number}", "status": "success",
            }  # fmt: skip
            slowest = max(slowest, in_use(address, f"value-number-{number}"))
        load.stop()
        assert load.faults == []
        assert load.answers > ROTATIONS
        assert slowest < SOON
        module.say(op="shutdown")
        assert module.wait() == 0
        assert sum(json.loads(line)["op"] == "rotation_ack" for line in module.raw) == ROTATIONS
    finally:
        module.end()


def kubernetes(folder: Path) -> Callable[[str], None]:
    """A mounted folder whose files are all swapped by one link, as the kubelet does it."""
    mount = folder / "mounted"
    mount.mkdir()
    (mount / "KEY").symlink_to("..data/KEY")
    count = 0

    def swap(value: str) -> None:
        nonlocal count
        count += 1
        fresh = mount / f"..version-{count}"
        fresh.mkdir()
        (fresh / "KEY").write_text(value)
        staged = mount / "..data_tmp"
        staged.symlink_to(fresh.name)
        os.replace(staged, mount / "..data")

    return swap


def dotenv(folder: Path) -> Callable[[str], None]:
    return lambda value: put(folder / "secrets.env", f"KEY={value}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "make"), [({"directory": "mounted"}, kubernetes), ({"dotenv": "secrets.env"}, dotenv)]
)
def test_a_changed_file_is_in_use_within_a_second_under_load(
    project: Project, source: dict[str, str], make: Callable[[Path], Callable[[str], None]]
) -> None:
    change = make(project.folder)
    change("value-number-0")
    project.manifest(
        app={"import_path": "main:create_app", "env": {"KEY_URL": "db://${secret:KEY}@h"}},
        secrets={"rotate": True, "sources": [source], "keys": {"KEY": {}}},
        logging={"access": False},
        health=False,
    )
    host = project.host(env=UNMEASURED)
    load = Load(host.address)
    took = []
    for number in range(1, 6):
        change(f"value-number-{number}")
        took.append(in_use(host.address, f"value-number-{number}"))
    load.stop()
    assert statistics.median(took) < allowed(SOON), took
    assert load.faults == []
    assert host.stop() == 0
    assert "value-number" not in "\n".join(host.lines)


def in_use_by_both(load: Load, value: str) -> float:
    """Seconds until both of two workers answer with the value."""
    began = time.monotonic()
    while list(load.latest.values()) != [value, value]:
        time.sleep(0.005)
        assert time.monotonic() - began < PATIENCE, load.latest
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "make"), [({"directory": "mounted"}, kubernetes), ({"dotenv": "secrets.env"}, dotenv)]
)
def test_two_workers_have_each_new_value_within_a_second_under_load(
    project: Project, source: dict[str, str], make: Callable[[Path], Callable[[str], None]]
) -> None:
    change = make(project.folder)
    change("value-number-0")
    project.manifest(
        app={"import_path": "main:create_app", "env": {"KEY_URL": "db://${secret:KEY}@h"}},
        secrets={"rotate": True, "sources": [source, "env"], "keys": {"KEY": {}}},
        server={"workers": 2},
        logging={"access": False},
        health=False,
    )
    host = project.host(env={**UNMEASURED, "UNDECLARED": "found-in-the-environment"})
    load = Load(host.address)
    took = []
    for number in range(1, 11):
        change(f"value-number-{number}")
        took.append(in_use_by_both(load, f"value-number-{number}"))
    load.stop()
    assert statistics.median(took) < allowed(SOON), took
    assert load.faults == []
    assert load.answers > 100
    for _ in range(6):
        assert host.get("/undeclared").body.startswith(b"found-in-the-environment ")
    assert host.stop() == 0
    assert "value-number" not in "\n".join(host.lines)
    assert "found-in-the-environment" not in "\n".join(host.lines)
