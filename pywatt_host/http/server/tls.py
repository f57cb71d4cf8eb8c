"""TLS between the event loop and a connection (RFC 8446, RFC 5246).

To the event loop this is the protocol of a plain connection, to the connection it is a transport. So a connection is
the same from its first byte on: the time limits, the limits on connections, and draining hold for a handshake as they
do for a head that has not arrived. The transports of the event loops could not tell how many bytes wait for the client,
nor end one direction only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections import deque
from time import monotonic
from typing import Any, Literal, Protocol, TypeAlias

from pywatt_host.http.problem import problem_body, problem_headers
from pywatt_host.http.server.serving import Serving
from pywatt_host.net.client_certificates import CIPHER_KEY, SCOPE_KEY, ClientCertificate
from pywatt_host.net.tls_material import ListenerTls

logger = logging.getLogger("pywatt.server")

FailureReason: TypeAlias = Literal[
    "timeout",
    "closed",
    "plain_http",
    "not_tls",
    "version",
    "cipher",
    "no_certificate",
    "certificate",
    "refused",
    "other",
]
_RECORD = 16 * 1024  # bytes of plain text in one record, at most (RFC 8446 section 5.1)
_AT_ONCE = 4 * _RECORD  # bytes that are encrypted before the transport is asked whether it has room
_HANDSHAKE_RECORD = 0x16
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_HTTP = re.compile(rb"[A-Z]{2,16} ")
# OpenSSL's names of what went wrong.
_REASONS: dict[str, FailureReason] = {
    "HTTP_REQUEST": "plain_http",
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "WRONG_SSL_VERSION": "version",
    "NO_SHARED_CIPHER": "cipher",
    "NO_SUITABLE_KEY_SHARE": "cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "certificate",
    "WRONG_VERSION_NUMBER": "not_tls",
    "UNEXPECTED_MESSAGE": "not_tls",
    "UNEXPECTED_EOF_WHILE_READING": "closed",
}
_WORDS: dict[FailureReason, str] = {
    "timeout": "it took longer than server.timeouts.header",
    "closed": "the client closed the connection",
    "plain_http": "the client speaks plain HTTP",
    "not_tls": "the client does not speak TLS",
    "version": "the client does not support a version of TLS that is allowed",
    "cipher": "the client supports no cipher suite that is allowed",
    "no_certificate": "the client has no certificate",
    "certificate": "the client's certificate is not valid",
    "refused": "the client refuses the certificate of this host",
    "other": "it is not valid",
}


class Secured(Protocol):
    """What the transport needs of its connection, beside a protocol of the event loop."""

    tls: TlsTransport | None

    @property
    def serving(self) -> Serving: ...

    def secured(self, extension: dict[str, Any]) -> None:
        """The handshake is complete."""


class TlsTransport(asyncio.Protocol):
    """The TLS side of one connection. `terms` are those that hold at `listening` when it is accepted."""

    __slots__ = (
        "_backlog", "_closing", "_ending", "_eof", "_incoming", "_inner", "_opened", "_outgoing", "_peer", "_raw",
        "_raw_paused", "_serving", "_state", "_tls", "_unsent", "listening", "terms",
    )  # fmt: skip

    def __init__(self, connection: Secured, listening: ListenerTls) -> None:
        self.listening = listening
        self.terms = terms = listening.terms
        self._inner: Any = connection
        self._serving = connection.serving
        self._raw: Any = None
        self._peer = ""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = terms.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._state: Literal["new", "handshake", "open", "ended"] = "new"
        self._opened = 0.0  # when the handshake was complete, on the clock of time.monotonic
        self._eof = False  # the client has ended its side
        self._closing = False
        self._ending = False  # this direction ends once everything has been sent
        self._raw_paused = False
        self._backlog: deque[memoryview] | None = None  # what is not encrypted yet
        self._unsent = 0  # bytes of it
        connection.tls = self

    # The event loop's calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._raw = transport
        self._inner.connection_made(self)
        self._peer = self._inner.peer
        if not self.listening.terms.holds_for(self.terms):  # renewed since the connection was accepted
            self._inner.closing = True

    def data_received(self, data: bytes) -> None:
        if self._state != "open":
            if self._state == "ended":
                if self._ending:
                    self._inner.data_received(data)  # which counts and drops it
                return
            if self._state == "new":
                self._state = "handshake"
                if data[0] != _HANDSHAKE_RECORD:
                    self._not_tls(data)
                    return
            self._incoming.write(data)
            if not self._handshake():
                return
        elif self._eof or self._closing:
            return  # nothing may follow the client's alert (RFC 8446 section 6.1), and nobody reads any more
        else:
            self._incoming.write(data)
        self._read()

    def eof_received(self) -> bool:
        if not self._eof:
            self._eof = True
            if not self._inner.eof_received():
                if self._state != "open":
                    return False
                self.close()  # which sends what waits; the event loop would drop it
        return not self._raw.is_closing()

    def pause_writing(self) -> None:
        self._raw_paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._raw_paused = False
        if self._backlog:
            self._encrypt()
        if not self._raw_paused and not self._backlog and self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == "handshake":
            self._failed("timeout" if self._closing else "closed")
        self._state, self._closing = "ended", True
        self._backlog, self._unsent = None, 0
        inner, self._inner = self._inner, None
        inner.connection_lost(exc)

    # The handshake --------------------------------------------------------------------------------------------------

    def _handshake(self) -> bool:
        """Go on with the handshake. Returns whether it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._failed(_reason_of(error))
            self._raw.close()
            return False
        self._flush()
        self._state = "open"
        self._opened = monotonic()
        self._inner.secured(self._extension())
        return True

    def _not_tls(self, data: bytes) -> None:
        """Answer a request over plain HTTP with 400, and close the connection."""
        plain = _HTTP.match(data) is not None
        self._failed("plain_http" if plain else "not_tls")
        self._state = "ended"
        if plain:
            body = problem_body(400, "This port takes HTTPS only.")
            lines = [b"%b: %b" % header for header in problem_headers(body)]
            head = b"\r\n".join([b"HTTP/1.1 400 Bad Request", *lines, b"connection: close", b"", b""])
            self._raw.write(head + body)
        self._closing = True
        self._raw.close()

    def _failed(self, reason: FailureReason) -> None:
        """Count a handshake that has failed, and say so in the log from time to time."""
        self._state = "ended"
        self._serving.handshake_failed(reason, _WORDS[reason], self._peer)

    def _extension(self) -> dict[str, Any]:
        """What the scope of each request says about the connection (ASGI TLS extension 0.2)."""
        der = self._tls.getpeercert(True) if self.terms.material.demands != "none" else None
        certificate = ClientCertificate(der) if der is not None else None
        cipher = self._tls.cipher()
        return {
            "server_cert": self.terms.server_cert,
            "client_cert_chain": () if certificate is None else (certificate.pem,),
            "client_cert_name": None if certificate is None else certificate.subject,
            "client_cert_error": None,  # a client whose certificate is not valid is refused
            "tls_version": _VERSIONS.get(self._tls.version() or ""),
            "cipher_suite": self.terms.suites.get(cipher[0]) if cipher is not None else None,
            CIPHER_KEY: cipher[0] if cipher is not None else "",
            SCOPE_KEY: certificate,
        }

    def quiet_for(self, seconds: float) -> bool:
        """Whether no handshake is under way, and none has been completed within so many seconds."""
        return self._state != "handshake" and monotonic() - self._opened >= seconds

    # Reading --------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Decrypt what has arrived."""
        tls, incoming = self._tls, self._incoming
        data, more = b"", None
        try:
            data = tls.read(_RECORD)
            while data and (incoming.pending or tls.pending()):
                if more is None:
                    more = [data]
                piece = tls.read(_RECORD)
                more.append(piece)
                if not piece:
                    self._eof = True
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._eof = True
        except ssl.SSLError as error:
            logger.debug("a TLS connection of %s is broken: %s", self._peer or "unix", error.reason)
            self._flush()  # the alert
            self._closing, self._state = True, "ended"
            self._raw.close()
            return
        else:
            if not data:
                self._eof = True
        if self._outgoing.pending:
            self._flush()
        if more is not None:
            data = b"".join(more)
        if data:
            self._inner.data_received(data)
        if self._eof and self._inner is not None and not self._inner.eof_received():
            self.close()

    # The transport --------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        length = len(data)
        if self._closing or self._ending or self._state != "open" or not length:
            return
        if length <= _RECORD and not self._backlog and not self._raw_paused:
            self._tls.write(data)
            self._raw.write(self._outgoing.read())
        else:
            self._add(data, length)
            self._encrypt()

    def writelines(self, pieces: Any) -> None:
        if self._closing or self._ending or self._state != "open":
            return
        for piece in pieces:
            if piece:
                self._add(piece, len(piece))
        self._encrypt()

    def _add(self, data: Any, length: int) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(memoryview(data))
        self._unsent += length

    def _encrypt(self) -> None:
        """Encrypt what waits, as far as the transport has room for it."""
        backlog, tls = self._backlog, self._tls
        while backlog and not self._raw_paused:
            batch = 0
            while backlog and batch < _AT_ONCE:
                piece = backlog.popleft()
                taken = tls.write(piece[: _AT_ONCE - batch])
                batch += taken
                if taken < len(piece):
                    backlog.appendleft(piece[taken:])
            self._unsent -= batch
            self._raw.write(self._outgoing.read())
        if backlog:
            return
        if self._closing:
            self._end()
        elif self._ending:
            self._end_direction()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _end(self) -> None:
        """Send the alert that nothing more follows, and close the connection."""
        self._notify()
        # Not at once: asyncio may call this in the middle of a write of its own.
        self._serving.loop.call_soon(self._raw.close)

    def _notify(self) -> None:
        if self._state == "open":
            self._state = "ended"
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the client's own alert has not arrived, and is not waited for
            self._flush()

    def close(self) -> None:
        """Send what waits, and close the connection."""
        if not self._closing:
            self._closing = True
            if not self._backlog:
                self._end()

    def abort(self) -> None:
        self._closing, self._state = True, "ended"
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or bool(self._raw.is_closing())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End this direction once everything has been sent. What arrives afterwards is not decrypted."""
        self._ending = True
        if not self._backlog:
            self._end_direction()

    def _end_direction(self) -> None:
        self._notify()
        self._raw.write_eof()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return bool(self._raw.is_reading())

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken, as far as the kernel has not either."""
        return self._unsent + int(self._raw.get_write_buffer_size())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: Any) -> None:
        self._inner = protocol

    def get_protocol(self) -> Any:
        return self._inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self.terms.context
        return self._raw.get_extra_info(name, default)


def _reason_of(error: ssl.SSLError) -> FailureReason:
    reason = error.reason or ""
    known = _REASONS.get(reason)
    if known is not None:
        return known
    if "ALERT" in reason:
        return "version" if "PROTOCOL_VERSION" in reason else "refused"
    return "other"
