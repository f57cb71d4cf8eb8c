"""TLS contexts of channels: files that cannot be used are named by their key."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from pywatt_host.exceptions import ChannelError
from pywatt_host.manifest.model.channels import ChannelTls
from pywatt_host.net.tls import client_context, server_context


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "text.pem").write_text("not a certificate")
    return tmp_path


def test_a_listener_asks_for_a_client_certificate_only_with_client_ca(certificates: Path) -> None:
    plain = server_context(ChannelTls(cert="cert.pem", key="key.pem"), certificates.joinpath)
    mutual = server_context(ChannelTls(cert="cert.pem", key="key.pem", client_ca="ca.pem"), certificates.joinpath)
    assert (plain.verify_mode, mutual.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    assert plain.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_client_always_verifies_the_server(certificates: Path) -> None:
    for tls in (None, ChannelTls(ca="ca.pem")):
        context = client_context(tls, certificates.joinpath)
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("name", ["text.pem", "missing.pem"])
def test_a_file_that_cannot_be_used_is_named_by_its_key(certificates: Path, name: str) -> None:
    with pytest.raises(ChannelError, match=r"channels\.tcp\.tls\.cert and key cannot be used"):
        server_context(ChannelTls(cert=name, key="key.pem"), certificates.joinpath)
    with pytest.raises(ChannelError, match=r"channels\.tcp\.tls\.client_ca cannot be used"):
        server_context(ChannelTls(cert="cert.pem", key="key.pem", client_ca=name), certificates.joinpath)
    with pytest.raises(ChannelError, match=r"channel nats: channels\.nats\.tls\.ca cannot be used"):
        client_context(ChannelTls(ca=name), certificates.joinpath, "nats", "channels.nats.tls")
