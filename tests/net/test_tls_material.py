"""Certificates and keys: what cannot be used is named by its key and file, with a reason; contexts are strict."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest.model.tls import ServerTls, declared
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.net.listeners import Listener
from pywatt_host.net.tls_material import ListenerTls, Names, TlsTerms, check_time, verified
from pywatt_host.net.tls_sources import TlsSource
from tests.certificates import authority, ca_pem, chain_of, issued, material

NAMES = Names("server.tls", "a.pem", "a.key", "ca.pem")
CHAIN, KEY = chain_of(issued()), issued().private_key_pem.bytes()


def encrypted(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("chain", "key", "client_ca", "text"),
    [
        (b"", KEY, None, "server.tls.cert: a.pem cannot be used: it is empty"),
        (b"\n", KEY, None, "server.tls.cert: a.pem cannot be used: it is empty"),
        (b"hello", KEY, None, "server.tls.cert: a.pem cannot be used: it has no certificate in PEM form"
         " (-----BEGIN CERTIFICATE-----)"),
        (CHAIN[:300], KEY, None, "server.tls.cert: a.pem cannot be used: the last certificate in it is not complete"),
        (CHAIN.replace(b"M", b"N"), KEY, None, "server.tls.cert: a.pem cannot be used: a certificate in it cannot be"
         " read"),
        (CHAIN, b"", None, "server.tls.key: a.key cannot be used: it is empty"),
        (CHAIN, CHAIN, None, "server.tls.key: a.key cannot be used: it has no private key in PEM form"
         " (-----BEGIN PRIVATE KEY-----)"),
        (CHAIN, KEY[:100], None, "server.tls.key: a.key cannot be used: the key in it is not complete"),
        (CHAIN, KEY.replace(b"M", b"N"), None, "server.tls.key: a.key cannot be used: the key in it cannot be read"),
        (CHAIN, encrypted(KEY), None, "server.tls.key: a.key cannot be used: the key is encrypted; write it without a"
         " password (openssl pkey -in KEY -out KEY.plain)"),
        (CHAIN, issued(number=1).private_key_pem.bytes(), None, "server.tls.key: a.key cannot be used: it is not the"
         " key of the certificate in a.pem"),
        (ca_pem("servers") + CHAIN, KEY, None, "server.tls.cert: a.pem cannot be used: the certificate of the key must"
         " be the first one in the file, before those of its issuers"),
        (CHAIN, KEY, b"x", "server.tls.client_ca: ca.pem cannot be used: it has no certificate in PEM form"
         " (-----BEGIN CERTIFICATE-----)"),
    ],
    ids=[
        "empty chain", "blank chain", "no chain", "truncated chain", "broken chain", "empty key", "no key",
        "truncated key", "broken key", "encrypted key", "mismatch", "order", "no authority",
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_reason(
    chain: bytes, key: bytes, client_ca: bytes | None, text: str
) -> None:
    given = replace(material(), chain=chain, key=key, client_ca=client_ca)
    with pytest.raises(TlsError) as caught:
        verified(given, NAMES)
    assert str(caught.value) == text


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_every_usual_kind_of_key_can_be_used(kind: trustme.KeyType) -> None:
    leaf = authority("servers").issue_cert("127.0.0.1", key_type=kind)
    verified(replace(material(), chain=chain_of(leaf), key=leaf.private_key_pem.bytes()), NAMES)


def test_a_file_with_the_key_beside_the_certificate_can_be_used() -> None:
    verified(replace(material(), chain=KEY + CHAIN, key=KEY + CHAIN), NAMES)


def test_an_expired_certificate_and_one_that_is_not_valid_yet_are_told_apart() -> None:
    expired = issued(expires=datetime(2020, 5, 1, tzinfo=UTC))
    _, validity = verified(replace(material(), chain=chain_of(expired), key=expired.private_key_pem.bytes()), NAMES)
    with pytest.raises(TlsError, match=r"it has expired on 2020-05-01 00:00 UTC") as caught:
        check_time(validity, NAMES, datetime(2026, 1, 1, tzinfo=UTC))
    assert caught.value.reason == "expired"
    check_time(validity, NAMES, datetime(2020, 4, 30, tzinfo=UTC))
    with pytest.raises(TlsError, match="it is not valid before 2000-01-01") as caught:
        check_time(validity, NAMES, datetime(1999, 1, 1, tzinfo=UTC))
    assert caught.value.reason == "not-yet-valid"
    assert validity.seconds_left(validity.not_after + timedelta(seconds=5)) == -5


def test_contexts_are_strict() -> None:
    context = material(min_version="1.3", client_ca=ca_pem("clients"), demands="optional").context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_OPTIONAL
    context = material().context()
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    older = [cipher for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert older
    assert all(cipher["name"].startswith("ECDHE-") and cipher["aead"] for cipher in older)


def test_a_key_is_no_file_of_the_process_and_in_no_repr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    made = material()
    made.context()
    assert set(os.listdir("/proc/self/fd")) <= before | {"3"} or not before
    assert "PRIVATE" not in repr(made)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made.context()
    assert list(tmp_path.iterdir()) == []


def test_followers_learn_of_new_terms_until_they_leave() -> None:
    tls, told = ListenerTls("server.tls", TlsTerms(material())), []
    leave = tls.follow(lambda: told.append(tls.terms.material.min_version))
    tls.use(TlsTerms(material(min_version="1.3")))
    leave()
    tls.use(TlsTerms(material()))
    assert told == ["1.3"]


def test_the_address_of_a_listener_says_that_it_has_tls() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        listener = Listener(sock, owned=True)
        listener.secure(ListenerTls("server.tls"))
        assert listener.address == f"https://127.0.0.1:{sock.getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as sock:
        listener = Listener(sock, owned=True)
        listener.secure(ListenerTls("server.tls"))
        assert listener.tls is None


# Files and secrets ----------------------------------------------------------------------------------------------------


def source(folder: Path, **tls: Any) -> TlsSource:
    return TlsSource(declared(("server", "tls"), ServerTls(**tls)), folder.joinpath)


def test_parts_are_read_from_files_and_from_secrets(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_bytes(CHAIN)
    template = SecretTemplate.parse("${secret:KEY}")
    found = source(tmp_path, cert="cert.pem", key=template).read({"KEY": KEY.decode()})
    assert (found.chain, found.key, found.client_ca, found.demands) == (CHAIN, KEY, None, "none")


@pytest.mark.parametrize(
    ("file", "reason", "text"),
    [
        ("missing.pem", "missing", "missing.pem cannot be used: there is no such file"),
        ("folder", "unreadable", "folder cannot be used: it cannot be read: it is a folder"),
        ("large.pem", "invalid", "large.pem cannot be used: it is larger than 1 MiB"),
        ("${secret:NONE}", "missing", "${secret:NONE} cannot be used: the secret NONE has no value"),
    ],
)
def test_a_part_that_cannot_be_read_is_named(tmp_path: Path, file: str, reason: str, text: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large.pem").write_bytes(bytes(2 * 1024 * 1024))
    with pytest.raises(TlsError) as caught:
        source(tmp_path, cert=SecretTemplate.parse(file) or file, key="key.pem").read({})
    assert (caught.value.reason, str(caught.value)) == (reason, f"server.tls.cert: {text}")


def test_the_identity_follows_links_and_secrets(tmp_path: Path) -> None:
    """As in a mounted Secret of Kubernetes, where the link `..data` moves."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cert.pem").write_bytes(CHAIN)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "cert.pem").symlink_to("..data/cert.pem")
    made = source(tmp_path, cert="cert.pem", key=SecretTemplate.parse("${secret:KEY}"))
    first = made.identity({"KEY": "a"})
    assert made.identity({"KEY": "a"}) == first
    assert made.identity({"KEY": "b"}) != first
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert made.identity({"KEY": "a"}) != first
