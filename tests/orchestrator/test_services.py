"""What modules ask the orchestrator for: services, ports, topics, secrets, stores."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pywatt_host.manifest.model import Cache, Database
from pywatt_host.manifest.model.secrets import SecretKey
from pywatt_host.orchestrator.dispatch import ModuleRequests
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.ports import Ports
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.rotations import Rotations, refused
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.stores import Stores
from pywatt_host.orchestrator.topics import EventRouter
from pywatt_host.protocol.messages import EXTENSIONS
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.environment import EnvironmentSource
from pywatt_host.stores.kinds import StoreContext
from pywatt_host.stores.service import Datastores
from tests.hosting import run
from tests.orchestrator.conversing import Around, Peer, module_of

VALUES = {"TOKEN": "the-first-token", "OTHER": "another-secret"}


class Office:
    """Modules `a` (may have TOKEN alone) and `b`, and everybody who answers them."""

    def __init__(self, databases: Mapping[str, Database], caches: Mapping[str, Cache]) -> None:
        around = Around()
        self.values = dict(VALUES)
        self.store = SecretStore({"TOKEN": SecretKey()}, [EnvironmentSource(self.values)], Masker())
        modules: dict[str, Module] = {}
        self.registry = ServiceRegistry(
            replicas=lambda: [replica for module in modules.values() for replica in module.replicas]
        )
        self.ports, self.topics = Ports(), EventRouter()
        self.rotations = Rotations(
            self.store, lambda: [replica for module in modules.values() for replica in module.replicas]
        )
        around_stores = StoreContext(Path("/"), "wattson")
        self.stores = Stores(
            Datastores(databases, caches, dict, around_stores, start_period=5, rotates=False) if databases else None,
            self.store.mask,
        )
        requests = ModuleRequests(
            modules,
            Router(modules, 5),
            self.registry,
            self.ports,
            self.topics,
            self.rotations,
            self.store,
            self.stores,
        )
        around.table = requests.dispatch
        self.a, self.b = Peer("a", around).up(), Peer("b", around).up()
        modules["a"] = module_of(self.a, secrets=("TOKEN",))
        modules["b"] = module_of(self.b, secrets=("TOKEN", "OTHER"))

    def ask(self, peer: Peer, message: dict[str, Any]) -> dict[str, Any]:
        peer.says(message)
        (answer,) = peer.received()
        return answer


def in_office(
    test: Callable[[Office], Awaitable[None]],
    *,
    databases: Mapping[str, Database] = MappingProxyType({}),
    caches: Mapping[str, Cache] = MappingProxyType({}),
) -> None:
    async def main() -> None:
        office = Office(databases, caches)
        await office.store.load()
        await test(office)

    run(main)


async def settled(peer: Peer) -> list[dict[str, Any]]:
    """What it is sent as soon as it is sent anything; nothing, where that does not happen in a moment."""
    for _ in range(20):
        if peer.pipe.written:
            break
        await asyncio.sleep(0.005)
    return peer.received()


# Services -----------------------------------------------------------------------------------------------------------

REGISTER = {
    "op": "register_service_provider",
    "service_type": {"Custom": "api"},
    "name": "users",
    "version": None,
    "address": "127.0.0.1:1",
    "metadata": {"v": "1"},
}
DISCOVER = {"op": "discover_service_providers", "service_type": {"Custom": "api"}, "all_providers": None}


def test_a_service_that_is_registered_is_found_as_long_as_its_process_lives() -> None:
    async def test(office: Office) -> None:
        registered = office.ask(office.a, REGISTER)
        assert registered["success"] is True
        found = office.ask(office.b, DISCOVER)
        assert found["providers"] == [
            {
                "provider_id": registered["provider_id"],
                "module_id": "a",
                "service_type": {"Custom": "api"},
                "name": "users",
                "version": None,
                "address": "127.0.0.1:1",
                "metadata": {"v": "1"},
                "is_healthy": True,
            }
        ]
        assert office.ask(office.a, REGISTER)["provider_id"] == registered["provider_id"]
        office.registry.gone(office.a.replica)
        assert office.ask(office.b, DISCOVER)["providers"] == []

    in_office(test)


def test_one_healthy_provider_is_found_or_all_of_them_with_the_healthy_ones_first() -> None:
    async def test(office: Office) -> None:
        office.ask(office.a, REGISTER)
        office.ask(office.b, REGISTER)
        office.a.replica.health = {"status": "unhealthy"}
        assert [each["module_id"] for each in office.ask(office.b, DISCOVER)["providers"]] == ["b"]
        every = office.ask(office.b, {**DISCOVER, "all_providers": True})["providers"]
        assert [(each["module_id"], each["is_healthy"]) for each in every] == [("b", True), ("a", False)]

    in_office(test)


@pytest.mark.parametrize(
    ("name", "kind", "refused"),
    [
        ("b", {"Custom": "api"}, True),
        ("B", {"Custom": "api"}, True),
        ("b", {"Custom": "module"}, True),
        ("b", "Database", True),
        ("a", {"Custom": "api"}, False),
        ("A", {"Custom": "api"}, False),
        ("b-api", {"Custom": "api"}, False),
        ("c", {"Custom": "api"}, False),
    ],
)
def test_no_service_is_registered_under_the_id_of_another_module(name: str, kind: object, refused: bool) -> None:
    async def test(office: Office) -> None:
        answer = office.ask(office.a, {**REGISTER, "name": name, "service_type": kind})
        assert answer["success"] is not refused
        if refused:
            assert answer["error"] == f"{name} is the id of another module: give the service another name"
            assert office.registry.all() == []

    in_office(test)


def test_a_module_is_found_by_its_id_and_a_service_by_its_name() -> None:
    async def test(office: Office) -> None:
        office.b.replica.announce = None
        for peer in (office.a, office.b):
            office.ask(peer, {**REGISTER, "name": peer.replica.module})
        assert office.ask(office.a, REGISTER)["success"] is True

        def located(name: str) -> list[tuple[str, str]]:
            message = {**DISCOVER, "service_type": {"Custom": f"module:{name}"}, "all_providers": True}
            return [(each["module_id"], each["address"]) for each in office.ask(office.b, message)["providers"]]

        assert located("a") == [("a", "http://127.0.0.1:1")]
        assert located("b") == []  # it does not listen, and its service is not the module
        assert located("users") == [("a", "127.0.0.1:1")]

    in_office(test)


def test_the_orchestrator_says_honestly_that_it_has_no_stores() -> None:
    async def test(office: Office) -> None:
        answer = office.ask(office.a, {"op": "service_request", "id": "1", "service_type": "Database", "config": None})
        assert (answer["success"], answer["connection_id"]) == (False, None)
        assert "there is no store 'default' of the type Database (the workspace declares none)" in answer["error"]
        operation = {"op": "service_operation", "connection_id": "1", "service_type": "Cache", "operation": "get"}
        office.a.says({**operation, "params": {}})
        await asyncio.sleep(0.01)
        (answer,) = office.a.received()
        assert (answer["success"], answer["error"]) == (False, "connection: there is no such connection")

    in_office(test)


# Ports --------------------------------------------------------------------------------------------------------------


def test_a_port_is_handed_out_once() -> None:
    async def test(office: Office) -> None:
        first = office.ask(office.a, {"op": "port_request", "request_id": "1", "specific_port": None})
        assert first["success"] is True
        wanted = {"op": "port_request", "request_id": "2", "specific_port": first["port"]}
        assert office.ask(office.b, wanted)["success"] is False
        assert office.ask(office.a, wanted)["success"] is True
        office.ports.gone(office.a.replica)
        assert office.ask(office.b, wanted)["success"] is True

    in_office(test)


def test_a_port_that_somebody_else_listens_on_is_not_handed_out() -> None:
    async def test(office: Office) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            wanted = {"op": "port_request", "request_id": "1", "specific_port": taken.getsockname()[1]}
            answer = office.ask(office.a, wanted)
            assert (answer["success"], answer["port"]) == (False, None)
            assert "in use" in answer["error_message"]

    in_office(test)


# Topics -------------------------------------------------------------------------------------------------------------


def test_what_is_published_reaches_those_who_subscribed_until_they_do_not_any_more() -> None:
    async def test(office: Office) -> None:
        publish = {"op": "publish", "topic": "orders", "payload": {"data": [49], "format": "Json"}}
        office.b.says({"op": "subscribe", "topic": "orders"})
        office.a.says(publish)
        (event,) = office.b.received()
        assert event == {
            "op": "event",
            "topic": "orders",
            "source_module_id": "a",
            "payload": {"data": [49], "format": "Json"},
        }
        office.b.says({"op": "unsubscribe", "topic": "orders"})
        office.a.says(publish)
        assert office.b.received() == []
        office.b.says({"op": "subscribe", "topic": "orders"})
        office.topics.gone(office.b.replica)
        office.a.says(publish)
        assert office.b.received() == []

    in_office(test)


def test_a_topic_that_is_too_long_is_refused() -> None:
    async def test(office: Office) -> None:
        office.a.connection.session.extensions = EXTENSIONS
        assert office.ask(office.a, {"op": "subscribe", "topic": "x" * 201})["code"] == "refused"

    in_office(test)


# Secrets ------------------------------------------------------------------------------------------------------------


def test_a_secret_is_given_in_the_plain_shape_and_with_the_request_id_where_there_was_one() -> None:
    async def test(office: Office) -> None:
        answer = office.ask(office.a, {"op": "get_secret", "name": "TOKEN"})
        assert answer == {"op": "secret", "name": "TOKEN", "value": "the-first-token"}
        with_id = office.ask(office.a, {"op": "get_secret", "name": "TOKEN", "request_id": "7"})
        assert with_id["request_id"] == "7"

    in_office(test)


def test_a_module_gets_the_secrets_that_it_may_read_also_those_that_the_workspace_does_not_declare() -> None:
    async def test(office: Office) -> None:
        office.b.says({"op": "get_secret", "name": "OTHER"})
        assert await settled(office.b) == [{"op": "secret", "name": "OTHER", "value": "another-secret"}]

    in_office(test)


@pytest.mark.parametrize("name", ["OTHER", "../passwd", "", "MISSING"])
def test_what_a_module_may_not_have_or_nobody_has_is_an_error_where_the_module_knows_errors(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(office: Office) -> None:
        office.a.says({"op": "get_secret", "name": name})
        assert await settled(office.a) == []  # in the original's shapes there is no way to say no
        office.a.says({"op": "get_secret", "name": name, "request_id": "1"})
        (error,) = await settled(office.a)
        assert (error["op"], error["code"], error["request_id"]) == ("error", "unknown_secret", "1")

    with caplog.at_level(logging.WARNING):
        in_office(test)
    assert "another-secret" not in caplog.text


def test_a_rotation_is_told_to_those_who_asked_for_the_secret_and_acknowledged_by_each() -> None:
    async def test(office: Office) -> None:
        office.ask(office.a, {"op": "get_secret", "name": "TOKEN"})
        office.values["TOKEN"] = "the-second-token"
        rotating = asyncio.ensure_future(office.rotations.rotate(["TOKEN"], "the test"))
        (rotated,) = await settled(office.a)
        assert (rotated["op"], rotated["keys"], await settled(office.b)) == ("rotated", ["TOKEN"], [])
        assert office.ask(office.a, {"op": "get_secret", "name": "TOKEN"})["value"] == "the-second-token"
        office.a.says({"op": "rotation_ack", "rotation_id": rotated["rotation_id"], "status": "success"})
        report = await rotating
        assert report == {"rotation_id": rotated["rotation_id"], "keys": ["TOKEN"], "acknowledged": {"a.1": "success"}}
        assert not refused(report)

    in_office(test)


def test_a_module_that_refuses_a_rotation_or_ends_before_it_answers_is_named() -> None:
    async def test(office: Office) -> None:
        for peer in (office.a, office.b):
            office.ask(peer, {"op": "get_secret", "name": "TOKEN"})
        rotating = asyncio.ensure_future(office.rotations.rotate(["TOKEN"], "the test"))
        (rotated,) = await settled(office.a)
        ack = {"op": "rotation_ack", "rotation_id": rotated["rotation_id"], "status": "error", "message": "no\nway"}
        office.a.says(ack)
        office.rotations.gone(office.b.replica)
        report = await rotating
        assert report["acknowledged"] == {"a.1": "error: no\\nway", "b.1": "no answer"}
        assert refused(report)

    in_office(test)


def test_a_secret_that_nobody_knows_cannot_be_rotated_and_one_that_is_gone_keeps_its_value() -> None:
    async def test(office: Office) -> None:
        from pywatt_host.exceptions import SecretError

        with pytest.raises(SecretError, match="not declared in the workspace"):
            await office.rotations.rotate(["NOTHING"], "the test")
        del office.values["TOKEN"]
        with pytest.raises(SecretError, match="TOKEN"):
            await office.rotations.rotate(["TOKEN"], "the test")
        assert office.store.secret_values["TOKEN"] == "the-first-token"

    in_office(test)


# Stores ---------------------------------------------------------------------------------------------------------------


def test_the_error_of_a_store_has_no_secret_in_it() -> None:
    async def test(office: Office) -> None:
        async with asyncio.TaskGroup() as tasks, office.stores.running(tasks):
            request = {"op": "service_request", "service_type": "Database", "config": {"store": "shared"}, "id": "1"}
            connection = office.ask(office.a, request)["connection_id"]
            operation = {"op": "service_operation", "service_type": "Database", "operation": "fetch"}
            params = {"query": f'SELECT * FROM "{VALUES["TOKEN"]}"'}
            office.a.says({**operation, "connection_id": connection, "params": params})
            answers: list[dict[str, Any]] = []
            while not answers:
                await asyncio.sleep(0.01)
                answers = office.a.received()
            assert "***" in answers[0]["error"]
            assert VALUES["TOKEN"] not in answers[0]["error"]

    in_office(test, databases={"shared": Database.model_validate({"url": "sqlite:///:memory:"})})


def test_operations_without_an_id_are_answered_in_the_order_in_which_they_were_asked() -> None:
    """A fast one on one connection waits for a slow one that was asked before on another."""

    async def test(office: Office) -> None:
        async with asyncio.TaskGroup() as tasks, office.stores.running(tasks):
            request = {"op": "service_request", "service_type": "Database", "config": {"store": "shared"}}
            ids = [office.ask(office.a, {**request, "id": number})["connection_id"] for number in ("1", "2")]
            assert len(set(ids)) == 2
            numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300000)"
            slow = f"{numbers} SELECT max(x) FROM c"
            operation = {"op": "service_operation", "service_type": "Database", "operation": "fetch"}
            office.a.says({**operation, "connection_id": ids[0], "params": {"query": slow}})
            office.a.says({**operation, "connection_id": ids[1], "params": {"query": "SELECT 2 AS v"}})
            office.a.says({**operation, "connection_id": "nothing", "params": {}})
            office.a.says({**operation, "connection_id": ids[1], "operation": "nonsense", "params": {}})
            # Another module's connection is none of its business.
            office.b.says({**operation, "connection_id": ids[0], "params": {"query": "SELECT 1"}})
            answers: list[dict[str, Any]] = []
            while len(answers) < 4:
                await asyncio.sleep(0.01)
                answers += office.a.received()
            assert [each["result"]["rows"] if each["success"] else each["error"] for each in answers] == [
                [[300000]], [[2]], "connection: there is no such connection",
                "arguments: there is no operation 'nonsense'",
            ]  # fmt: skip
            (refused,) = office.b.received()
            assert (refused["success"], refused["error"]) == (False, "connection: there is no such connection")
            # Whoever closes does not wait for what runs, nor for what waits behind it.
            endless = slow.replace("300000", "3000000000")
            office.a.says({**operation, "connection_id": ids[0], "params": {"query": endless}})
            office.a.says({**operation, "connection_id": ids[0], "params": {"query": "SELECT 1"}})
            await asyncio.sleep(0.05)
            office.a.says({**operation, "connection_id": ids[0], "operation": "close", "params": None})
            answers = []
            while len(answers) < 3:
                await asyncio.sleep(0.01)
                answers += office.a.received()
            closed = "unavailable: the connection was closed"
            assert [(each["success"], each["error"]) for each in answers] == [
                (False, closed),
                (False, closed),
                (True, None),
            ]
            office.a.says({**operation, "connection_id": ids[0], "params": {"query": "SELECT 1"}})
            answers = []
            while len(answers) < 1:
                await asyncio.sleep(0.01)
                answers += office.a.received()
            assert [each["success"] for each in answers] == [False]
            assert office.stores._waiting[office.a.replica] == 0

    in_office(test, databases={"shared": Database.model_validate({"url": "sqlite:///:memory:"})})


def test_a_store_that_is_not_declared_and_too_many_connections_are_refused() -> None:
    async def test(office: Office) -> None:
        async with asyncio.TaskGroup() as tasks, office.stores.running(tasks):
            request = {"op": "service_request", "service_type": "Database", "id": "1"}
            answer = office.ask(office.a, {**request, "config": {"store": "other"}})
            assert "there is no store 'other' of the type Database (declared: shared)" in answer["error"]
            answer = office.ask(office.a, {**request, "service_type": "Cache", "config": {"store": "shared"}})
            assert "the workspace declares none" in answer["error"]
            answers = [office.ask(office.a, {**request, "config": {"store": "shared"}}) for _ in range(257)]
            assert [each["success"] for each in answers] == [True] * 256 + [False]
            assert office.ask(office.b, {**request, "config": {"store": "shared"}})["success"]
            office.stores.gone(office.a.replica)
            assert office.ask(office.a, {**request, "config": {"store": "shared"}})["success"]

    in_office(test, databases={"shared": Database.model_validate({"url": "sqlite:///:memory:"})})


@pytest.mark.parametrize("kind", ["Database", "Cache"])
@pytest.mark.parametrize("params", [None, 5, [], {}, {"query": 5}, {"key": 5}, {"key": "k", "value": 5, "ttl": "x"}])
def test_every_operation_with_hostile_words_is_answered(kind: str, params: Any) -> None:
    operations = (
        "fetch", "execute", "execute_many", "cursor", "next", "close_cursor", "begin", "commit", "rollback",
        "savepoint", "release_savepoint", "rollback_to", "apply_once", "reset", "get", "get_many", "set", "set_many",
        "add", "delete", "exists", "increment", "release", "clear", "nonsense",
    )  # fmt: skip

    async def test(office: Office) -> None:
        async with asyncio.TaskGroup() as tasks, office.stores.running(tasks):
            request = {"op": "service_request", "service_type": kind, "config": {"store": "shared"}, "id": "1"}
            connection = office.ask(office.a, request)["connection_id"]
            for operation in operations:
                said = {"op": "service_operation", "service_type": kind, "operation": operation, "params": params}
                office.a.says({**said, "connection_id": connection})
            answers: list[dict[str, Any]] = []
            while len(answers) < len(operations):
                await asyncio.sleep(0.01)
                answers += office.a.received()
            assert not any("the operation failed" in (each["error"] or "") for each in answers)

    in_office(
        test,
        databases={"shared": Database.model_validate({"url": "sqlite:///:memory:"})},
        caches={"shared": Cache.model_validate({"url": "memory://"})},
    )
