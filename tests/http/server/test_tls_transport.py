"""The TLS transport between a raw transport and a connection: what waits while the client is slow, and how it ends."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pywatt_host.http.server.serving import AppHandler, Bounds, Serving
from pywatt_host.http.server.tls import TlsTransport
from pywatt_host.net.tls_material import ListenerTls, TlsTerms
from tests.certificates import HOST, client_context, material

LONG = bytes(range(256)) * 2048  # 512 KiB


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    return


class Raw:
    """A transport of the event loop. While it is paused, nothing more should be written to it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.paused_reading = False
        self.ended: str | None = None
        self.limit: int | None = None  # bytes after which it pauses the protocol
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        assert self.ended is None
        self.written += data
        if self.limit is not None and len(self.written) > self.limit:
            self.limit = None
            self.protocol.pause_writing()

    def close(self) -> None:
        self.ended = "close"

    def abort(self) -> None:
        self.ended = "abort"

    def write_eof(self) -> None:
        self.ended = "eof"

    def is_closing(self) -> bool:
        return self.ended in ("close", "abort")

    def pause_reading(self) -> None:
        self.paused_reading = True

    def resume_reading(self) -> None:
        self.paused_reading = False

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (HOST, 1)}.get(name, default)


class Inner:
    """A connection that keeps what it is told."""

    peer = HOST

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.tls: TlsTransport | None = None
        self.told: list[Any] = []
        self.received = b""
        self.stays_open = False
        self.closing = False

    def connection_made(self, transport: Any) -> None:
        self.told.append("made")

    def secured(self, extension: dict[str, Any]) -> None:
        self.told.append("secured")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.stays_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")


class Loop:
    """An event loop that calls nothing before `turn`."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for call in soon:
            call()


class Pair:
    """A transport whose handshake is complete, and its client."""

    def __init__(self) -> None:
        self.loop = Loop()
        loop: Any = self.loop
        serving = Serving(AppHandler(_nothing), Bounds(), loop)
        self.inner = Inner(serving)
        self.transport = TlsTransport(self.inner, ListenerTls("server.tls", TlsTerms(material())))
        self.raw = Raw()
        self.raw.protocol = self.transport
        self.transport.connection_made(self.raw)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client_context().wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        while True:
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.transport.data_received(self._outgoing.read())
                self._take()
            else:
                break
        self.transport.data_received(self._outgoing.read())
        self.told.clear()

    @property
    def told(self) -> list[Any]:
        return self.inner.told

    def _take(self) -> None:
        self._incoming.write(self.raw.written)
        self.raw.written.clear()

    def send(self, data: bytes) -> None:
        self.client.write(data)
        self.transport.data_received(self._outgoing.read())

    def notify(self) -> None:
        """The client says that it sends nothing more."""
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        self.transport.data_received(self._outgoing.read())

    def received(self) -> bytes:
        """What the client can read now."""
        self._take()
        found = b""
        try:
            while data := self.client.read(65536):
                found += data
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return found

    @property
    def notified(self) -> bool:
        """Whether the client was told that nothing more follows."""
        try:
            return len(self.client.read(1)) == 0
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLWantReadError:
            return False


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_small_and_large_pieces_arrive_in_order(pair: Pair) -> None:
    pair.transport.write(b"head")
    pair.transport.write(LONG)
    pair.transport.writelines([b"a", b"", memoryview(LONG), b"end"])
    assert pair.received() == b"head" + LONG + b"a" + LONG + b"end"
    assert pair.transport.get_write_buffer_size() == 7


def test_while_the_client_is_slow_what_waits_is_not_encrypted_and_counts_as_unsent(pair: Pair) -> None:
    pair.raw.limit = 100_000
    pair.transport.write(LONG)
    assert pair.told == ["pause"]
    assert len(pair.raw.written) < 200_000
    waiting = pair.transport.get_write_buffer_size() - 7
    assert len(pair.received()) + waiting == len(LONG)
    pair.transport.write(b"more")
    assert pair.transport.get_write_buffer_size() - 7 == waiting + 4
    pair.raw.limit = 50_000
    pair.transport.resume_writing()
    assert pair.told == ["pause", "pause"]  # the connection is told to go on only when nothing waits any more
    pair.transport.resume_writing()
    assert pair.told == ["pause", "pause", "resume"]
    assert pair.received().endswith(b"more")


def test_closing_sends_first_what_waits(pair: Pair) -> None:
    pair.raw.limit = 100_000
    pair.transport.write(LONG)
    pair.transport.close()
    pair.transport.write(b"too late")
    assert pair.raw.ended is None
    assert pair.transport.is_closing()
    pair.transport.resume_writing()
    assert pair.raw.ended is None  # asyncio may be in the middle of a write of its own
    pair.loop.turn()
    assert vars(pair.raw)["ended"] == "close"
    assert pair.received() == LONG
    assert pair.notified


def test_ending_one_direction_sends_first_what_waits_and_the_other_goes_on(pair: Pair) -> None:
    pair.raw.limit = 100_000
    pair.transport.write(LONG)
    pair.transport.write_eof()
    assert pair.raw.ended is None
    pair.transport.resume_writing()
    assert vars(pair.raw)["ended"] == "eof"
    assert not pair.transport.is_closing()
    assert pair.received() == LONG
    assert pair.notified
    pair.client.write(b"x" * 1000)
    pair.transport.data_received(b"\x17\x03\x03")  # the connection only counts what it drops
    assert pair.inner.received == b"\x17\x03\x03"


def test_what_arrives_in_pieces_of_any_length_is_the_same(pair: Pair) -> None:
    pair.client.write(LONG[:50_000])
    data = pair._outgoing.read()
    for byte in data[:50]:
        pair.transport.data_received(bytes([byte]))
    pair.transport.data_received(data[50:])
    assert pair.inner.received == LONG[:50_000]


@pytest.mark.parametrize("stays_open", [False, True])
def test_a_client_that_ends_its_side_may_still_read_the_response(pair: Pair, stays_open: bool) -> None:
    pair.inner.stays_open = stays_open
    pair.send(b"request")
    pair.notify()
    assert pair.told == ["eof"]
    pair.loop.turn()
    assert pair.raw.ended == (None if stays_open else "close")
    if stays_open:
        assert pair.transport.eof_received() is True  # the end of the TCP connection after that of TLS
        assert pair.told == ["eof"]
        pair.transport.write(b"response")
        assert pair.received() == b"response"


def test_nothing_is_kept_of_what_follows_the_end_of_the_client(pair: Pair) -> None:
    pair.inner.stays_open = True
    pair.send(b"request")
    pair.notify()
    for _ in range(100):
        pair.transport.data_received(bytes(10_000))
    assert pair.transport._incoming.pending == 0
    assert pair.inner.received == b"request"


def test_nothing_is_read_while_the_last_response_leaves(pair: Pair) -> None:
    pair.raw.limit = 1000
    pair.transport.write(LONG)
    pair.transport.close()
    pair.send(b"another request")
    assert pair.inner.received == b""
    assert pair.transport._incoming.pending == 0


def test_a_client_that_ends_its_tcp_connection_gets_all_of_the_response(pair: Pair) -> None:
    pair.raw.limit = 100_000
    pair.transport.write(LONG)
    assert pair.transport.eof_received() is True  # else the event loop would close, and drop what waits
    assert pair.raw.ended is None
    pair.transport.resume_writing()
    pair.loop.turn()
    assert vars(pair.raw)["ended"] == "close"
    assert pair.received() == LONG


def test_a_broken_record_ends_the_connection_whatever_it_has_become(pair: Pair) -> None:
    pair.transport.set_protocol(object())  # a WebSocket, which has no peer
    pair.transport.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert pair.raw.ended == "close"


def test_a_client_that_was_accepted_before_a_stricter_renewal_has_one_response(pair: Pair) -> None:
    connection = Inner(pair.inner.serving)
    listening = ListenerTls("server.tls", TlsTerms(material()))
    transport = TlsTransport(connection, listening)
    listening.use(TlsTerms(replace(material(), min_version="1.3")))
    transport.connection_made(Raw())
    assert connection.closing


def test_a_connection_that_is_lost_takes_nothing_more(pair: Pair) -> None:
    pair.raw.limit = 1000
    pair.transport.write(LONG)
    pair.transport.connection_lost(None)
    assert pair.told == ["pause", "lost"]
    before = len(pair.raw.written)
    pair.transport.write(b"x")
    pair.transport.close()
    assert len(pair.raw.written) == before
    assert pair.transport.get_protocol() is None  # no cycle of references is left


def test_aborting_says_nothing(pair: Pair) -> None:
    pair.raw.written.clear()
    pair.transport.abort()
    assert (pair.raw.ended, bytes(pair.raw.written)) == ("abort", b"")


def test_what_is_asked_of_the_raw_transport_is_passed_on(pair: Pair) -> None:
    pair.transport.pause_reading()
    assert pair.raw.paused_reading
    pair.transport.resume_reading()
    assert not pair.raw.paused_reading
    assert pair.transport.get_extra_info("peername") == (HOST, 1)
    assert pair.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert pair.transport.get_extra_info("sslcontext") is pair.transport.terms.context
    assert pair.transport.get_extra_info("other", 1) == 1
