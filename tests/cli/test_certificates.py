"""What `validate` says about certificates and keys, before a host or its clients do."""

from __future__ import annotations

import json
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from pywatt_host.cli.certificates import Certificates, everybody_reads
from pywatt_host.manifest import Problem, Source, load
from tests.processes import Project

NOW = datetime.now(UTC)
_VERSION = b"\xa0\x03\x02\x01"
CA = trustme.CA()
PAIR = CA.issue_cert("users.example")
CHAIN, KEY = PAIR.cert_chain_pems[0].bytes(), PAIR.private_key_pem.bytes()
# A certificate of a version that does not exist.
STRANGE = ssl.DER_cert_to_PEM_cert(
    ssl.PEM_cert_to_DER_cert(CHAIN.decode()).replace(_VERSION + b"\x02", _VERSION + b"\x07", 1)
).encode()


def _number(value: object) -> str | None:
    """An id for what differs from process to process: pytest numbers it."""
    return "" if isinstance(value, bytes) else None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a certificate, its key and the CA certificate."""
    tmp_path.chmod(0o755)
    files = {"a.pem": CHAIN, "a.key": KEY, "ca.pem": CA.cert_pem.bytes()}
    for name, content in files.items():
        write(tmp_path / name, content)
    return tmp_path


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def certificates(
    folder: Path, tls: Any = None, secret_values: dict[str, str] | None = None, **manifest: Any
) -> Certificates:
    server = {"server": {"tls": {"cert": "a.pem", "key": "a.key", **(tls or {})}}} if tls is not None else {}
    data = {"app": "main:app", **server, **manifest}
    environ = {"CERT_FILE": "elsewhere.pem"}
    loaded = load(Source.of_text(json.dumps(data), directory=folder), environ=environ)
    return Certificates(loaded, secret_values or {})


def found(folder: Path, tls: Any = None, secret_values: dict[str, str] | None = None, **manifest: Any) -> list[Problem]:
    return list(certificates(folder, tls, secret_values, **manifest).problems())


def codes(problems: list[Problem]) -> list[tuple[str, str, str]]:
    return [(each.severity, each.code, each.path) for each in problems]


def test_a_pair_that_fits_is_no_problem(folder: Path) -> None:
    assert found(folder, {}) == []
    assert found(folder, {"client_ca": "ca.pem"}) == []
    assert found(folder) == []


def test_files_that_are_missing_or_unreadable_are_faults_at_their_keys(folder: Path) -> None:
    assert codes(found(folder, {"cert": "b.pem"})) == [("error", "tls-missing", "server.tls.cert")]
    assert codes(found(folder, {"key": "b.key"})) == [("error", "tls-missing", "server.tls.key")]
    assert codes(found(folder, {"client_ca": "b.pem"})) == [("error", "tls-missing", "server.tls.client_ca")]
    (folder / "c.pem").mkdir()
    (problem,) = found(folder, {"cert": "c.pem"})
    assert (problem.code, problem.message) == ("tls-unreadable", "c.pem: it cannot be read: it is a folder")


def test_each_file_has_its_own_fault(folder: Path) -> None:
    tls = {"cert": "nope.pem", "key": "nokey.pem", "client_ca": "noca.pem"}
    assert sorted(each.path for each in found(folder, tls)) == [
        f"server.tls.{key}" for key in ("cert", "client_ca", "key")
    ]
    write(folder / "bad.pem", b"nothing")
    assert codes(found(folder, {"cert": "bad.pem", "key": "nokey.pem", "client_ca": "bad.pem"})) == [
        ("error", "tls-invalid", "server.tls.client_ca"),
        ("error", "tls-missing", "server.tls.key"),
        ("error", "tls-invalid", "server.tls.cert"),
    ]
    assert codes(found(folder, {"client_ca": "noca.pem", "key": "bad.pem"})) == [
        ("error", "tls-missing", "server.tls.client_ca"),
        ("error", "tls-invalid", "server.tls.key"),
    ]


def test_the_files_of_a_section_with_another_fault_are_looked_for(project: Project) -> None:
    tls = {"cert": "nope.pem", "client_ca": "${secret:CA}", "min_version": "1.1"}
    listen = [{"address": "127.0.0.1:1", "tls": {"key": "nokey.pem", "cert": 5}}]
    project.write("pywatt.yaml", json.dumps({"app": "main:app", "server": {"tls": tls, "listen": listen}}))
    done = project.cli("validate", "--no-import", "--format", "json")
    missing = [each["path"] for each in json.loads(done.stdout) if each["code"] == "tls-missing"]
    assert missing == ["server.tls.cert", "server.listen[0].tls.key"]


def test_a_path_from_a_variable_is_not_shown(folder: Path) -> None:
    (problem,) = found(folder, {"cert": "${CERT_FILE}"})
    assert problem.message == "the value of `${CERT_FILE}`: there is no such file"
    assert "elsewhere" not in str(problem)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.pem", b"", "tls-empty"),
        ("a.pem", b"no certificate", "tls-invalid"),
        ("a.pem", CHAIN[:400], "tls-truncated"),
        ("a.pem", KEY, "tls-invalid"),
        ("a.pem", trustme.CA().issue_cert("x.example").cert_chain_pems[0].bytes(), "tls-mismatch"),
        ("a.pem", CA.cert_pem.bytes() + CHAIN, "tls-order"),
        ("a.key", KEY[:100], "tls-truncated"),
        ("a.key", CHAIN, "tls-invalid"),
        ("a.key", b"\xff\xfe", "tls-invalid"),
        ("ca.pem", b"no certificate", "tls-invalid"),
        ("ca.pem", KEY, "tls-invalid"),
        ("ca.pem", STRANGE, "tls-invalid"),
        ("a.pem", STRANGE, "tls-invalid"),
    ],
    ids=_number,
)
def test_what_a_host_could_not_use_is_a_fault(folder: Path, name: str, content: bytes, code: str) -> None:
    write(folder / name, content)
    (problem,) = found(folder, {"client_ca": "ca.pem"})
    assert (problem.severity, problem.code) == ("error", code)
    assert problem.line == 1


def test_an_encrypted_key_is_a_fault_that_says_how_to_decrypt_it(folder: Path) -> None:
    key = serialization.load_pem_private_key(KEY, None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write(folder / "a.key", key.private_bytes(*form, serialization.BestAvailableEncryption(b"a password")))
    (problem,) = found(folder, {})
    assert (problem.code, problem.path) == ("tls-encrypted", "server.tls.key")
    assert "openssl pkey" in problem.message


def test_a_certificate_that_has_expired_is_a_fault_and_one_that_will_soon_a_warning(folder: Path) -> None:
    def after(delta: timedelta) -> list[tuple[str, str, str]]:
        pair = CA.issue_cert("users.example", not_before=NOW - timedelta(days=90), not_after=NOW + delta)
        write(folder / "a.pem", pair.cert_chain_pems[0].bytes())
        write(folder / "a.key", pair.private_key_pem.bytes())
        return codes(found(folder, {}))

    assert after(timedelta(days=15)) == []
    assert after(timedelta(days=13)) == [("warning", "tls-expires-soon", "server.tls.cert")]
    assert after(timedelta(hours=-1)) == [("error", "tls-expired", "server.tls.cert")]


def test_a_warning_says_in_how_many_days_a_certificate_expires(folder: Path) -> None:
    pair = CA.issue_cert("users.example", not_after=NOW + timedelta(days=5, hours=1))
    write(folder / "a.pem", pair.cert_chain_pems[0].bytes())
    write(folder / "a.key", pair.private_key_pem.bytes())
    (problem,) = found(folder, {})
    assert problem.message.startswith("a.pem expires in 5 days, on ")


def test_a_key_that_every_user_can_read_is_a_warning() -> None:
    with tempfile.TemporaryDirectory() as made:  # the folders of pytest are private
        folder = Path(made)
        folder.chmod(0o755)
        write(folder / "a.pem", CHAIN)
        write(folder / "a.key", KEY)
        _exposed(folder)


def _exposed(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    write(private / "b.key", KEY, 0o644)  # in a folder that others cannot enter
    assert found(folder, {"key": "private/b.key"}) == []
    (folder / "a.key").chmod(0o644)
    if not everybody_reads(folder / "a.key"):
        pytest.skip("others cannot enter the folder of these tests")
    assert codes(found(folder, {})) == [("warning", "tls-key-exposed", "server.tls.key")]
    (folder / "a.key").chmod(0o640)
    assert found(folder, {}) == []


def test_every_section_is_looked_at_where_it_is(folder: Path) -> None:
    own = {"cert": "x.pem", "key": "a.key"}
    sections = found(
        folder,
        server={"listen": [":8080", {"address": ":8443", "tls": own}], "admin": {"listen": ":9090", "tls": own}},
        channels={
            "tcp": {"listen": ":9100", "tls": {"cert": "a.pem", "key": "a.key", "client_ca": "x.pem"}},
            "nats": {"servers": "nats://a.example", "tls": {"ca": "x.pem"}},
        },
        services={"static": [{"name": "b", "type": "module", "address": "tcp://b:1", "tls": own}]},
    )
    assert [problem.path for problem in sections] == [
        "server.listen[1].tls.cert",
        "server.admin.tls.cert",
        "channels.tcp.tls.client_ca",
        "channels.nats.tls.ca",
        "services.static[0].tls.cert",
    ]
    assert {problem.code for problem in sections} == {"tls-missing"}
    (folder / "x.pem").write_bytes(KEY)
    assert [p.code for p in found(folder, channels={"nats": {"servers": "nats://a", "tls": {"ca": "x.pem"}}})] == [
        "tls-invalid"
    ]


def test_parts_in_secrets_are_checked_where_their_values_are_known(folder: Path) -> None:
    tls = {"key": "${secret:TLS_KEY}"}
    assert found(folder, tls) == []
    assert found(folder, {**tls, "cert": "b.pem"})[0].code == "tls-missing"
    assert found(folder, tls, {"TLS_KEY": KEY.decode()}) == []
    other = trustme.CA().issue_cert("x.example").private_key_pem.bytes().decode()
    (problem,) = found(folder, tls, {"TLS_KEY": other})
    assert problem.code == "tls-mismatch"
    assert problem.message.startswith("${secret:TLS_KEY}: ")
    assert other.splitlines()[1] not in str(problem)


def test_a_path_in_a_variable_that_is_not_set_is_not_looked_for(folder: Path) -> None:
    text = 'app: "main:app"\nserver: {tls: {cert: "${UNSET}", key: b.key}}'
    loaded = load(Source.of_text(text, directory=folder), environ={}, allow_unset=True)
    assert codes(list(Certificates(loaded, {}).problems())) == [("error", "tls-missing", "server.tls.key")]


# Handshakes -----------------------------------------------------------------------------------------------------------


def test_a_handshake_tells_what_a_client_would_see(folder: Path) -> None:
    (line,) = certificates(folder, {"client_ca": "ca.pem", "min_version": "1.3"}).handshakes()
    assert isinstance(line, str)
    assert line.startswith("server.tls: ")
    assert "DNS:users.example; valid until " in line
    assert line.endswith("; TLSv1.3")


def test_a_certificate_for_clients_alone_is_refused_in_the_handshake(folder: Path) -> None:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write(folder / "a.pem", made.public_bytes(serialization.Encoding.PEM))
    write(folder / "a.key", key.private_bytes(serialization.Encoding.PEM, *form))
    checked = certificates(folder, {})
    assert list(checked.problems()) == []
    (problem,) = checked.handshakes()
    assert isinstance(problem, Problem)
    assert (problem.code, problem.path) == ("tls-handshake", "server.tls.cert")
    assert "purpose" in problem.message


def test_what_cannot_be_used_is_no_second_problem_in_the_handshake(folder: Path) -> None:
    write(folder / "a.key", b"")
    assert list(certificates(folder, {}).handshakes()) == []
    assert list(certificates(folder, {"key": "${secret:K}"}).handshakes()) == []


def test_validate_shows_the_problems_and_live_the_certificates(project: Project) -> None:
    project.write("main.py", "async def app(scope, receive, send): ...\n")
    tls = {"cert": "a.pem", "key": "${secret:TLS_KEY}"}
    project.manifest(server={"listen": "127.0.0.1:0", "tls": tls})
    done = project.cli("validate", "--no-import")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "1 error")
    assert "server.tls.cert: a.pem: there is no such file" in done.stdout
    project.write("a.pem", CHAIN.decode())
    done = project.cli("validate", "--no-import", "--live", env={"TLS_KEY": KEY.decode()})
    assert (done.returncode, done.stdout) == (0, "valid\n")
    assert done.stderr.startswith("server.tls: ")
    assert "users.example" in done.stderr
