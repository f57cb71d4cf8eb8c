"""WebSockets on a real listener, frame for frame: faults, refusals, limits, and what the log says of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from pywatt_host.runtime.event_loop import loop_factory
from tests.http.server.answers import Client
from tests.http.server.connections.case import get
from tests.http.server.connections.upgrades import closing, frame, handshake, server_frame
from tests.http.server.serving import BOUNDS, Served


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served("direct", loop_factory(), BOUNDS) as served:
        yield served
    assert not served.errors


@pytest.fixture
def served(shared: Served) -> Iterator[Served]:
    shared.lines.clear()
    yield shared
    assert not shared.errors


def logged(served: Served, count: int = 1) -> list[str]:
    """The lines of the log, once there are so many: a WebSocket is logged when its application has returned."""
    served.lines.wait(count)
    return served.lines.texts


def opened(served: Served, path: str, then: bytes = b"") -> Client:
    """A client whose handshake has been accepted. What follows the head is still to be read."""
    client = Client(served.address)
    client.send(handshake(path) + then)
    head, _, client.received = client.until(b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    for name in (b"\r\ndate: ", b"\r\nx-request-id: ", b"\r\nsec-websocket-accept: "):
        assert head.lower().count(name) == 1, name
    return client


def test_messages_are_echoed_and_a_close_is_answered(served: Served) -> None:
    with opened(served, "/ws/echo") as client:
        client.send(frame(b"hello", 1) + frame(b"\x00\x01"))
        client.until(server_frame(b"hello", 1) + server_frame(b"\x00\x01"))
        client.send(frame(struct.pack("!H", 1000), 8))
        assert client.rest().endswith(closing(1000))
    assert logged(served) == ["WEBSOCKET /ws/echo 101"]


def test_a_ping_is_answered_between_the_frames_of_a_message(served: Served) -> None:
    with opened(served, "/ws/echo") as client:
        client.send(frame(b"a", 1, fin=False) + frame(b"p", 9) + frame(b"b", 0))
        assert client.until(server_frame(b"ab", 1)).startswith(server_frame(b"p", 10))
    logged(served)


def test_frames_that_arrive_with_the_handshake_are_read_once_it_is_accepted(served: Served) -> None:
    with opened(served, "/ws/echo", frame(b"early", 1)) as client:
        client.until(server_frame(b"early", 1))
    logged(served)


def test_what_is_no_frame_ends_the_connection_with_1002(served: Served) -> None:
    with opened(served, "/ws/echo", get("/echo")) as client:
        assert client.rest()[:4] == b"\x88" + client.received[1:2] + struct.pack("!H", 1002)
    assert logged(served) == ["WEBSOCKET /ws/echo 101"]


@pytest.mark.parametrize("name", ["raises", "exits"])
def test_an_application_that_fails_after_it_has_accepted_closes_with_1011(served: Served, name: str) -> None:
    with opened(served, f"/ws/{name}") as client:
        assert client.rest() == closing(1011)
    assert logged(served) == [f"WEBSOCKET /ws/{name} 101 (application raised)"]


@pytest.mark.parametrize("name", ["raises-first", "bad-header"])
def test_an_application_that_fails_before_it_has_accepted_is_500(served: Served, name: str) -> None:
    with Client(served.address) as client:
        client.send(handshake(f"/ws/{name}"))
        head = client.rest()
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"x-b" not in head
    assert logged(served) == [f"WEBSOCKET /ws/{name} 500 (application raised)"]


def test_an_application_that_returns_before_it_has_accepted_is_500(served: Served) -> None:
    with Client(served.address) as client:
        client.send(handshake("/ws/returns-first"))
        assert client.rest().startswith(b"HTTP/1.1 500 ")
    assert logged(served) == ["WEBSOCKET /ws/returns-first 500 (returned without an answer)"]


def test_a_refusal_has_its_status_on_the_wire_and_in_the_log(served: Served) -> None:
    with Client(served.address) as client:
        client.send(handshake("/ws/refuses"))
        assert client.rest().startswith(b"HTTP/1.1 403 ")
    assert logged(served) == ["WEBSOCKET /ws/refuses 403"]
    served.lines.clear()
    with Client(served.address) as client:
        client.send(handshake("/ws/refuses-with-status"))
        answer = client.rest().lower()
        assert answer.startswith(b"http/1.1 418 ")
        assert b"\r\nx-why: tea\r\n" in answer
        for name in (b"\r\ndate: ", b"\r\nx-request-id: ", b"\r\ncontent-length: "):
            assert answer.count(name) == 1, name
    assert logged(served) == ["WEBSOCKET /ws/refuses-with-status 418"]


def test_a_close_of_the_application_has_its_code_and_reason(served: Served) -> None:
    with opened(served, "/ws/closes") as client:
        client.until(closing(4000, b"done"))
        client.send(frame(struct.pack("!H", 4000), 8))
        assert client.rest() == closing(4000, b"done")
    logged(served)


def test_a_message_over_the_limit_closes_with_1009(served: Served) -> None:
    limit = BOUNDS.websocket_message
    with opened(served, "/ws/echo") as client:
        client.send(frame(b"x" * limit))
        client.until(b"x" * limit)
        client.received = b""
        client.send(frame(b"x" * (limit + 1)))
        assert client.rest()[2:4] == struct.pack("!H", 1009)
    logged(served)


def test_a_message_of_fragments_over_the_limit_closes_with_1009(served: Served) -> None:
    half = b"x" * (BOUNDS.websocket_message // 2 + 1)
    with opened(served, "/ws/echo") as client:
        client.send(frame(half, fin=False) + frame(half, 0))
        assert client.rest()[2:4] == struct.pack("!H", 1009)
    logged(served)


def test_a_websocket_over_their_number_is_503_and_one_that_ends_makes_room(served: Served) -> None:
    with opened(served, "/ws/echo") as first, opened(served, "/ws/echo"):
        with Client(served.address) as third:
            third.send(handshake("/ws/echo"))
            assert third.until(b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")
        assert logged(served) == ["GET /ws/echo 503 (server.limits.websocket.connections)"]
        first.send(frame(struct.pack("!H", 1000), 8))
        first.rest()
        with opened(served, "/ws/echo"):
            pass
    logged(served, 4)


def test_a_client_that_leaves_without_a_close_ends_the_application(served: Served) -> None:
    opened(served, "/ws/echo").sock.close()
    assert logged(served) == ["WEBSOCKET /ws/echo 101"]
