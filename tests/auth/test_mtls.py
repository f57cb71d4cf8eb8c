"""Client certificates as credentials: which names a pattern allows, and what a request gets by them."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import ssl
from typing import Any

import pytest
from cryptography import x509

from pywatt_host.auth.identity import DeniedError, Identity
from pywatt_host.auth.mtls import MutualTlsScheme
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.values.certificate_names import PatternError, parse_pattern
from tests.auth.certificates_for_tests import certificate

DNS, URI = x509.DNSName, x509.UniformResourceIdentifier
MAIL = x509.RFC822Name
BILLING = certificate({"CN": "billing"}, {"O": "Example"})


class Clock:
    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC).timestamp()

    def __call__(self) -> float:
        return self.now


def scheme(*subjects: str, clock: Clock | None = None) -> MutualTlsScheme:
    return MutualTlsScheme("peer", AuthScheme(type="mtls", subjects=subjects or None), clock=clock or Clock())


def subject(der: bytes, *subjects: str) -> str:
    """The subject of a certificate under a scheme with these patterns; the reason in brackets where it has none."""
    try:
        return asyncio.run(scheme(*subjects).verify(der)).subject
    except DeniedError as error:
        return f"({error.reason})"


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("CN=billing,O=Example", [{"CN": "billing"}, {"O": "Example"}]),
        ("cn=billing, o = Example", [{"CN": "billing"}, {"O": "Example"}]),
        ("2.5.4.3=billing,2.5.4.10=Example", [{"CN": "billing"}, {"O": "Example"}]),
        ("CN=billing,*", [{"CN": "billing"}, {"O": "Example"}]),
        ("CN=billing,*", [{"CN": "billing"}]),
        ("CN=billing,*", [{"CN": "billing"}, {"bits": b"\0"}]),
        ("CN=billing, *", [{"CN": "billing"}, {"OU": "a"}, {"O": "b"}]),
        ("CN=*,O=Example", [{"CN": "anyone, at all"}, {"O": "Example"}]),
        (r"CN=a\,O\=b,O=c", [{"CN": "a,O=b"}, {"O": "c"}]),
        (r"CN=a\2CO\3Db,O=c", [{"CN": "a,O=b"}, {"O": "c"}]),
        (r"CN=M\C3\BCller", [{"CN": "Müller"}]),
        ("CN=Müller", [{"CN": "Müller"}]),
        (r"CN=\ a\ ", [{"CN": " a "}]),
        (r"CN=\*", [{"CN": "*"}]),
        ("CN=a+UID=7,O=c", [{"CN": "a", "UID": "7"}, {"O": "c"}]),
        ("UID=7+CN=a,O=c", [{"CN": "a", "UID": "7"}, {"O": "c"}]),
        ("emailAddress=a@b.example", [{"emailAddress": "a@b.example"}]),
    ],
)
def test_a_subject_is_compared_part_by_part(pattern: str, parts: list[dict[str, str | bytes]]) -> None:
    found = subject(certificate(*parts), pattern)
    assert found == x509.load_der_x509_certificate(certificate(*parts)).subject.rfc4514_string()


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("CN=billing", [{"CN": "billing"}, {"O": "Example"}]),  # nothing may follow
        ("CN=billing,O=Example", [{"CN": "billing"}]),
        ("CN=billing,*", [{"O": "Example"}, {"CN": "billing"}]),  # the other way round
        ("CN=billing,*", [{"CN": "billing,O=Example"}]),
        ("CN=billing,O=Example", [{"CN": "billing,O=Example"}]),
        ("CN=billing,*", [{"CN": "billing\0.evil.example"}]),
        ("CN=billing,*", [{"CN": "Billing"}]),
        ("CN=billing,*", [{"CN": "billing "}]),
        ("CN=billing,*", [{"CN": "billing2"}]),
        ("CN=billing,*", [{"CN": "billing", "UID": "7"}]),  # several values are another name
        ("CN=a+UID=7", [{"CN": "a"}]),
        ("CN=*,O=Example", [{"CN": "a\0b"}, {"O": "Example"}]),
        ("CN=*,O=Example", [{"OU": "a"}, {"O": "Example"}]),
        ("CN=*,O=Example", [{"CN": "a"}, {"OU": "b"}, {"O": "Example"}]),
        ("2.5.4.45=*", [{"bits": b"\0"}]),  # no text
        ("CN=a,*", []),
    ],
)
def test_what_only_looks_like_an_allowed_subject_is_refused(pattern: str, parts: list[dict[str, str | bytes]]) -> None:
    assert subject(certificate(*parts), pattern) == "(subject)"


@pytest.mark.parametrize(
    ("pattern", "san", "found"),
    [
        ("DNS:billing.example", DNS("billing.example"), "DNS:billing.example"),
        ("dns:Billing.Example", DNS("BILLING.example"), "DNS:BILLING.example"),
        ("DNS:*.example", DNS("billing.example"), "DNS:billing.example"),
        ("URI:spiffe://td/ns/billing", URI("spiffe://td/ns/billing"), "URI:spiffe://td/ns/billing"),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/billing"), "URI:spiffe://td/ns/billing"),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/billing/sa/x"), "URI:spiffe://td/ns/billing/sa/x"),
        ("email:ann@Example.com", MAIL("ann@example.com"), "email:ann@example.com"),
        ("IP:192.0.2.1", x509.IPAddress(ipaddress.ip_address("192.0.2.1")), "IP:192.0.2.1"),
        ("IP:2001:DB8::0:1", x509.IPAddress(ipaddress.ip_address("2001:db8::1")), "IP:2001:db8::1"),
    ],
)
def test_an_alternative_name_becomes_the_subject(pattern: str, san: x509.GeneralName, found: str) -> None:
    der = certificate({"CN": "whatever"}, sans=[DNS("first.invalid"), san])
    assert subject(der, "CN=other", pattern) == found


@pytest.mark.parametrize(
    ("pattern", "san"),
    [
        ("DNS:billing.example", DNS("billing.example.evil")),
        ("DNS:billing.example", DNS("a.billing.example")),
        ("DNS:billing.example", DNS("*.example")),  # a wildcard names nobody
        ("DNS:*.example", DNS("*.example")),
        ("DNS:*.example", DNS("a.b.example")),
        ("DNS:*.example", DNS("example")),
        ("DNS:*.example", DNS(".example")),
        ("DNS:*.example", DNS("a\0b.example")),
        ("DNS:*.example", DNS("a b.example")),
        ("DNS:billing.example", URI("DNS:billing.example")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/a/../../admin")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/%2e%2e/admin")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns//a")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/ns/a?b")),
        ("URI:spiffe://td/ns/*", URI("spiffe://TD/ns/a")),
        ("URI:spiffe://td/ns/*", URI("spiffe://td/nsx/a")),
        ("email:ann@example.com", MAIL("Ann@example.com")),
        ("email:ann@example.com", MAIL("ann@example.com.evil")),
        ("IP:192.0.2.1", DNS("192.0.2.1")),
    ],
)
def test_what_only_looks_like_an_allowed_alternative_name_is_refused(pattern: str, san: x509.GeneralName) -> None:
    assert subject(certificate({"CN": "billing.example"}, sans=[san]), pattern) == "(subject)"


@pytest.mark.parametrize(
    "text",
    [
        "billing", "*", "*,CN=a", "CN=a,*,O=b", "CN=bill*", "CN=*ing", "CN=", "=a", "XX=a", "CN=a,,O=b", "CN=a,",
        "CN=a+CN=b", "CN=a\\", "CN=\\x", "CN=\\FF", "CN=\\00", "CN=a\nb", "CN=#0401", 'CN="a"', "CN=a;O=b",
        "DNS:", "DNS:*", "DNS:*.*.example", "DNS:a*.example", "DNS:a..b", "DNS:-a.example", "DNS:a.example ",
        "URI:", "URI:billing", "URI:*", "URI:spiffe://*", "URI:spiffe://td/*/sa", "URI:spiffe:///*", "URI:mailto:*",
        "email:*@example.com", "email:example.com", "email:a@", "IP:10.0.0.0/8", "IP:localhost", "CN=" + "a" * 1000,
    ],
)  # fmt: skip
def test_a_text_that_is_no_pattern_is_a_fault_with_a_hint(text: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_pattern(text)
    assert caught.value.message
    with pytest.raises(AuthError, match=r"auth\.peer\.subjects"):
        scheme(text)


def test_without_names_every_verified_certificate_is_accepted() -> None:
    assert subject(BILLING) == "CN=billing,O=Example"
    assert subject(certificate(sans=[DNS("a.example")])) == "DNS:a.example"
    assert subject(certificate()) == "(subject)"  # it names nobody


def test_the_claims_tell_what_the_certificate_says() -> None:
    der = certificate({"CN": "billing"}, {"O": "Example"}, sans=[DNS("a.example"), URI("spiffe://td/a")])
    claims = asyncio.run(scheme("DNS:a.example").verify(der)).claims
    assert claims == {
        "sub": "DNS:a.example",
        "subject": "CN=billing,O=Example",
        "issuer": "CN=Test CA",
        "serial": "abcdef",
        "sans": ["DNS:a.example", "URI:spiffe://td/a"],
        "pywatt.auth": {"scheme": "peer", "type": "mtls"},
    }


def test_a_certificate_that_expires_on_an_open_connection_is_no_credential_any_more() -> None:
    clock = Clock()
    until = datetime.datetime.fromtimestamp(clock.now + 60, datetime.UTC)
    peer = scheme("CN=billing", clock=clock)
    der = certificate({"CN": "billing"}, until=until)
    assert asyncio.run(peer.verify(der)) is peer.recall(der)
    clock.now += 61
    assert peer.recall(der) is None
    with pytest.raises(DeniedError, match="expired"):
        asyncio.run(peer.verify(der))


def test_a_certificate_is_read_once_whether_it_is_allowed_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = scheme("CN=billing,*")
    read: list[bytes] = []
    reading = peer._read

    def recorded(der: bytes) -> Identity | None:
        read.append(der)
        return reading(der)

    monkeypatch.setattr(peer, "_read", recorded)
    other = certificate({"CN": "other"})
    for der in (BILLING, other, BILLING, other):
        assert peer.accepts(der) is (der == BILLING)
    assert read == [BILLING, other]


def test_the_names_of_many_certificates_do_not_stay_in_memory() -> None:
    peer = scheme()
    peer._known.update((str(number).encode(), None) for number in range(2000))
    assert peer.accepts(BILLING)
    assert len(peer._known) == 1000


NO_UTF8 = certificate({"CN": "billing?"}).replace(b"billing?", b"billing\xff")
VERSION_8 = BILLING.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07")


def test_a_certificate_with_changed_bytes_is_denied_or_allowed_and_raises_nothing_else() -> None:
    chosen = random.Random(7)
    for _ in range(500):
        der = bytearray(BILLING)
        der[chosen.randrange(len(der))] = chosen.randrange(256)
        assert subject(bytes(der), "CN=billing,*")


@pytest.mark.parametrize("der", [NO_UTF8, VERSION_8], ids=["name", "version"])
def test_what_the_parser_refuses_is_malformed(der: bytes) -> None:
    assert subject(der, "CN=billing,*") == "(malformed)"


@pytest.mark.parametrize("der", [b"", b"0", BILLING[:-40], BILLING[::-1]], ids=["empty", "one", "cut", "reversed"])
def test_what_is_no_certificate_is_malformed(der: bytes) -> None:
    assert subject(der) == "(malformed)"


# Under other servers --------------------------------------------------------------------------------------------------


def extension(**tls: Any) -> dict[str, Any]:
    return {"headers": [], "extensions": {"tls": tls}}


def test_another_server_tells_the_certificate_by_the_asgi_extension() -> None:
    pem = ssl.DER_cert_to_PEM_cert(BILLING)
    assert scheme().presented(extension(client_cert_chain=[pem, "ignored"], client_cert_error=None)) == BILLING
    assert scheme().presented(extension(client_cert_chain=iter([pem]))) == BILLING
    without: list[dict[str, Any]] = [{}, {"extensions": None}, extension(), extension(client_cert_chain=[])]
    for nothing in without:
        assert scheme().presented(nothing) is None


def test_a_certificate_that_another_server_has_not_verified_is_no_credential() -> None:
    pem = ssl.DER_cert_to_PEM_cert(BILLING)
    with pytest.raises(DeniedError, match="untrusted"):
        scheme().presented(extension(client_cert_chain=[pem], client_cert_error="self-signed certificate"))
    with pytest.raises(DeniedError, match="malformed"):
        scheme().presented(extension(client_cert_chain=["no certificate"]))


def test_headers_that_describe_a_certificate_are_not_believed() -> None:
    headers = [
        (b"x-forwarded-client-cert", b'Subject="CN=billing,O=Example"'),
        (b"x-ssl-client-verify", b"SUCCESS"),
        (b"client-cert", b":MIIB:"),
    ]
    assert scheme().presented({"headers": headers}) is None


def test_the_challenge_names_the_realm() -> None:
    assert scheme().challenge("users") == b'ClientCertificate realm="users"'


def test_the_identity_of_a_certificate_is_shared_by_its_requests() -> None:
    peer = scheme("CN=billing,*")
    first = asyncio.run(peer.verify(BILLING))
    assert isinstance(first, Identity)
    assert peer.recall(bytes(BILLING)) is first
