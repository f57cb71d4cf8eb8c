"""Certificates for tests, made once in each process; and clients that speak TLS byte for byte."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import cache
from typing import Any

import trustme

from pywatt_host.net.tls_material import TlsMaterial
from tests.hosting import PATIENCE
from tests.http.server.answers import Client

HOST = "127.0.0.1"


@cache
def authority(name: str) -> trustme.CA:
    """A certificate authority, one for each name."""
    return trustme.CA(organization_name=name, key_type=trustme.KeyType.ECDSA)


def issued(name: str = HOST, by: str = "servers", number: int = 0, expires: datetime | None = None) -> trustme.LeafCert:
    """A certificate for a name; another one for each `number`."""
    return _issued(name, by, number, expires)


@cache
def _issued(name: str, by: str, number: int, expires: datetime | None) -> trustme.LeafCert:
    return authority(by).issue_cert(
        name, common_name=f"{name} {number}" if number else None, key_type=trustme.KeyType.ECDSA, not_after=expires
    )


def chain_of(leaf: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in leaf.cert_chain_pems)


def material(number: int = 0, **more: Any) -> TlsMaterial:
    """A certificate of `servers` with its key."""
    leaf = issued(number=number)
    return TlsMaterial(chain_of(leaf), leaf.private_key_pem.bytes(), **more)


def ca_pem(name: str) -> bytes:
    return authority(name).cert_pem.bytes()


def client_context(certificate: trustme.LeafCert | None = None, *, version: ssl.TLSVersion | None = None) -> Any:
    """A context for a client that trusts `servers`, with a certificate of its own and one version only, if given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority("servers").configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def long_ago() -> datetime:
    return datetime(2001, 1, 1, tzinfo=UTC)


class TlsClient(Client):
    """A client over TLS. `handshake=False`: the caller does the handshake, in parts."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        *,
        patience: float = PATIENCE,
        receive_buffer: int = 0,
        handshake: bool = True,
    ) -> None:
        super().__init__(address, patience, receive_buffer)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or client_context()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST, session=session)
        if handshake:
            try:
                self.handshake()
            except BaseException:
                self.flush()  # the alert
                self.sock.close()
                raise

    def handshake(self) -> None:
        """Raises ssl.SSLError where the server refuses it, and EOFError where the server ends the connection."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._fill()
            else:
                self.flush()
                return

    def hello(self) -> bytes:
        """The first bytes of a handshake, which are not sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def flush(self) -> None:
        if self._outgoing.pending:
            self.sock.sendall(self._outgoing.read())

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the server has ended the connection")
        self._incoming.write(data)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
            self.flush()

    def read(self) -> bool:
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                try:
                    self._fill()
                except EOFError:
                    return False
                except ConnectionResetError:
                    self.reset = True
                    return False
            except ssl.SSLZeroReturnError:
                return False
            else:
                self.received += data
                return bool(data)

    def half_close(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    @property
    def certificate(self) -> bytes:
        """The certificate of the server, DER."""
        der = self.tls.getpeercert(True)
        assert der is not None
        return der
