"""When a workspace is ready, what it waits for, and what ends its start. No process runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.start import Start
from pywatt_host.protocol.messages import HeartbeatAck
from pywatt_host.supervision.restarts import Ending
from tests.hosting import run
from tests.orchestrator.conversing import Around, Peer, module_of


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Peers need a running event loop."""

    def running() -> None:
        run(test)

    running.__name__ = test.__name__
    return running


def town(**peers: Peer) -> dict[str, Module]:
    return {name: module_of(peer) for name, peer in peers.items()}


def ours(module: Module, restart: str = "on-failure") -> Module:
    changed = {"manifest": "x.yaml", "command": None, "restart": restart}
    module.declared = module.declared.model_copy(update=changed)
    return module


@on_a_loop
async def test_a_workspace_is_ready_when_every_process_passes_its_checks_or_has_ended_as_it_should() -> None:
    around = Around()
    a, b = Peer("a", around), Peer("b", around)
    start = Start(town(a=a, b=b), ends_at_a_fault=True)
    assert not start.ready
    a.up()
    b.replica.state = "starting"
    assert not start.ready
    b.up()
    assert start.ready
    b.replica.beaten(HeartbeatAck({"status": "unhealthy", "checks": {"db": {"status": "failing", "error": "refused"}}}))
    assert not start.ready
    assert list(start.waits_for()) == ["b.1 (db failing: refused)"]
    b.replica.state = "failed"
    assert not start.ready
    b.replica.state = "ended"
    assert start.ready
    assert list(start.waits_for()) == []


@on_a_loop
async def test_what_waits_for_another_module_says_for_which() -> None:
    around = Around()
    a, b = Peer("a", around), Peer("b", around)
    modules = {"a": module_of(a), "b": module_of(b, depends_on={"a": {"condition": "service_healthy"}})}
    a.replica.state = "starting"
    assert list(Start(modules, ends_at_a_fault=True).waits_for()) == ["a.1 (starting)", "b.1 (waits for a)"]


@on_a_loop
async def test_a_host_of_ours_that_ends_before_it_serves_because_of_its_code_ends_the_start() -> None:
    peer = Peer("a", Around())
    modules = town(a=peer)
    start = Start(modules, ends_at_a_fault=True)
    peer.replica.ending = Ending(3, False, 0.1)
    assert start.fault is None  # of another program, 3 may mean anything
    ours(modules["a"])
    assert start.fault == (peer.replica, 3)
    assert Start(modules, ends_at_a_fault=False).fault is None
    for ending in (Ending(3, True, 5.0), Ending(1, False, 0.1), Ending(-9, False, 0.1)):
        peer.replica.ending = ending
        assert start.fault is None
    peer.replica.ending = Ending(2, False, 0.1)
    ours(modules["a"], "always")
    assert start.fault is None
