"""Messages between modules: delivered once, answered once, whoever goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.router import MAX_PENDING, Router
from pywatt_host.protocol.messages import RouteToModule
from tests.hosting import run
from tests.orchestrator.conversing import LIMIT, Around, Peer, content_of, module_of, route

ASK = {"type": "ask"}


class Town:
    """Two modules and their router; `b` may have two processes."""

    def __init__(self, replicas: int = 1, timeout: float = 30.0) -> None:
        around = Around()
        modules: dict[str, Module] = {}
        self.router = Router(modules, timeout)
        around.table = {RouteToModule: self.router.route}
        self.a = Peer("a", around).up()
        self.bs = [Peer("b", around, number).up() for number in range(1, replicas + 1)]
        self.b = self.bs[0]
        modules["a"] = module_of(self.a)
        modules["b"] = module_of(*self.bs)


def in_town(test: Callable[[Town], None], **town: Any) -> None:
    async def main() -> None:
        test(Town(**town))

    run(main)


def error_of(peer: Peer) -> str:
    (message,) = peer.received()
    assert message["op"] == "routed_module_response"
    content = content_of(message)
    assert content["type"] == "error"
    assert content["message"]
    return str(content["code"])


def test_a_message_reaches_its_target_and_the_answer_the_one_who_asked() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        (delivered,) = town.b.received()
        assert delivered == {
            "op": "routed_module_message",
            "source_module_id": "a",
            "original_request_id": "1",
            "payload": route("b", "1", ASK)["payload"],
        }
        town.b.says(route("a", "1", {"type": "answer"}))
        (answer,) = town.a.received()
        assert (answer["op"], answer["source_module_id"], answer["request_id"]) == ("routed_module_response", "b", "1")
        assert content_of(answer) == {"type": "answer"}

    in_town(test)


def test_a_second_answer_goes_nowhere() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        for _ in range(3):
            town.b.says(route("a", "1", {"type": "answer"}))
        assert len(town.a.received()) == 1

    in_town(test)


def test_messages_go_to_the_processes_in_turn_and_past_those_that_are_not_healthy() -> None:
    def test(town: Town) -> None:
        for number in range(4):
            town.a.says(route("b", str(number), ASK))
        assert [len(peer.received()) for peer in town.bs] == [2, 2]
        town.bs[1].replica.health = {"status": "unhealthy"}
        for number in range(4, 8):
            town.a.says(route("b", str(number), ASK))
        assert [len(peer.received()) for peer in town.bs] == [4, 0]
        town.bs[0].replica.drains()
        town.a.says(route("b", "9", ASK))  # nobody healthy is left, so the one that runs has to do
        assert [len(peer.received()) for peer in town.bs] == [0, 1]

    in_town(test, replicas=2)


def test_a_target_that_does_not_exist_is_said_at_once() -> None:
    def test(town: Town) -> None:
        town.a.says(route("nobody", "1", ASK))
        assert error_of(town.a) == "unknown_target"

    in_town(test)


def test_a_target_that_ends_before_it_answers_is_said_at_once() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        town.router.gone(town.b.replica)
        assert error_of(town.a) == "handler_failed"

    in_town(test)


def test_no_answer_in_time_is_a_timeout_and_a_late_one_goes_nowhere() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        town.router.expire(time.time())
        assert town.a.received() == []
        town.router.expire(time.time() + 31)
        assert error_of(town.a) == "timeout"
        town.b.says(route("a", "1", {"type": "late"}))
        assert town.a.received() == []

    in_town(test)


def test_the_deadline_of_the_sender_counts_where_it_is_sooner() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK, deadline=time.time() - 1))
        assert error_of(town.a) == "timeout"
        assert town.b.received() == []
        town.a.says(route("b", "2", ASK, deadline="soon"))
        assert len(town.b.received()) == 1

    in_town(test)


def test_a_message_waits_for_a_target_that_is_started_again() -> None:
    def test(town: Town) -> None:
        town.b.replica.state = "backoff"
        town.a.says(route("b", "1", ASK))
        assert (town.a.received(), town.b.received()) == ([], [])
        town.b.replica.state = "running"
        town.router.flush()
        assert len(town.b.received()) == 1

    in_town(test)


def test_it_does_not_wait_for_one_that_will_never_be_there() -> None:
    def test(town: Town) -> None:
        town.b.replica.state = "failed"
        town.a.says(route("b", "1", ASK))
        assert error_of(town.a) == "handler_failed"

    in_town(test)


def test_what_waits_is_bounded() -> None:
    def test(town: Town) -> None:
        town.b.replica.state = "backoff"
        for number in range(300):
            town.a.says(route("b", str(number), ASK))
        assert {content_of(each)["code"] for each in town.a.received()} == {"handler_failed"}
        assert town.router.counts["parked"] == 256

    in_town(test)


def test_a_request_id_that_is_in_use_is_refused() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        town.a.says(route("b", "1", ASK))
        assert error_of(town.a) == "invalid_message"
        assert len(town.b.received()) == 1

    in_town(test)


def test_what_is_longer_than_a_frame_comes_back_as_too_large() -> None:
    def test(town: Town) -> None:
        # As byte numbers it is longer on its way out than it was, with spaces less, on its way in.
        town.a.connection.wire._decoder.limit = 10 * LIMIT  # type: ignore[attr-defined]
        town.a.says(route("b", "1", {"type": "ask", "text": "x" * LIMIT}))
        assert error_of(town.a) == "too_large"
        town.a.says(route("b", "2", ASK))
        town.b.connection.wire._decoder.limit = 10 * LIMIT  # type: ignore[attr-defined]
        town.b.received()
        town.b.says(route("a", "2", {"type": "answer", "text": "x" * LIMIT}))
        assert error_of(town.a) == "too_large"

    in_town(test)


def test_a_target_that_does_not_read_is_sent_no_more() -> None:
    def test(town: Town) -> None:
        town.b.pipe.stuck = 65 * 1024**2
        town.b.connection.wire.pause_writing()
        town.a.says(route("b", "1", ASK))
        assert error_of(town.a) == "handler_failed"
        assert town.b.received() == []

    in_town(test)


def test_who_asked_and_has_gone_is_nobodys_trouble() -> None:
    def test(town: Town) -> None:
        town.a.says(route("b", "1", ASK))
        town.a.connection.abort()
        town.b.says(route("a", "1", {"type": "answer"}))
        town.a.pipe.written = b""

    in_town(test)


@pytest.mark.parametrize("payload", [{"data": [1, 2], "format": "Json"}, {"data": [], "format": "Binary"}])
def test_content_that_nobody_can_read_is_the_targets_to_refuse(payload: dict[str, Any]) -> None:
    def test(town: Town) -> None:
        town.a.says({**route("b", "1", ASK), "payload": payload})
        assert town.b.received()[0]["payload"] == payload

    in_town(test)


def test_the_number_of_open_messages_is_bounded() -> None:
    assert MAX_PENDING <= 65536


def test_a_message_to_oneself_and_its_answer_are_told_apart() -> None:
    def test(town: Town) -> None:
        town.a.says(route("a", "1", ASK))
        (delivered,) = town.a.received()
        assert delivered["op"] == "routed_module_message"
        town.a.says(route("a", "1", {"type": "answer"}))
        (answer,) = town.a.received()
        assert answer["op"] == "routed_module_response"

    in_town(test)
