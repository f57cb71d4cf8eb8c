"""A rolling reload without processes: what is used when, and what is said where a successor does not start."""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import Logging, Manifest
from pywatt_host.manifest.model.workspace import Dependency
from pywatt_host.manifest.model.workspace import Gateway as WorkspaceGateway
from pywatt_host.orchestrator.control import WorkspaceControl
from pywatt_host.orchestrator.gateway import Gateway
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.orchestrator.rolling import RollingReload, in_order
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.start_faults import last_words
from pywatt_host.orchestrator.topics import EventRouter
from pywatt_host.orchestrator.upstream import Address, UpstreamPool
from pywatt_host.protocol.messages import Discover, Publish, Register, RouteToModule
from pywatt_host.protocol.payload import Payload
from pywatt_host.supervision.condition import LoopCondition
from pywatt_host.supervision.launch import Launch
from pywatt_host.supervision.restarts import Ending
from tests.hosting import Call, http_scope, run
from tests.orchestrator.conversing import Around, Peer, content_of, module_of, route


class Scripted(Replica):
    """A replica without a process: `begin` says what its life is, and `stop` ends it."""

    begin: Callable[[Scripted], Awaitable[None]]

    async def live(self) -> None:
        await self.begin(self)

    async def stop(self) -> None:
        self._set("ended")

    def kill(self, why: str) -> None:
        self.killed = why
        self._set("failed")


class Telling(Around):
    """Surroundings that tell of each change."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = LoopCondition()

    def changed(self) -> None:
        self.changes.notify_all()


class Town:
    """Modules whose processes are peers, and their reload."""

    def __init__(self, tasks: TaskGroup, *names: str, replicas: int = 1) -> None:
        self.around = Telling()
        self.modules: dict[str, Module] = {}
        self.router = Router(self.modules, 30.0)
        self.around.table = {RouteToModule: self.router.route}
        self.peers = {name: [Peer(name, self.around, n).up() for n in range(1, replicas + 1)] for name in names}
        self.modules.update({name: module_of(*peers) for name, peers in self.peers.items()})
        self.made: list[Scripted] = []
        self.manifests: dict[str, Manifest] = {}
        self.stopping = False
        self.broken: set[str] = set()  # modules whose manifest is at fault
        self.begin: Callable[[Scripted], Awaitable[None]] = healthy
        self.rolling = RollingReload(
            self.modules, self.router, self.around.changes, tasks,
            make=self._make, load=self._load, stopping=lambda: self.stopping, mask=lambda text: text.replace("s3", "*"),
        )  # fmt: skip
        for peers in self.peers.values():
            for peer in peers:
                peer.replica.stop = self._stop(peer.replica)  # type: ignore[method-assign]

    @staticmethod
    def _stop(replica: Replica) -> Callable[[], Coroutine[Any, Any, None]]:
        async def stop() -> None:
            replica._set("ended")

        return stop

    def _make(self, id: str, number: int) -> Replica:
        peer = self.peers[id][number - 1]
        made = Scripted(peer.replica.terms, number, peer.replica.label, self.around, in_use=False)
        made.begin = self.begin
        self.made.append(made)
        return made

    def _load(self, ids: Iterable[str]) -> Mapping[str, Manifest]:
        if self.broken & set(ids):
            raise ManifestError([])
        return self.manifests


async def healthy(replica: Scripted) -> None:
    replica.acknowledged = True
    replica._set("running")


async def ends(replica: Scripted) -> None:
    replica.ending = Ending(2, False, 0.1)
    replica._set("failed")


def in_town(test: Callable[[Town], Awaitable[None]], *names: str, **town: Any) -> None:
    async def main() -> None:
        async with TaskGroup() as tasks:
            await test(Town(tasks, *names, **town))

    run(main)


def test_each_replica_is_replaced_before_the_next_one() -> None:
    async def test(town: Town) -> None:
        seen: list[list[bool]] = []

        async def begin(replica: Scripted) -> None:
            seen.append([each.replica.in_use for each in town.peers["a"]])
            await healthy(replica)

        town.begin = begin
        verdict = await town.rolling.reload("a")
        assert verdict["modules"]["a"] | {"seconds": 0} == {
            "ok": True, "generation": 2, "stage": None, "exit_code": 0, "reason": None, "seconds": 0,
        }  # fmt: skip
        assert seen == [[True, True], [False, True]]
        assert town.modules["a"].replicas == tuple(town.made)
        assert town.modules["a"].processes == tuple(town.made)
        assert [each.in_use for each in town.made] == [True, True]
        assert [each.replica.state for each in town.peers["a"]] == ["ended", "ended"]

    in_town(test, "a", replicas=2)


def test_the_second_replica_that_does_not_start_ends_the_reload_and_says_how_far_it_came() -> None:
    async def test(town: Town) -> None:
        async def begin(replica: Scripted) -> None:
            town.rolling.line(replica, b"the password s3 is wrong")
            await (healthy if replica.number == 1 else ends)(replica)

        town.begin = begin
        verdict = await town.rolling.reload(None)
        assert (verdict["ok"], verdict["exit_code"], verdict["stage"]) == (False, 2, "manifest")
        assert verdict["reason"].splitlines() == [
            "a: the new process did not start (exit code 2)",
            "the password * is wrong",
            "1 of 2 replicas run the new code",
        ]
        assert verdict["modules"]["b"]["reason"] == "it was not reloaded, because another module could not be"
        assert [each["generation"] for each in verdict["modules"].values()] == [1, 1]
        assert [each["exit_code"] for each in verdict["modules"].values()] == [2, 2]
        assert town.modules["a"].processes == (town.made[0], town.peers["a"][1].replica)
        assert town.rolling.refused
        assert town.rolling.progress is None

    in_town(test, "a", "b", replicas=2)


@pytest.mark.parametrize("begin", [healthy, ends])
def test_each_process_may_ask_for_the_secrets_of_its_own_manifest(begin: Callable[[Scripted], Awaitable[None]]) -> None:
    async def test(town: Town) -> None:
        source = Source.of_data({"app": "main:app", "secrets": ["NEW"]}, name="test", directory=Path())
        town.manifests = {"a": load(source, environ={}).manifest}
        town.begin = begin
        old = town.peers["a"][0].replica
        old.secrets = frozenset({"OLD"})
        await town.rolling.reload("a")
        assert town.made[0].secrets == {"NEW"}
        assert old.secrets == {"OLD"}

    in_town(test, "a")


def test_a_successor_that_does_not_become_healthy_is_killed() -> None:
    async def test(town: Town) -> None:
        async def begin(replica: Scripted) -> None:
            replica._set("running")

        town.begin = begin
        old = town.peers["a"][0].replica
        old.terms = replace(old.terms, start=0.02)
        verdict = await town.rolling.reload("a")
        assert "no announce within 0.02s (timeouts.start)" in verdict["reason"]
        assert town.made[0].killed == "the reload has failed"
        assert town.modules["a"].processes == (old,)

    in_town(test, "a")


def test_one_manifest_at_fault_keeps_every_module_as_it_is() -> None:
    async def test(town: Town) -> None:
        town.broken = {"b"}
        verdict = await town.rolling.reload(None)
        assert (verdict["exit_code"], verdict["stage"], town.made) == (2, "manifest", [])

    in_town(test, "a", "b")


def test_a_module_that_has_ended_is_started_again_only_where_it_is_named() -> None:
    async def test(town: Town) -> None:
        town.peers["a"][0].replica.state = "ended"
        verdict = await town.rolling.reload(None)
        assert verdict["modules"]["a"] | {"seconds": 0} == {
            "ok": True, "generation": 1, "stage": None, "exit_code": 0,
            "reason": "it has ended, and was not started again", "seconds": 0,
        }  # fmt: skip
        assert town.made == []
        assert (await town.rolling.reload("a"))["ok"]
        assert town.modules["a"].replicas == tuple(town.made)

    in_town(test, "a")


def test_a_module_that_waits_for_another_is_not_replaced() -> None:
    async def test(town: Town) -> None:
        town.modules["a"].declared.depends_on["b"] = Dependency(condition="service_healthy")
        town.peers["a"][0].replica.state = "waiting"
        town.peers["b"][0].replica.state = "ended"
        verdict = await town.rolling.reload(None)
        assert verdict["reason"] == "a: it has not started yet: it waits for b (depends_on)"

        async def begin(replica: Scripted) -> None:
            await healthy(replica)
            await healthy(town.peers["a"][0].replica)  # type: ignore[arg-type]

        town.begin = begin
        town.peers["b"][0].replica.state = "failed"
        verdict = await town.rolling.reload(None)
        assert verdict["ok"], verdict
        assert [replica.module for replica in town.made] == ["b"]

    in_town(test, "a", "b")


def test_the_open_requests_of_a_program_are_waited_for_before_it_is_stopped() -> None:
    async def test(town: Town) -> None:
        old = town.peers["a"][0]
        town.peers["b"][0].says(route("a", "1", {"type": "ask"}))
        (asked,) = old.received()
        with old.replica.handling():
            task = asyncio.create_task(town.rolling.reload("a"))
            await town.around.changes.wait_for(lambda: not old.replica.in_use)
            assert old.replica.running
        await asyncio.sleep(0)
        assert old.replica.running  # its message is open
        old.says(route("b", "1", {"type": "reply"}) | {"request_id": asked["original_request_id"]})
        assert (await task)["ok"]
        assert old.replica.over
        (answer,) = town.peers["b"][0].received()
        assert content_of(answer) == {"type": "reply"}

    in_town(test, "a", "b")


def test_requests_during_a_reload_make_one_more_after_it() -> None:
    async def test(town: Town) -> None:
        begun, going_on = asyncio.Event(), asyncio.Event()

        async def begin(replica: Scripted) -> None:
            begun.set()
            await going_on.wait()
            await healthy(replica)

        town.begin = begin
        watching = asyncio.create_task(town.rolling.watch())
        town.rolling.ask()
        await begun.wait()
        assert town.rolling.progress is not None
        assert town.rolling.progress["module"] == "a"
        for _ in range(3):
            town.rolling.ask()
        going_on.set()
        await town.around.changes.wait_for(lambda: len(town.made) == 2)
        assert (await town.rolling.reload(None))["ok"]  # waits for the second one
        assert len(town.made) == 3
        watching.cancel()

    in_town(test, "a")


def test_hidden_paths_follow_the_manifest() -> None:
    async def test(town: Town) -> None:
        town.modules["a"].hidden = frozenset({"/old-health"})
        await town.rolling.reload("a")
        assert "/old-health" not in town.modules["a"].hidden
        assert "/health" in town.modules["a"].hidden

    in_town(test, "a")


def test_modules_come_after_those_that_they_depend_on() -> None:
    def module(*dependencies: str) -> Any:
        return SimpleNamespace(declared=SimpleNamespace(depends_on=dict.fromkeys(dependencies)))

    assert in_order({"a": module("c"), "b": module(), "c": module("b", "d"), "d": module()}) == ["b", "d", "c", "a"]


def test_events_and_services_are_those_of_the_process_in_use() -> None:
    async def test(town: Town) -> None:
        old = town.peers["a"][0]
        successor = Peer("a", town.around)
        successor.replica.in_use = False
        successor.up()
        topics, registry = EventRouter(), ServiceRegistry(lambda replica: True)
        for peer, place in ((old, "127.0.0.1:1"), (successor, "127.0.0.1:2")):
            topics.subscribe("news", peer.replica)
            assert registry.register(Register("api", "a-api", place), peer.replica).success
        event = Publish("news", Payload.of(1))

        def found() -> list[str]:
            return [provider.address for provider in registry.discover(Discover("api", True, None)).providers]

        assert (topics.publish(event, "b"), found()) == (1, ["127.0.0.1:1"])
        assert (len(old.received()), len(successor.received())) == (1, 0)
        module = town.modules["a"]
        module.add_beside(successor.replica)
        module.swap(old.replica, successor.replica)
        assert (topics.publish(event, "b"), found()) == (1, ["127.0.0.1:2"])
        assert (len(old.received()), len(successor.received())) == (0, 1)

    in_town(test, "a")


def test_a_request_that_the_old_process_refuses_goes_to_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(town: Town) -> None:
        module, old = town.modules["a"], town.peers["a"][0].replica
        successor = Peer("a", town.around).up().replica
        workspace: Any = SimpleNamespace(
            timeouts=SimpleNamespace(request=1.0),
            logging=Logging(),
            limits=SimpleNamespace(frame=1024**2),
            gateway=WorkspaceGateway(),
        )
        gateway = Gateway(town.modules, workspace)
        asked: list[Replica] = []

        async def handled(replica: Replica, *rest: Any) -> bool:
            asked.append(replica)
            assert replica.requests == 1
            if replica is old:
                module.add_beside(successor)
                module.swap(old, successor)
                return False
            send = rest[-1]
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return True

        monkeypatch.setattr(gateway, "_handled", handled)
        answer = await Call(gateway, http_scope("GET", "/a/x", [("Host", "localhost")])).answer()
        assert (answer.status, asked) == (204, [old, successor])

    in_town(test, "a")


def test_the_connections_to_a_process_that_has_ended_are_closed() -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            left.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address = Address(None, *server.sockets[0].getsockname()[:2])
            pool = UpstreamPool()
            connection = await pool.take(address, fresh=True)
            pool._idle[address].append(connection)
            pool.forget(address)
            assert connection._writer.transport.is_closing()
            assert address not in pool._idle
            pool.forget(address)
            await asyncio.wait_for(left.wait(), 10)

    run(main)


def test_the_last_words_are_errors_with_tracebacks_or_the_last_lines() -> None:
    info = b'{"level": "info", "message": "hello"}'
    fault = b'{"level": "critical", "message": "broken", "exception": "Traceback:\\n  line 1"}'
    assert last_words([info, fault, info]) == ["broken", "Traceback:", "  line 1"]
    assert last_words([b"{not json", b"", *[b"line %d" % n for n in range(30)]]) == [f"line {n}" for n in range(18, 30)]
    assert last_words([]) == []


def test_the_control_socket_answers_with_the_verdict_and_knows_the_modules() -> None:
    async def main() -> None:
        asked: list[str | None] = []

        async def reload(module: str | None) -> dict[str, Any]:
            asked.append(module)
            return {"ok": False, "reason": "the key s3cret-value"}

        wattson: Any = SimpleNamespace(
            status=dict,
            output=SimpleNamespace(mask=lambda text: text.replace("s3cret-value", "***")),
            modules={"users": None},
            reload=reload,
        )
        control = WorkspaceControl(wattson)
        for body, status in ((b'{"module": "users"}', 200), (b"", 200), (b'{"module": "nobody"}', 404)):
            answer = await Call(control, http_scope("POST", "/reload"), [body]).answer()
            assert answer.status == status
            if status == 200:
                assert answer.json() == {"ok": False, "reason": "the key ***"}
        assert asked == ["users", None]

    run(main)


def test_a_reload_that_is_given_up_kills_the_new_process_and_leaves_the_old_one_in_use() -> None:
    async def test(town: Town) -> None:
        async def begin(replica: Scripted) -> None:
            town.rolling.give_up("a", "its files have changed again")

        town.begin = begin
        verdict = await town.rolling.reload("a")
        assert (verdict["ok"], verdict["reason"]) == (False, "a: its files have changed again")
        assert town.made[0].killed == "the reload has failed"
        assert town.modules["a"].replicas[0].in_use
        town.begin = healthy
        assert (await town.rolling.reload("a"))["ok"]

    in_town(test, "a")


@pytest.mark.parametrize("reloaded", [None, "b"])
def test_a_reload_of_all_modules_or_of_another_one_is_not_given_up(reloaded: str | None) -> None:
    async def test(town: Town) -> None:
        async def begin(replica: Scripted) -> None:
            town.rolling.give_up("a", "its files have changed again")
            await healthy(replica)

        town.begin = begin
        assert (await town.rolling.reload(reloaded))["ok"]
        assert town.rolling._given_up == ""

    in_town(test, "a", "b")


def test_a_successor_that_is_not_wanted_any_more_ends_even_if_it_has_not_begun() -> None:
    async def main() -> None:
        around = Around()
        terms = replace(Peer("a", around).replica.terms, launch=lambda: Launch(("sleep", "600"), Path("/"), {}))
        successor = Replica(terms, 1, "a", around, in_use=False)
        successor.discard("it is not wanted")
        await successor.live()
        assert successor.state == "failed"
        assert "it is not wanted" in str(successor.ending)

    run(main)
