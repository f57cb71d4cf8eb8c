"""The link to a zygote: messages and descriptors arrive whole, however they are cut."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.workers import link
from pywatt_host.workers.link import (
    MAX_DESCRIPTORS,
    CodeLoaded,
    Forked,
    LoadFailed,
    Receiver,
    WorkerEnded,
    close_all,
    send,
    tell,
)


@dataclass
class Pair:
    ours: socket.socket
    theirs: socket.socket

    def received(self, receiver: Receiver, count: int) -> list[tuple[Any, list[int]]]:
        """The next messages, or those until the other side has ended."""
        found: list[tuple[Any, list[int]]] = []
        while len(found) < count and not receiver.ended:
            found += receiver.receive()
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(20)
        yield Pair(ours, theirs)


def files(*texts: bytes) -> list[int]:
    """Descriptors, each with its text to read."""
    found = []
    for text in texts:
        reading, writing = os.pipe()
        os.write(writing, text)
        os.close(writing)
        found.append(reading)
    return found


def read_all(descriptors: list[int]) -> list[bytes]:
    texts = [os.read(descriptor, 100) for descriptor in descriptors]
    close_all(descriptors)
    return texts


def test_messages_that_arrive_together_keep_their_own_descriptors(pair: Pair) -> None:
    for message, descriptors in ((Forked(1, 2), files(b"a", b"b")), (CodeLoaded(0), []), (Forked(3, 4), files(b"c"))):
        send(pair.ours, message, descriptors)
        close_all(descriptors)
    received = pair.received(Receiver(pair.theirs), 3)
    assert [message for message, _ in received] == [Forked(1, 2), CodeLoaded(0), Forked(3, 4)]
    assert [read_all(descriptors) for _, descriptors in received] == [[b"a", b"b"], [], [b"c"]]


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 3)), max_size=5), st.lists(st.integers(1, 40)))
def test_messages_arrive_whole_under_any_chunking(messages: list[tuple[bytes, int]], cuts: list[int]) -> None:
    """What one `send` writes is written in pieces: the descriptors come with the first byte of their header."""
    recorder = _Recorder()
    sent: list[int] = []
    for number, (data, count) in enumerate(messages):
        descriptors = files(*(b"%d.%d" % (number, each) for each in range(count)))
        sent += descriptors
        send(recorder, data, descriptors)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        receiver = Receiver(theirs)
        found: list[tuple[Any, list[int]]] = []
        for data, rights in recorder.pieces(cuts):
            ours.sendmsg([data], rights)
            found += receiver.receive()
        while len(found) < len(messages):
            found += receiver.receive()
        assert list(receiver.receive()) == []
    close_all(sent)
    assert [message for message, _ in found] == [data for data, _ in messages]
    for number, ((_, descriptors), (_, count)) in enumerate(zip(found, messages, strict=True)):
        assert read_all(descriptors) == [b"%d.%d" % (number, each) for each in range(count)]


class _Recorder:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self._sent: list[tuple[bytes, Any]] = []

    def sendmsg(self, parts: list[bytes], rights: Any) -> int:
        self._sent.append((b"".join(parts), rights))
        return len(self._sent[-1][0])

    def send(self, data: memoryview) -> int:
        self._sent.append((bytes(data), []))
        return len(data)

    def pieces(self, cuts: list[int]) -> Iterator[tuple[bytes, Any]]:
        sizes = iter(cuts)
        for data, rights in self._sent:
            while data:
                size = next(sizes, 64)
                yield data[:size], rights
                data, rights = data[size:], []


def test_a_message_longer_than_the_buffers_is_taken_in_pieces(pair: Pair) -> None:
    data = os.urandom(3_000_000)
    pair.ours.setblocking(False)
    descriptors = files(b"with it")
    sending = threading.Thread(target=send, args=(pair.ours, data, descriptors))
    sending.start()
    ((message, received),) = pair.received(Receiver(pair.theirs), 1)
    sending.join(20)
    assert message == data
    assert read_all(received) == [b"with it"]
    close_all(descriptors)


def test_as_many_descriptors_as_a_message_may_have_arrive_and_none_is_inherited(pair: Pair) -> None:
    descriptors = files(*(b"%d" % number for number in range(MAX_DESCRIPTORS)))
    send(pair.ours, Forked(1, 2), descriptors)
    ((_, received),) = pair.received(Receiver(pair.theirs), 1)
    assert not any(os.get_inheritable(each) for each in received)
    assert read_all(received) == [b"%d" % number for number in range(MAX_DESCRIPTORS)]
    close_all(descriptors)


def test_the_end_of_the_other_side_is_told_after_what_it_has_sent(pair: Pair) -> None:
    send(pair.ours, WorkerEnded(1, -9))
    pair.ours.close()
    receiver = Receiver(pair.theirs)
    assert pair.received(receiver, 2) == [(WorkerEnded(1, -9), [])]
    assert receiver.ended


@pytest.mark.parametrize(
    "message",
    [CodeLoaded(2), LoadFailed(3, "it raised", 'Traceback: "é"\n'), Forked(1, 2), WorkerEnded(1, -9)],
    ids=lambda message: type(message).__name__,
)
def test_what_a_zygote_tells_arrives(pair: Pair, message: Any) -> None:
    tell(pair.ours, message)
    assert pair.received(Receiver(pair.theirs, of_zygote=True), 1) == [(message, [])]


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(os.getcwd), b"[]", b'["Start", {}]', b'["Forked", {"key": 1}]', b"{", b'["Forked", 1]'],
)
def test_what_is_no_message_of_a_zygote_ends_the_link_and_runs_nothing(pair: Pair, content: bytes) -> None:
    pair.ours.sendall(struct.pack(">IB", len(content), 0) + content)
    receiver = Receiver(pair.theirs, of_zygote=True)
    assert list(receiver.receive()) == []
    assert receiver.ended


def test_a_message_that_is_said_to_be_huge_ends_the_link(pair: Pair) -> None:
    pair.ours.sendall(struct.pack(">IB", 2**32 - 1, 0))
    receiver = Receiver(pair.theirs)
    assert list(receiver.receive()) == []
    assert receiver.ended


def test_nothing_there_is_no_end(pair: Pair) -> None:
    pair.theirs.setblocking(False)
    receiver = Receiver(pair.theirs)
    assert list(receiver.receive()) == []
    assert not receiver.ended


def test_descriptors_of_a_message_that_never_came_whole_are_closed(pair: Pair) -> None:
    descriptors = files(b"lost")
    recorder = _Recorder()
    send(recorder, b"x" * 100, descriptors)  # type: ignore[arg-type]
    (data, rights), *_ = recorder.pieces([])
    pair.ours.sendmsg([data], rights)
    pair.ours.close()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    receiver = Receiver(pair.theirs)
    assert pair.received(receiver, 1) == []
    assert receiver.ended
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before
    close_all(descriptors)


def test_a_side_that_does_not_read_is_not_waited_for_for_ever(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_SEND_TIMEOUT", 0.05)
    pair.ours.setblocking(False)
    with pytest.raises(TimeoutError):
        send(pair.ours, os.urandom(3_000_000))


def test_a_side_that_is_gone_is_an_error(pair: Pair) -> None:
    pair.theirs.close()
    with pytest.raises(OSError, match=r"pipe|reset"):
        send(pair.ours, Forked(1, 2))


def test_closing_what_is_closed_is_no_error() -> None:
    (descriptor,) = files(b"")
    close_all([descriptor, descriptor])
