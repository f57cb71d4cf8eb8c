"""Spans on their way to an endpoint: retries, limits of memory and time, and what is counted and logged."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from pywatt_host.observability.otlp import resource_spans, varint
from pywatt_host.observability.otlp_http import OtlpConnection, partial_success
from pywatt_host.observability.span_sender import MOST_BYTES, SpanCounts, SpanSender
from pywatt_host.observability.trace_settings import Batching, Destination
from tests.collector import collecting
from tests.hosting import PATIENCE

PIECE = resource_spans({"service.name": "x"}, "1", b"")
Answer = tuple[int, dict[str, str], bytes]


class Endpoint:
    """Answers each request with the next of `answers`, and then with 200. `hold` keeps it from answering."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, str], bytes]] = []
        self.connections = 0
        self.hold = threading.Event()
        self.hold.set()
        self.port = 0
        self._news = threading.Condition()

    def wait(self, requests: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.asked) >= requests, PATIENCE)

    def took(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        with self._news:
            self.asked.append((path, headers, body))
            self._news.notify_all()
            answer = self.answers.pop(0) if self.answers else (200, {}, b"")
        self.hold.wait(PATIENCE)
        return answer


@contextmanager
def serving(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Endpoint]:
    endpoint = Endpoint(*answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            endpoint.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, content = endpoint.took(self.path, headers, body)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            return  # a client that has left

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    endpoint.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Sending:
    """A sender that is closed at the end, and what it has counted."""

    def __init__(
        self,
        port: int,
        headers: Callable[[], Mapping[str, str] | None] = dict,
        batching: Batching | None = None,
        **more: Any,
    ) -> None:
        self.counts = SpanCounts()
        scheme = more.pop("scheme", "http")
        destination = Destination(f"{scheme}://127.0.0.1:{port}/v1/traces", **more)
        self.sender = SpanSender(destination, headers, self.counts, batching or Batching(), "pywatt-host/test")
        self.sender._pause = 0.01  # in place of a second

    def close(self, seconds: float = PATIENCE) -> None:
        asyncio.run(self.sender.close(seconds))

    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self.counts.dropped.items() if count}


def test_what_waits_is_sent_together_over_one_connection() -> None:
    with serving() as endpoint:
        endpoint.hold.clear()
        sending = Sending(endpoint.port, lambda: {"authorization": "Bearer t"}, Batching(batch=512))
        sending.sender.put(PIECE, 1)
        endpoint.wait(1)
        for _ in range(3):
            sending.sender.put(PIECE, 200)
        endpoint.hold.set()
        sending.close()
        assert [body for _, _, body in endpoint.asked] == [PIECE, PIECE * 2, PIECE]  # up to 512 spans
        path, headers, _ = endpoint.asked[0]
        assert (path, headers["content-type"], headers["authorization"], headers["user-agent"]) == (
            "/v1/traces", "application/x-protobuf", "Bearer t", "pywatt-host/test",
        )  # fmt: skip
        assert (sending.counts.exported, sending.dropped(), endpoint.connections) == (601, {}, 1)


def test_much_that_waits_is_sent_in_few_requests_of_a_mebibyte() -> None:
    with serving() as endpoint:
        endpoint.hold.clear()
        sending = Sending(endpoint.port)
        sending.sender.put(PIECE, 1)
        endpoint.wait(1)
        for _ in range(30):
            sending.sender.put(bytes(100_000), 100)
        endpoint.hold.set()
        sending.close()
        assert [len(body) for _, _, body in endpoint.asked] == [len(PIECE), 1_000_000, 1_000_000, 1_000_000]
        assert sending.counts.exported == 3001


def test_each_request_has_the_present_values_of_secrets_and_waits_for_the_first_ones() -> None:
    values: list[Mapping[str, str] | None] = [None]
    with serving() as endpoint:
        sending = Sending(endpoint.port, lambda: values[0])
        sending.sender.put(PIECE, 1)
        values[0] = {"key": "old"}
        endpoint.wait(1)
        values[0] = {"key": "new"}
        sending.sender.put(PIECE, 1)
        sending.close()
        assert [headers["key"] for _, headers, _ in endpoint.asked] == ["old", "new"]


def test_spans_whose_secret_never_comes_are_dropped_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as endpoint:
        sending = Sending(endpoint.port, lambda: None)
        sending.sender.put(PIECE, 3)
        sending.close()
        assert (endpoint.asked, sending.dropped()) == ([], {"export_failed": 3})
        assert "a secret for tracing.headers is missing" in caplog.text


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_the_endpoint_cannot_take_now_is_sent_again(status: int) -> None:
    with serving((status, {}, b""), (status, {"retry-after": "0"}, b"")) as endpoint:
        sending = Sending(endpoint.port)
        sending.sender.put(PIECE, 2)
        endpoint.wait(3)
        sending.close()
        assert (sending.counts.exported, sending.dropped()) == (2, {})


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 307])
def test_what_the_endpoint_refuses_is_dropped_and_said_once(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving((status, {"location": "http://127.0.0.1:1/"}, b"secret"), (status, {}, b"")) as endpoint:
        sending = Sending(endpoint.port, lambda: {"authorization": "Bearer hush"})
        for number in (1, 2):
            sending.sender.put(PIECE, number)
            endpoint.wait(number)
        with sending.sender._changed:
            pass
        sending.close()
        assert (len(endpoint.asked), sending.counts.exported, sending.dropped()) == (2, 0, {"export_failed": 3})
        record = next(each for each in caplog.records if each.name == "pywatt.traces")
        url = f"http://127.0.0.1:{endpoint.port}/v1/traces"
        hint = "; redirects are not followed" if status == 307 else ""
        assert record.getMessage() == f"1 spans were not taken by {url}: it answered {status}{hint}"
        assert "hush" not in caplog.text
        assert "secret" not in caplog.text


def test_a_pause_that_the_endpoint_asks_for_is_kept_but_the_spans_are_given_up_in_time() -> None:
    with serving((503, {"retry-after": "60"}, b"")) as endpoint:
        sending = Sending(endpoint.port, batching=Batching(give_up=0.5))
        sending.sender.put(PIECE, 1)
        deadline = time.monotonic() + PATIENCE
        while not sending.dropped() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert sending.dropped() == {"export_failed": 1}
        sending.sender.put(PIECE, 1)  # during the pause: it is sent at the end
        assert len(endpoint.asked) == 1
        sending.close()
        assert (len(endpoint.asked), sending.counts.exported) == (2, 1)


def test_rejected_spans_of_an_answer_are_counted_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    text = b"too old\x00\x1b"
    partial = b"\x08" + varint(3) + b"\x12" + varint(len(text)) + text
    with serving((200, {}, b"\x0a" + varint(len(partial)) + partial)) as endpoint:
        sending = Sending(endpoint.port)
        sending.sender.put(PIECE, 5)
        sending.close()
        assert (sending.counts.exported, sending.dropped()) == (2, {"rejected": 3})
        assert caplog.records[-1].getMessage().endswith(": too old  ")


def test_an_answer_that_is_no_protobuf_has_rejected_nothing() -> None:
    assert partial_success(b"<html>") == (0, "")
    assert partial_success(b"") == (0, "")


def test_a_collector_that_is_away_costs_little_memory_and_no_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    sending = Sending(port)
    piece = bytes(1024**2 // 2)
    began = time.perf_counter()
    for _ in range(100):
        sending.sender.put(piece, 10)
    assert time.perf_counter() - began < 1.0
    assert sending.sender._bytes <= MOST_BYTES
    assert sending.dropped()["queue_full"] >= 900
    began = time.perf_counter()
    sending.close(2.0)
    assert time.perf_counter() - began < 3.0
    assert sum(sending.dropped().values()) == 1000


def test_a_collector_that_does_not_answer_holds_up_the_end_no_longer_than_allowed() -> None:
    with serving() as endpoint:
        endpoint.hold.clear()
        sending = Sending(endpoint.port)
        sending.sender.put(PIECE, 1)
        endpoint.wait(1)
        sending.sender.put(PIECE, 1)
        began = time.perf_counter()
        sending.close(0.3)
        assert time.perf_counter() - began < 2.0
        thread = sending.sender._thread
        assert thread is not None
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert sending.dropped() == {"export_failed": 2}


def test_a_kept_connection_that_the_endpoint_has_closed_loses_nothing() -> None:
    with serving((200, {"connection": "close"}, b""), (200, {}, b"")) as endpoint:
        sending = Sending(endpoint.port)
        for number in range(1, 4):
            sending.sender.put(PIECE, 1)
            endpoint.wait(number)
        sending.close()
        assert (sending.counts.exported, endpoint.connections) == (3, 2)


def test_gzip_where_it_is_asked_for() -> None:
    with collecting() as collector:
        sending = Sending(collector.port, compress=True)
        sending.sender.put(PIECE, 1)
        sending.close()
        assert sending.counts.exported == 1
        assert collector.headers[0]["content-encoding"] == "gzip"


def test_a_header_that_cannot_be_sent_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as endpoint:
        sending = Sending(endpoint.port, lambda: {"authorization": "hush\r\nx: y"})
        sending.sender.put(PIECE, 1)
        sending.close()
        assert sending.dropped() == {"export_failed": 1}
        assert "a header has characters that do not belong there" in caplog.text
        assert "hush" not in caplog.text


def test_tls_is_verified_against_the_given_authority_and_shows_the_client_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("client.example")
    ours.private_key_pem.write_to_path(tmp_path / "k.pem")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "c.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with serving(context=context) as endpoint:
        url = f"https://127.0.0.1:{endpoint.port}/v1/traces"
        files: dict[str, Any] = {"client_certificate": str(tmp_path / "c.pem"), "client_key": str(tmp_path / "k.pem")}
        trusted = OtlpConnection(Destination(url, certificate=str(tmp_path / "ca.pem"), **files), "x")
        assert trusted.post(PIECE, {}, PATIENCE).taken
        trusted.close()
        refused = OtlpConnection(Destination(url), "x").post(PIECE, {}, PATIENCE)
        assert (refused.taken, refused.again) == (False, True)
        assert refused.reason.startswith("its certificate is not trusted: ")
        missing = OtlpConnection(Destination(url, certificate=str(tmp_path / "no.pem")), "x").post(PIECE, {}, PATIENCE)
        assert missing.reason == "No such file or directory"


def test_a_warning_comes_at_most_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Answer] = [(400, {}, b"")] * 5
    with serving(*answers) as endpoint:
        sending = Sending(endpoint.port)
        for number in range(1, 6):
            sending.sender.put(PIECE, 1)
            endpoint.wait(number)
        deadline = time.monotonic() + PATIENCE
        while sending.dropped().get("export_failed", 0) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        logged = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(logged) == 1
        sending.close()


def test_an_endpoint_that_cannot_be_used_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    sending = Sending(1)
    sending.sender._destination = Destination("http://[::zz]:4318/v1/traces")
    for _ in range(2):
        sending.sender.put(PIECE, 1)
    sending.close()
    assert sending.dropped() == {"export_failed": 2}
    assert any("were not taken by" in each.message for each in caplog.records)
