"""The examples that are decorated functions: each equals its YAML twin, runs in both ways, answers, and stops clean."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from pywatt_host.app.decorated import differing
from pywatt_host.decorator.scripts import load_script
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.names import Script
from tests.processes import PATIENCE, ROOT, Host, Project

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
Run = Callable[..., Host]


@pytest.fixture(params=["script", "manifest"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Start an example: by its file, or by its twin."""
    project = Project(tmp_path)

    def start(name: str, *more: str) -> Host:
        path = ROOT / "examples" / name
        command = [f"{path}.py"] if request.param == "script" else ["-m", "pywatt_host", "run", f"{path}.yaml"]
        options = ["--listen", "127.0.0.1:0", "--log-format", "json", "--set", "server.control=off", *more]
        return project.start([sys.executable, *command, *options])

    yield start
    project.end()


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_equals_its_twin(name: str) -> None:
    path, names = sys.path[:], set(sys.modules)
    try:
        module = load_script(Script(ROOT / "examples" / f"{name}.py"))
        twin = load(Source.file(ROOT / "examples" / f"{name}.yaml"), environ={}).manifest
        mine = load(module.source(), environ={}).manifest
        assert differing(module, twin) == []
        assert mine.model_dump() == twin.model_dump()
    finally:
        sys.path[:] = path
        for each in (set(sys.modules) - names) & set(EXAMPLES):
            del sys.modules[each]


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_in_the_list_of_examples(name: str) -> None:
    assert f"[{name}.py]({name}.py), [.yaml]({name}.yaml)" in (ROOT / "examples" / "README.md").read_text()


def stopped(host: Host) -> int:
    host.signal(signal.SIGTERM)
    return host.wait()


def test_basic_module(run: Run) -> None:
    host = run("basic_module")
    with httpx.Client(base_url=host.address) as client:
        assert client.get("/").json() == {"module": "examples", "version": "1.0.0"}
        assert client.get("/greetings/de").json() == {"greeting": "Hallo, world!"}
        assert client.get("/greetings/xx").status_code == 404
        assert client.get("/health").json() == {"status": "healthy"}
        assert client.get("/docs").status_code == 404
    assert stopped(host) == 0


def test_websocket_module(run: Run) -> None:
    host = run("websocket_module")
    url = host.address.replace("http://", "ws://")
    with httpx.stream("GET", f"{host.address}/lines", timeout=PATIENCE) as stream:
        events = stream.iter_text()
        assert next(events) == ": connected\n\n"
        with connect(f"{url}/chat/ada") as ada, connect(f"{url}/chat/bob") as bob:
            bob.send("hello")
            assert (ada.recv(), bob.recv()) == ("bob: hello", "bob: hello")
        assert next(events) == "data: bob: hello\n\n"
        host.signal(signal.SIGTERM)
        assert list(events) == []
    assert host.wait() == 0


def test_background_tasks(run: Run) -> None:
    host = run("background_tasks")
    with httpx.Client(base_url=host.address) as client:

        def until(number: int, state: str) -> dict[str, object]:
            deadline = time.monotonic() + PATIENCE
            while (job := client.get(f"/jobs/{number}").json())["state"] != state:
                assert time.monotonic() < deadline, job
                time.sleep(0.01)
            return dict(job)

        assert client.post("/jobs", content="1 2 39").json() == {"job": 1}
        assert until(1, "done")["result"] == 42
        assert client.post("/jobs", content="one two").status_code == 202
        host.wait_for("the task worker crashed")
        assert until(2, "failed")
        assert client.post("/jobs", content="7").status_code == 202
        assert until(3, "done")["result"] == 7
        assert 'pywatt_task_crashes_total{task="worker"} 1.0' in client.get("/metrics").text
        assert client.get("/jobs/9").status_code == 404
    assert stopped(host) == 0
    assert any("0 jobs are left" in line for line in host.lines)


def test_database_module(run: Run, tmp_path: Path) -> None:
    host = run("database_module", "--set", f"databases.default.url=sqlite:///{tmp_path}/notes.db")
    with httpx.Client(base_url=host.address) as client:
        assert client.get("/notes").json() == []
        assert client.post("/notes", params={"text": "milk"}).json() == {"id": 1, "text": "milk"}
        assert client.get("/notes/1").json() == {"id": 1, "text": "milk"}
        assert client.get("/notes/1").json() == {"id": 1, "text": "milk"}
        assert client.get("/notes/2").status_code == 404
        assert client.get("/notes").json() == [{"id": 1, "text": "milk"}]
        metrics = client.get("/metrics").text
        assert 'pywatt_cache_hits_total{cache="default"} 1.0' in metrics
        assert client.get("/health").json()["checks"]["databases.default"] == {"status": "passing"}
    assert stopped(host) == 0


def test_a_module_that_finds_nobody_says_so(run: Run) -> None:
    host = run("service_discovery")
    with httpx.Client(base_url=host.address) as client:
        assert client.get("/providers").json() == []
        assert client.get("/total/tea/2").status_code == 503
    assert stopped(host) == 0


def test_a_module_that_offers_a_service_serves_alone_too(run: Run) -> None:
    host = run("prices_module")
    with httpx.Client(base_url=host.address) as client:
        assert client.get("/prices/tea").json() == {"cents": 300}
        assert client.get("/prices/gold").status_code == 404
    assert stopped(host) == 0


def test_service_discovery_and_prices_module_in_a_workspace(tmp_path: Path) -> None:
    for name in ("service_discovery.py", "service_discovery.yaml", "prices_module.py", "prices_module.yaml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    text = (ROOT / "examples" / "service_discovery_wattson.yaml").read_text().replace(":9900", ":0")
    (tmp_path / "wattson.yaml").write_text(text)
    project = Project(tmp_path)
    try:
        up = project.start([sys.executable, "-m", "pywatt_host", "up", "--log-format", "json"])
        ready = json.loads(up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line))
        with httpx.Client(base_url=ready["listen"][0]) as client:
            found = client.get("/till/providers").json()
            assert {(each["name"], each["module"], each["healthy"]) for each in found} == {
                ("price-list", "prices", True)
            }
            assert len({each["address"] for each in found}) == 2
            assert client.get("/till/total/tea/2").json() == {"cents": 600, "known": True}
            assert client.get("/till/price/coffee").json() == {"cents": 400}
            assert client.get("/till/price/gold").status_code == 404
        assert stopped(up) == 0
    finally:
        project.end()
