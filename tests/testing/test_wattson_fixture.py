"""`wattson`: a scripted orchestrator and a real process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from pywatt_host.testing import StartWattson, Wattson
from tests.processes import PATIENCE
from tests.testing.programs import DECORATED, MANIFEST, OTHER, OURS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(OURS)
    (tmp_path / "pywatt.yaml").write_text(MANIFEST)
    (tmp_path / "other.py").write_text(OTHER)
    return tmp_path


@pytest.fixture
def ours(wattson: StartWattson, folder: Path) -> Wattson:
    """One of ours, announced."""
    module = wattson(folder / "pywatt.yaml")
    module.give(KEY="first-value")
    module.announced()
    return module


def is_gone(pid: int) -> bool:
    """Whether a process has ended. A zombie has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def soon_gone(pid: int) -> bool:
    """A process that was killed is gone once the system has come to it."""
    deadline = time.monotonic() + PATIENCE
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_gone(pid)


def child_of(module: Wattson) -> int:
    return int(module.wait_for("child ").split()[1])


def test_it_announces_serves_and_shuts_down(ours: Wattson) -> None:
    announced = ours.announced()
    assert {"path": "/key", "methods": ["GET"]} in announced.endpoints
    assert announced.listen.startswith("127.0.0.1:")
    assert announced is ours.announced()
    assert httpx.get(f"{announced.url}/key").text == "first-value"
    assert ours.heartbeat() == {"op": "heartbeat_ack"}
    assert ours.message({"type": "echo", "text": "hi"}) == {"said": "hi"}
    answer = ours.http("POST", "/count", b"12345", X_Who="me")
    assert (answer.status, answer.body) == (201, b"5 me")
    assert answer.headers["content-type"].startswith("text/plain")
    assert ours.silent()
    assert ours.shutdown() == 0
    assert ours.noise == []
    assert any('"event":"ready"' in line for line in ours.stderr)


def test_rotations_are_acknowledged_or_refused(ours: Wattson) -> None:
    assert ours.rotate(KEY="second-value")["status"] == "success"
    assert ours.http("GET", "/key").body == b"second-value"
    refused = ours.rotate(KEY="refuse-this-one")
    assert (refused["status"], "refuse-this-one" in refused["message"]) == ("error", False)
    assert ours.http("GET", "/key").body == b"second-value"


@pytest.mark.parametrize("how", [Wattson.leave, Wattson.lose_heartbeats])
def test_a_module_whose_orchestrator_is_gone_leaves_with_5(ours: Wattson, how: Callable[[Wattson], None]) -> None:
    how(ours)
    assert ours.wait() == 5


def test_malformed_lines_are_survived(ours: Wattson) -> None:
    for line in (b"{this is no JSON", b"[]", b'{"op": 5}', b"\xff\xfe\n"):
        ours.malformed(line)
    ours.malformed()
    assert ours.shutdown() == 0


def test_a_slow_reader_gets_everything_in_the_end(ours: Wattson) -> None:
    ours.stall()
    wanted = [ours.request("GET", "/long") for _ in range(8)]  # some 400 kB each on the wire, in a pipe of 64 KiB
    assert ours.silent()
    ours.resume()
    for request_id in wanted:
        assert len(ours.hear("http_response", request_id=request_id)["body"]) == 100_000
    assert ours.shutdown() == 0


def test_a_command_in_any_language_is_a_module(wattson: StartWattson, folder: Path) -> None:
    module = wattson([sys.executable, "other.py"], cwd=folder, init={"module_id": "guest", "listen": "127.0.0.1:4102"})
    module.give(GREETING="good day")
    assert module.announced().listen == "127.0.0.1:4102"
    assert module.hear("register_service_provider")["name"] == "a"
    module.wait_for("guest says good day")
    refused = module.rotate(GREETING="good night")
    assert (refused["status"], refused["message"]) == ("error", "not mine")
    module.heartbeat()
    assert module.noise == ["a print that was forgotten"]
    assert module.shutdown() == 0


def test_a_failed_wait_says_what_the_module_said_and_logged(wattson: StartWattson, folder: Path) -> None:
    module = wattson([sys.executable, folder / "other.py"], timeout=1.0)
    with pytest.raises(AssertionError, match=r"asks for the secret GREETING, .* given \(A\)"):
        module.give(A="1")
    module.say(op="secret", name="GREETING", value="good day")
    module.wait_for("users says good day")
    with pytest.raises(AssertionError, match="no line of standard error matched"):
        module.wait_for("good night")
    with pytest.raises(AssertionError) as failed:
        module.hear("route_to_module")
    text = str(failed.value)
    for part in ("has not sent route_to_module", "still runs", '"op": "get_secret"', "users says good day"):
        assert part in text
    with pytest.raises(AssertionError, match="has not ended"):
        module.wait()
    module.write(b"no JSON\n")
    with pytest.raises(AssertionError, match=r"(?s)has ended \(exit code 1\).*JSONDecodeError"):
        module.heartbeat()


def test_what_does_not_read_is_not_waited_for_without_end(wattson: StartWattson) -> None:
    module = wattson([sys.executable, "-c", "import time; time.sleep(600)"], timeout=0.5)
    with pytest.raises(AssertionError, match="does not read its standard input"):
        module.write(b"x" * 1_000_000)
    with pytest.raises(AssertionError, match="has sent no message"):
        module.listen()
    deaf = wattson([sys.executable, "-c", "import sys; sys.exit(7)"], timeout=20)
    assert deaf.wait() == 7


def test_a_handshake_can_be_said_by_hand(wattson: StartWattson, folder: Path) -> None:
    module = wattson(folder / "pywatt.yaml", greet=False, arguments=["--set", "channels.limits.handshake=300ms"])
    assert module.wait() == 4
    module = wattson("main:create_app", cwd=folder, greet=False, env={"A": "b"})
    module.greet(module_id="by-hand", extensions=["health", "request_id"])
    assert set(module.announced().extensions) == {"health", "request_id"}
    assert module.heartbeat()["health"]["status"] in ("healthy", "degraded", "unhealthy")
    assert module.shutdown() == 0


def test_a_file_with_a_decorated_function_is_a_module(wattson: StartWattson, tmp_path: Path) -> None:
    (tmp_path / "users.py").write_text(DECORATED)
    module = wattson(tmp_path / "users.py", arguments=["--set", "metrics=true"])
    module.give(KEY="first-value")
    assert {each["path"] for each in module.announced().endpoints} >= {"/key"}
    assert module.http("GET", "/key").body == b"first-value"
    assert module.http("GET", "/metrics").status == 200
    assert module.shutdown() == 0


def test_killing_it_ends_its_children_as_well(ours: Wattson) -> None:
    child = child_of(ours)
    ours.kill()
    assert ours.wait() == -signal.SIGKILL
    assert soon_gone(child)


def test_a_child_that_holds_its_log_open_does_not_hold_the_wait(wattson: StartWattson, folder: Path) -> None:
    module = wattson(folder, env={"LOUD": "yes"})
    module.give(KEY="first-value")
    module.announced()
    began = time.monotonic()
    assert module.shutdown() == 0
    assert time.monotonic() - began < 20
    assert not is_gone(child_of(module))
    module.kill()
    assert soon_gone(child_of(module))


def test_the_end_of_the_test_ends_everything(wattson: StartWattson, folder: Path) -> None:
    modules = [wattson(folder) for _ in range(2)]
    for module in modules:
        module.give(KEY="first-value")
        module.announced()
    children = [child_of(module) for module in modules]
    wattson.end()
    assert all(is_gone(pid) for pid in [*children, *(module.child.pid for module in modules)])
    assert os.getpid() not in children
