"""What was started is stopped when the test ends, however it ends; and a failure in the background is the test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Executed
from tests.testing.conftest import RunTests
from tests.testing.programs import MANIFEST, OURS
from tests.testing.test_wattson_fixture import is_gone

EVENTS = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from starlette.applications import Starlette

def noting(name):
    @asynccontextmanager
    async def lifespan(app):
        note(f"{name} up")
        yield
        note(f"{name} down")
    return Starlette(lifespan=lifespan)

def note(what):
    with open(Path(__file__).parent / "events", "a") as file:
        file.write(what + "\\n")
"""


def events(folder: Path) -> list[str]:
    return (folder / "events").read_text().splitlines()


@pytest.mark.slow
def test_modules_of_a_failed_test_are_stopped_the_newest_first(run_tests: RunTests, tmp_path: Path) -> None:
    outcome = run_tests(
        EVENTS
        + """
def test_it(pywatt_module):
    pywatt_module(noting("a"))
    pywatt_module(noting("b"))
    assert not "this fails"

def test_after():
    note("next test")
"""
    )
    assert outcome.counts == {"failed": 1, "passed": 1}, outcome.output
    assert events(tmp_path) == ["a up", "b up", "b down", "a down", "next test"]


def test_a_start_that_fails_half_way_leaves_nothing_behind(run_tests: RunTests, tmp_path: Path) -> None:
    outcome = run_tests(
        EVENTS
        + """
def fail(state):
    raise ValueError("no such luck")

def test_it(pywatt_module):
    pywatt_module(noting("a"))
    mounts = [{"route_prefix": "/b", "import_path": noting("b")}, {"route_prefix": "/c", "import_path": fail}]
    pywatt_module({"mounts": mounts})
"""
    )
    assert outcome.counts == {"failed": 1}, outcome.output
    assert "ValueError: no such luck" in outcome.output
    assert events(tmp_path) == ["a up", "b up", "b down", "a down"]


def test_a_host_that_fails_in_the_background_fails_the_test_with_its_own_reason(run_tests: RunTests) -> None:
    outcome = run_tests(
        EVENTS
        + """
def test_it(pywatt_module, monkeypatch):
    from pywatt_host.secrets.rotation import Rotation

    released = asyncio.Event()

    async def watch(self):
        await released.wait()
        raise LookupError("the cable is cut")

    async def release():
        released.set()

    monkeypatch.setattr(Rotation, "_watch", watch)
    client = pywatt_module({"app": noting("a"), "secrets": {"rotate": True, "keys": {}}})
    assert client.get("/").status_code == 404
    client.run(release())

def test_next(pywatt_module):
    assert pywatt_module(noting("b")).get("/").status_code == 404
"""
    )
    assert outcome.counts == {"passed": 2, "error": 1}, outcome.output
    assert "LookupError: the cable is cut" in outcome.output


def test_processes_of_a_failed_test_end_with_their_children(run_tests: RunTests, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(OURS)
    (tmp_path / "pywatt.yaml").write_text(MANIFEST)
    outcome = run_tests("""
from pathlib import Path

def test_it(wattson):
    module = wattson("pywatt.yaml")
    module.give(KEY="first-value")
    module.announced()
    child = module.wait_for("child ").split()[1]
    (Path(__file__).parent / "pids").write_text(f"{module.child.pid} {child}")
    assert not "this fails"
""")
    assert outcome.counts == {"failed": 1}, outcome.output
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_run_that_uses_no_fixture_loads_nothing_of_the_host(run_tests: RunTests) -> None:
    text = """
import sys

def test_it():
    assert [name for name in sys.modules if name.startswith("pywatt_host")] == ["pywatt_host", "pywatt_host.testing"]
    assert not {"httpx", "yaml", "pydantic", "uvicorn"} & set(sys.modules)
"""
    outcome = run_tests(text, kind=Executed)
    assert outcome.counts == {"passed": 1}, outcome.output


def test_names_that_are_not_there_are_said_as_any_module_says_them(run_tests: RunTests) -> None:
    outcome = run_tests("""
import pytest
import pywatt_host.testing as kit

def test_it():
    assert all(getattr(kit, name) for name in kit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kit.nonsense
""")
    assert outcome.counts == {"passed": 1}, outcome.output


def test_a_failure_shows_the_line_of_the_test_and_nothing_of_the_kit_or_the_host(run_tests: RunTests) -> None:
    outcome = run_tests(
        """
def fail(state):
    raise ValueError("no such luck")

def test_factory(pywatt_module):
    pywatt_module(fail)

def test_manifest(pywatt_module):
    pywatt_module({"app": fail, "endpont": 3})

def test_process(wattson):
    wattson("nowhere.py").announced()
"""
    )
    assert outcome.counts == {"failed": 3}, outcome.output
    for told in (
        "the factory raised ValueError: no such luck",
        "endpont: unknown key",
        "the module has not sent announce",
    ):
        assert told in outcome.output
    for own in ("loading.py", "load.py", "modules.py", "running.py", "wattson.py"):
        assert own not in outcome.output
