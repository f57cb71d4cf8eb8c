"""OTLP over HTTP: one request with encoded spans, and what its answer means (OTLP 1.x, "OTLP/HTTP").

Everything here blocks, and runs in the thread of `span_sender`.
"""

from __future__ import annotations

import gzip
import http.client
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import NamedTuple
from urllib.parse import urlsplit

from pywatt_host.observability.protobuf import ProtobufError, fields
from pywatt_host.observability.trace_settings import Destination

CONTENT_TYPE = "application/x-protobuf"

_RETRIED = frozenset((429, 502, 503, 504))
_MOST_READ = 64 * 1024  # bytes of an answer
_MAX_REASON = 200  # characters
_LOST = (http.client.RemoteDisconnected, ConnectionError)


class Outcome(NamedTuple):
    """What became of a request. `reason` says why spans were not taken; `rejected` is how many of those that were sent.
    `after` is how many seconds the endpoint asks to wait before the next request."""

    taken: bool
    reason: str = ""
    again: bool = False
    after: float | None = None
    rejected: int = 0


class OtlpConnection:
    """A connection to an endpoint. It is opened by the first request, and kept for further ones."""

    def __init__(self, destination: Destination, user_agent: str) -> None:
        self._destination = destination
        self._user_agent = user_agent
        parts = urlsplit(destination.url)
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = parts.scheme == "https"
        self._path = parts.path or "/"
        self._context: ssl.SSLContext | None = None
        self._open: http.client.HTTPConnection | None = None

    def post(self, spans: bytes, headers: Mapping[str, str], timeout: float) -> Outcome:
        """Send an encoded ExportTraceServiceRequest. `timeout` is in seconds, for each step that waits."""
        kept = self._open is not None
        try:
            return self._post(spans, headers, timeout)
        except _LOST as error:
            self.close()
            if not kept:
                return Outcome(False, _said(error), again=True)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Outcome(False, _said(error), again=True)
        except ValueError:
            self.close()
            return Outcome(False, "a header has characters that do not belong there")
        try:  # the endpoint had closed the kept connection
            return self._post(spans, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Outcome(False, _said(error), again=True)

    def _post(self, spans: bytes, headers: Mapping[str, str], timeout: float) -> Outcome:
        connection = self._open
        if connection is None:
            connection = self._open = self._connect(timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        sent = {"content-type": CONTENT_TYPE, "user-agent": self._user_agent}
        if self._destination.compress:
            spans = gzip.compress(spans, 6)
            sent["content-encoding"] = "gzip"
        connection.request("POST", self._path, spans, {**sent, **headers})
        answer = connection.getresponse()
        body = answer.read(_MOST_READ)
        if answer.read(1) or answer.will_close:
            self.close()
        return _meaning(answer.status, answer.headers.get("retry-after"), body)

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        if self._context is None:
            destination = self._destination
            self._context = ssl.create_default_context(cafile=destination.certificate or None)
            if destination.client_certificate:
                self._context.load_cert_chain(destination.client_certificate, destination.client_key or None)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)

    def close(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """End a request that waits. Safe from any thread."""
        connection = self._open
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                pass


def _meaning(status: int, retry_after: str | None, body: bytes) -> Outcome:
    if 200 <= status < 300:
        rejected, text = partial_success(body)
        return Outcome(True, text, rejected=rejected)
    if status in _RETRIED:
        return Outcome(False, f"it answered {status}", again=True, after=_seconds(retry_after))
    hint = "; redirects are not followed" if 300 <= status < 400 else ""
    return Outcome(False, f"it answered {status}{hint}")


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3); None where it says nothing that can be read."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None


def partial_success(answer: bytes) -> tuple[int, str]:
    """How many spans an ExportTraceServiceResponse says were rejected, and why."""
    rejected, text = 0, ""
    try:
        for number, value in fields(answer):
            if number == 1 and isinstance(value, bytes):
                for inner, found in fields(value):
                    if inner == 1 and isinstance(found, int):
                        rejected = found if found < 2**63 else 0
                    elif inner == 2 and isinstance(found, bytes):
                        text = found.decode("utf-8", "replace")
    except ProtobufError:
        return 0, ""  # the answer of something else, which has taken them
    return rejected, "".join(char if char.isprintable() else " " for char in text[:_MAX_REASON])


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__)[:_MAX_REASON]
    return f"its answer is not HTTP ({type(error).__name__})"
