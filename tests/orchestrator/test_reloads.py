"""`up` reloads its modules: each replica in turn over its control socket, with a verdict for each module."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.orchestrator.reloads import Reloads
from pywatt_host.runtime.control import NO_RELOAD
from tests.cli.control_sockets import Answer, control_socket
from tests.hosting import run

GOOD = {"ok": True, "generation": 2, "exit_code": 0}
BAD = {"ok": False, "generation": 1, "stage": "import", "exit_code": 3, "reason": "no module named x"}


def manifest(folder: Path, control: str = "auto") -> Manifest:
    data = {"app": "main:app", "server": {"control": control}}
    return load(Source.of_text(json.dumps(data), directory=folder), environ={}).manifest


def reloads(manifests: dict[str, Manifest], **pids: list[int | None]) -> Reloads:
    """Modules with replicas that have these process ids."""
    modules: dict[str, Any] = {
        id: SimpleNamespace(
            id=id, replicas=[SimpleNamespace(number=number, pid=pid) for number, pid in enumerate(each, 1)]
        )
        for id, each in pids.items()
    }
    return Reloads(modules, manifests, {})


def verdicts(subject: Reloads, module: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def main() -> None:
        found.update(await subject.reload(module))

    run(main)
    return found


def sockets(folder: Path, **answers: Answer) -> Any:
    return [
        control_socket(folder / ".pywatt" / f"{name.replace('_', '-')}.sock", {"POST /reload": answer})
        for name, answer in answers.items()
    ]


def test_every_replica_of_every_module_reloads_in_turn(tmp_path: Path) -> None:
    subject = reloads({"a": manifest(tmp_path), "b": manifest(tmp_path)}, a=[1, 2], b=[3])
    first, second, third = sockets(tmp_path, a_1=(200, GOOD), a_2=(200, GOOD), b_3=(200, GOOD))
    with first as one, second as two, third as three:
        verdict = verdicts(subject)
        assert (verdict["ok"], verdict["exit_code"]) == (True, 0)
        assert {id: each["replica"] for id, each in verdict["modules"].items()} == {"a": 2, "b": 1}
        assert list(verdicts(subject, "b")["modules"]) == ["b"]
    assert [len(asked) for asked in (one, two, three)] == [1, 1, 2]


def test_a_replica_that_refuses_ends_the_reload_of_its_module_alone(tmp_path: Path) -> None:
    subject = reloads({"a": manifest(tmp_path), "b": manifest(tmp_path)}, a=[1, 2], b=[3])
    first, second, third = sockets(tmp_path, a_1=(200, BAD), a_2=(200, GOOD), b_3=(200, GOOD))
    with first, second as two, third:
        verdict = verdicts(subject)
    assert (verdict["ok"], verdict["exit_code"]) == (False, 3)
    assert verdict["modules"]["a"] == {**BAD, "replica": 1}
    assert verdict["modules"]["b"]["ok"]
    assert two == []


def test_a_module_that_cannot_reload_says_why(tmp_path: Path) -> None:
    manifests = {"off": manifest(tmp_path), "closed": manifest(tmp_path, "off"), "gone": manifest(tmp_path, "g.sock")}
    subject = reloads(manifests, off=[1], closed=[2], gone=[3], command=[4], waiting=[None])
    (off,) = sockets(tmp_path, off_1=(404, {"detail": NO_RELOAD}))
    with off:
        verdict = verdicts(subject)
    assert verdict["exit_code"] == 1
    reasons = {id: each["reason"] for id, each in verdict["modules"].items()}
    assert reasons["off"] == NO_RELOAD
    assert "no control socket" in reasons["closed"]
    assert "no control socket" in reasons["command"]
    assert f"did not answer at {tmp_path / 'g.sock'}" in reasons["gone"]
    assert reasons["waiting"] == "no process of the module is running"


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(HostError, match=r"There is no module billing\."):
        verdicts(reloads({}, users=[1]), "billing")


def test_a_request_by_signal_reloads_all_and_logs_the_verdicts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = reloads({"a": manifest(tmp_path), "b": manifest(tmp_path)}, a=[1], b=[2])
    asked: list[int] = []
    done = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def answered() -> tuple[int, Any]:
            """The second reload begins once the verdicts of the first are logged."""
            again = subject.requested if not asked else done
            asked.append(1)
            loop.call_soon_threadsafe(again.set)
            return 200, BAD

        first, second = sockets(tmp_path, a_1=(200, GOOD), b_2=answered)
        with first, second, caplog.at_level("INFO"):
            watching = asyncio.create_task(subject.watch())
            subject.requested.set()
            await done.wait()
            watching.cancel()

    run(main)
    assert "a: generation 2 is in use" in caplog.text
    assert "b was not reloaded: no module named x" in caplog.text
