"""Connections are passed between processes: each arrives once, or stays with its sender."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import pytest

from pywatt_host.net import passing
from pywatt_host.net.passing import UNCONFIRMED, PassingChannel


@pytest.fixture
def ends() -> Iterator[tuple[PassingChannel, PassingChannel]]:
    near, far = (PassingChannel(sock) for sock in socket.socketpair())
    yield near, far
    near.close()
    far.close()


def pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    return stack.enter_context(near), stack.enter_context(far)


def open_descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


@pytest.mark.parametrize("linux", [True, False], ids=["by looking ahead", "by one read"])
def test_a_connection_arrives_with_the_number_of_its_listener(
    ends: tuple[PassingChannel, PassingChannel], monkeypatch: pytest.MonkeyPatch, linux: bool
) -> None:
    if not linux:
        monkeypatch.setattr(passing, "_LINUX", False)
        monkeypatch.setattr(passing, "_AHEAD", 1)
    elif not passing._LINUX:
        pytest.skip("needs Linux")
    near, far = ends
    with ExitStack() as stack:
        clients = []
        for number in (0, 254):
            connection, client = pair(stack)
            assert near.send(connection, number)
            connection.close()
            clients.append(client)
        assert near.unconfirmed == 2
        received = far.receive()
        assert [number for number, _ in received] == [0, 254]
        for (_, sock), client in zip(received, clients, strict=True):
            stack.enter_context(sock)
            assert not sock.getblocking()
            assert not sock.get_inheritable()
            sock.send(b"x")
            assert client.recv(1) == b"x"
        assert near.receive() == []
        assert near.unconfirmed == 0


def test_both_sides_pass_at_once_and_confirmations_are_told_from_connections(
    ends: tuple[PassingChannel, PassingChannel],
) -> None:
    near, far = ends
    with ExitStack() as stack:
        for number in range(10):
            connection, _ = pair(stack)
            assert near.send(connection, number)
            for _, sock in far.receive():
                stack.enter_context(sock)
            assert far.send(connection, number)
        received = near.receive()
        assert [number for number, _ in received] == list(range(10))
        for _, sock in received:
            stack.enter_context(sock)
        assert near.unconfirmed == 0
        assert far.receive() == []
        assert far.unconfirmed == 0


def test_a_full_channel_keeps_nothing_and_goes_on_once_it_is_read(ends: tuple[PassingChannel, PassingChannel]) -> None:
    near, far = ends
    with ExitStack() as stack:
        connection, client = pair(stack)
        for _ in range(UNCONFIRMED):
            assert near.send(connection, 1)
        assert not near.send(connection, 1)
        received = far.receive() + far.receive()
        assert len(received) == UNCONFIRMED
        for _, sock in received:
            sock.close()
        assert not near.waiting()
        assert near.send(connection, 1)
        for _, sock in far.receive():
            sock.close()
        connection.close()
        assert client.recv(1) == b""  # no copy is open


def test_at_most_so_many_are_received_at_once(ends: tuple[PassingChannel, PassingChannel]) -> None:
    near, far = ends
    with ExitStack() as stack:
        connection, _ = pair(stack)
        for _ in range(3):
            near.send(connection, 0)
        assert far.receive(0) == []
        for expected in (2, 1):
            received = far.receive(2)
            assert len(received) == expected
            for _, sock in received:
                sock.close()


@pytest.mark.skipif(not passing._LINUX, reason="other systems close what has no descriptor")
def test_without_a_descriptor_the_connection_stays_in_the_channel(ends: tuple[PassingChannel, PassingChannel]) -> None:
    near, far = ends
    with ExitStack() as stack:
        connection, client = pair(stack)
        assert near.send(connection, 7)
        connection.close()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                far.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert open_descriptors() == before
        ((number, sock),) = far.receive()
        with sock:
            assert number == 7
            sock.send(b"x")
            assert client.recv(1) == b"x"


def test_what_was_sent_before_the_end_is_received(ends: tuple[PassingChannel, PassingChannel]) -> None:
    near, far = ends
    with ExitStack() as stack:
        connection, _ = pair(stack)
        near.send(connection, 3)
        near.finish()
        assert not far.ended
        ((number, sock),) = far.receive(1)
        sock.close()
        assert number == 3
        assert far.receive() == []
        assert far.ended
        assert far.send(connection, 4)  # the other direction is open still
        ((number, sock),) = near.receive()
        sock.close()
        assert number == 4


def test_a_sender_whose_reader_has_gone_keeps_the_connection(ends: tuple[PassingChannel, PassingChannel]) -> None:
    near, far = ends
    with ExitStack() as stack:
        connection, client = pair(stack)
        assert near.send(connection, 0)
        far.close()
        assert not near.send(connection, 0)
        assert near.receive() == []
        assert near.ended
        assert near.unconfirmed == 1  # to be passed to somebody else
        connection.send(b"x")
        assert client.recv(1) == b"x"
        near.finish()


def test_the_number_of_a_listener_fits_a_byte(ends: tuple[PassingChannel, PassingChannel]) -> None:
    with ExitStack() as stack:
        connection, _ = pair(stack)
        for number in (-1, 255):
            with pytest.raises(ValueError, match="not the number of a listener"):
                ends[0].send(connection, number)


def test_what_the_other_side_has_not_received_is_taken_back() -> None:
    one, two = socket.socketpair()
    near, far = PassingChannel(one, two.dup()), PassingChannel(two)
    with ExitStack() as stack:
        stack.callback(near.close)
        stack.callback(far.close)
        ours, theirs = pair(stack)
        assert near.send(ours, 1)
        assert far.send(theirs, 9)
        (passed,) = far.receive()  # and confirmed
        (given,) = near.receive()  # and confirmed, which `far` has not read
        for number in (2, 3):
            assert near.send(ours, number)
        assert (near.unconfirmed, far.unconfirmed) == (2, 1)
        assert near.take_back() == 2
        assert near.take_back() == 0
        assert near.unconfirmed == 0
        assert far.receive() == []
        assert far.unconfirmed == 0  # the confirmation has arrived all the same
        assert near.send(ours, 4)
        (again,) = far.receive()
        assert again[0] == 4
        for _, sock in (passed, given, again):
            sock.close()


def test_nothing_is_received_while_the_other_side_takes_back() -> None:
    one, two = socket.socketpair()
    alone = [False]
    near, far = PassingChannel(one), PassingChannel(two, alone=lambda: nullcontext(alone[0]))
    with ExitStack() as stack:
        stack.callback(near.close)
        stack.callback(far.close)
        ours, _ = pair(stack)
        assert near.send(ours, 1)
        assert not far.waiting()
        assert far.receive() == []
        alone[0] = True
        assert far.waiting()
        ((number, sock),) = far.receive()
        sock.close()
        assert number == 1


def test_no_descriptor_is_left_open() -> None:
    before = open_descriptors()
    near, far = (PassingChannel(sock) for sock in socket.socketpair())
    with ExitStack() as stack:
        connection, _ = pair(stack)
        for _ in range(50):
            near.send(connection, 0)
        for _, sock in far.receive(10):
            sock.close()
    far.close()
    near.close()
    assert open_descriptors() == before
