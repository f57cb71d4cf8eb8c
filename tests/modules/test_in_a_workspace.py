"""Modules under `up`: they find each other and talk through the orchestrator, whatever channel it gave them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.modules.talking import APP, Module
from tests.processes import Host, Project

REGISTER = {"register": [{"name": "users-api", "type": "api", "metadata": {"v": "1"}}]}


@pytest.fixture(params=["stdio", "ipc", "tcp"])
def workspace(request: pytest.FixtureRequest, project: Project) -> Iterator[tuple[str, Host]]:
    """`users` in two processes and `billing`."""
    for name in ("users", "billing"):
        project.write(f"{name}/main.py", APP)
        keys = {"services": REGISTER} if name == "users" else {}
        manifest = {"app": "main:create_app", "logging": {"access": False}, **keys}
        project.write(f"{name}/pywatt.yaml", json.dumps(manifest))
    modules = {
        name: {"manifest": f"{name}/pywatt.yaml", "channel": request.param, "replicas": replicas}
        for name, replicas in (("users", 2), ("billing", 1))
    }
    project.write("wattson.yaml", json.dumps({"gateway": {"listen": "127.0.0.1:0"}, "modules": modules}))
    up = project.start([sys.executable, "-m", "pywatt_host", "up", "--log-format", "json"])
    up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line)
    yield request.param, up
    assert up.stop() == 0


def behind(up: Host, name: str) -> Module:
    line = json.loads(up.wait_for(lambda line: '"event":"ready"' in line and '"workspace"' in line))

    class At:
        lines = up.lines

        @staticmethod
        def post(path: str, body: bytes) -> object:
            with up.connect(line["listen"][0]) as connection:
                return connection.request("POST", path, body)

    return Module(At(), f"/{name}")  # type: ignore[arg-type]


def test_modules_find_each_other_and_talk(workspace: tuple[str, Host]) -> None:
    channel, up = workspace
    users, billing = behind(up, "users"), behind(up, "billing")
    found = billing.until("discover", lambda found: len(found) == 2, type="api")
    assert {(each["name"], each["module_id"], each["is_healthy"]) for each in found} == {("users-api", "users", True)}
    assert len({each["address"] for each in found}) == 2
    modules = billing.until("discover", lambda found: len(found) == 3, type="module")
    assert {each["module_id"] for each in modules} == {"users", "billing"}

    # The orchestrator vouches for who asks.
    answer = billing.ask("users", "double", n=21)
    told = (answer["n"], answer["source"], answer["vouched_by"], answer["channel"])
    assert told == (42, "billing", "orchestrator", channel)
    assert billing.ask("users", "double", n=1, channel=channel)["n"] == 2
    code, text = billing.code("request", target="users", message={"type": "double", "n": 1}, channel="nats")
    assert (code, "there is no channel nats to it" in text) == ("unavailable", True)
    assert billing.code("request", target="nobody", message={"type": "double"})[0] == "unknown_target"

    # An event comes once to each process that subscribed, the publisher's own among them.
    billing.do("publish", topic="news.all", message={"text": "hello"})
    (own,) = billing.until("heard", bool)
    assert (own["text"], own["source"]) == ("hello", "billing")
    heard = [each for _ in range(4) for each in users.until("heard", bool)]
    assert {(each["text"], each["source"], each["vouched_by"]) for each in heard} == {
        ("hello", "billing", "orchestrator")
    }

    # What is registered by hand is taken back by hand.
    billing.do("register_service", name="billing-api", service_type="invoices")
    (one,) = users.until("discover", bool, type="invoices")
    assert one["module_id"] == "billing"
    billing.do("deregister_service", service="billing-api")
    users.until("discover", lambda found: not found, type="invoices")

    # Over HTTP by name: the module, and its service; each replica gets its turn.
    for name in ("users", "users-api"):
        answers = [json.loads(billing.do("get", url=f"module://{name}/who")["text"]) for _ in range(4)]
        assert {each["by"] for each in answers} == {"users"}
        assert len({each["pid"] for each in answers}) == 2
