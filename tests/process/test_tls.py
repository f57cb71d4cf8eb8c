"""TLS of a running host, with and without workers: renewed certificates, faulty ones, reloads, and the redirect."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import time
from typing import Any

import pytest

from tests.certificates import ca_pem, chain_of, client_context, issued
from tests.process.supervised import APP, Load, Supervised, manifest, until, version
from tests.processes import Connection, Project, allowed

TLS = {"cert": "tls/cert.pem", "key": "tls/key.pem"}
QUICK = {"interval": "0.1s", "retries": 1}
IN_USE = 2.0  # seconds after which a renewed certificate is in use


def put(project: Project, number: int, name: str = "") -> bytes:
    """Write a certificate and its key as renewing programs do, and return the certificate, DER."""
    leaf = issued(number=number)
    for file, content in ((f"{name}cert.pem", chain_of(leaf)), (f"{name}key.pem", leaf.private_key_pem.bytes())):
        write(project, file, content)
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def write(project: Project, file: str, content: bytes) -> None:
    folder = project.folder / "tls"
    folder.mkdir(exist_ok=True)
    (folder / "new").write_bytes(content)
    (folder / "new").rename(folder / file)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def serves(address: str) -> bytes:
    """The certificate that a new connection gets."""
    with Connection(address) as connection:
        return connection.certificate


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    put(project, 0)
    return project


@pytest.mark.parametrize("workers", [1, 2])
def test_a_host_with_tls(served: Project, workers: int) -> None:
    redirect = free_port()
    tls = {**TLS, "redirect": f"127.0.0.1:{redirect}"}
    admin = {"listen": "127.0.0.1:0", "tls": TLS}
    hosts = ["localhost"]
    server = {"workers": workers, "tls": tls, "admin": admin, "allowed_hosts": hosts}
    manifest(served, server, health=QUICK)
    running = Supervised(served)
    address, admin_address = running.address, running.host.ready["admin"][0]
    assert address.startswith("https://")
    assert running.status()["listen"] == [address]
    with Connection(address, client_context()) as kept:
        assert kept.request("GET", "/version").body == b"one"

        # The redirect
        with Connection(f"http://127.0.0.1:{redirect}") as plain:
            answer = plain.request("POST", "/a%20b?c=d", b"body")
        assert answer.status == 308
        port = address.rpartition(":")[2]
        assert answer.headers["location"] == f"https://localhost:{port}/a%20b?c=d"
        with Connection(f"http://127.0.0.1:{redirect}") as plain:
            plain.send("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert plain.response().status == 421

        # A renewal
        began, renewed = time.monotonic(), put(served, 1)
        until(lambda: serves(address) == renewed and serves(admin_address) == renewed)
        assert time.monotonic() - began < allowed(IN_USE)
        assert kept.request("GET", "/version").status == 200

        # A fault
        write(served, "key.pem", issued(number=2).private_key_pem.bytes())
        running.host.wait_for("server.tls.key: tls/key.pem cannot be used: it is not the key of the certificate")
        health = running.host.get("/health", admin_address).json()
        assert health["status"] == "degraded"
        assert "tls/key.pem" in health["checks"]["tls"]["error"]
        labels = '{file="tls/key.pem",key="server.tls.key",reason="mismatch"}'
        assert running.metric(f"pywatt_tls_certificate_faults{labels}", admin_address) == 1
        assert running.metric('pywatt_tls_certificate_expiry_seconds{key="server.tls"}', admin_address) > 0
        assert "(server.tls.key: tls/key.pem: mismatch)" in served.cli("ps").stdout
        assert serves(address) == renewed
        mended = put(served, 3)
        until(lambda: serves(address) == mended)
        assert running.host.get("/health", admin_address).json()["status"] == "healthy"

        # Failed handshakes
        with Connection(address.replace("https", "http")) as confused:
            assert confused.request("GET", "/").status == 400
        failed = 'pywatt_tls_handshake_failures_total{reason="plain_http"}'
        until(lambda: running.metric(failed, admin_address) == 1)
        assert kept.request("GET", "/version").status == 200

    if workers > 1:  # a worker that starts now has the pair in use, whatever the files are
        write(served, "key.pem", b"")
        running.host.wait_for("server.tls.key: tls/key.pem cannot be used: it is empty")
        before = running.workers()
        os.kill(before[1], signal.SIGKILL)
        running.until_workers(2, without=[before[1]])
        assert {serves(address) for _ in range(8)} == {mended}
    assert running.host.stop() == 0
    assert "Traceback" not in "\n".join(running.host.lines)
    assert "PRIVATE KEY" not in "\n".join(running.host.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_host_whose_key_is_missing_does_not_start(served: Project, workers: int) -> None:
    manifest(served, {"workers": workers, "tls": {**TLS, "key": "tls/other.pem"}})
    host = served.host()
    assert host.wait() == 3
    host.wait_for("server.tls.key: tls/other.pem cannot be used: there is no such file")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_renewals_under_load_lose_no_request(served: Project, workers: int) -> None:
    manifest(served, {"workers": workers, "tls": TLS})
    running = Supervised(served)
    slowest = 0.0
    with Load(running.address) as load:
        for number in range(1, 21):
            began, renewed = time.monotonic(), put(served, number)
            until(lambda renewed=renewed: serves(running.address) == renewed)  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - began)
            load.more(50)
    assert load.faults == []
    assert slowest < allowed(IN_USE)
    assert running.host.stop() == 0


# Reloads --------------------------------------------------------------------------------------------------------------


def reloaded(running: Supervised, project: Project, server: dict[str, Any], changed: list[str]) -> None:
    manifest(project, server)
    verdict = running.reload()
    assert verdict["ok"], verdict
    assert [(change["path"], change["action"]) for change in verdict["changes"]] == [
        (path, "in_place") for path in changed
    ]


def test_reloads_change_tls_without_losing_a_connection(served: Project) -> None:
    other = put(served, 5, "other-")
    manifest(served, {"tls": TLS})
    running = Supervised(served)
    address = running.address
    plain = address.replace("https", "http")
    elsewhere = {"cert": "tls/other-cert.pem", "key": "tls/other-key.pem"}
    with Load(address) as load:
        reloaded(running, served, {"tls": elsewhere}, ["server.tls.cert", "server.tls.key"])
        assert running.status()["listen"] == [address]  # port 0 has kept its port
        until(lambda: serves(address) == other)
        load.more()
    assert load.faults == []
    redirect = free_port()
    server = {"tls": {**elsewhere, "redirect": f"127.0.0.1:{redirect}"}, "admin": {"listen": "127.0.0.1:0", "tls": TLS}}
    reloaded(running, served, server, ["server.tls.redirect", "server.admin"])
    with Connection(f"http://127.0.0.1:{redirect}") as connection:
        assert connection.request("GET", "/").headers["location"] == f"https://localhost:{address.rpartition(':')[2]}/"
    server["admin"] = {"listen": "127.0.0.1:0"}
    reloaded(running, served, server, ["server.admin.tls"])
    reloaded(running, served, {}, ["server.tls", "server.admin"])
    assert running.status()["listen"] == [plain]
    with Load(plain) as load:
        load.more()
    assert load.faults == []
    with pytest.raises(OSError):
        Connection(f"http://127.0.0.1:{redirect}")
    own = {"address": "127.0.0.1:0", "tls": TLS}
    reloaded(running, served, {"listen": own}, ["server.listen[0]"])
    assert running.status()["listen"] == [address]
    assert running.host.get("/version", address).body == b"one"
    assert running.host.stop() == 0


def test_a_port_of_plain_http_becomes_the_redirect_and_back(served: Project) -> None:
    first, second = free_port(), free_port()
    plain = {"listen": f"127.0.0.1:{first}"}
    secure = {"listen": f"127.0.0.1:{second}", "tls": {**TLS, "redirect": f"127.0.0.1:{first}"}}
    manifest(served, plain)
    running = Supervised(served)
    for server, status in ((secure, 308), (plain, 200)):
        manifest(served, server)
        verdict = running.reload()
        assert verdict["ok"], verdict
        until(lambda status=status: running.host.get("/pid", f"http://127.0.0.1:{first}").status == status)  # type: ignore[misc]
    assert running.host.stop() == 0


def test_a_reload_with_a_pair_that_cannot_be_used_is_refused(served: Project) -> None:
    manifest(served, {"tls": TLS})
    running = Supervised(served)
    before = serves(running.address)
    version(served, "two")
    manifest(served, {"tls": {**TLS, "cert": "tls/missing.pem"}})
    verdict = running.reload()
    assert (verdict["ok"], verdict["stage"], verdict["exit_code"]) == (False, "tls", 3)
    assert verdict["reason"] == "server.tls.cert: tls/missing.pem cannot be used: there is no such file"
    assert serves(running.address) == before
    assert running.host.get("/version").body == b"one"


def test_a_changed_authority_for_clients_holds_after_the_reload(served: Project) -> None:
    for name in ("clients", "others"):
        write(served, f"{name}.pem", ca_pem(name))
    manifest(served, {"tls": {**TLS, "client_ca": "tls/clients.pem"}})
    running = Supervised(served)
    context = client_context(issued("billing.example", "clients"))
    with Connection(running.address, context) as kept:
        assert kept.request("GET", "/version").status == 200
        write(served, "clients.pem", ca_pem("others"))  # the file changes: no reload is needed

        def refused() -> bool:
            try:
                with Connection(running.address, context) as connection:
                    connection.request("GET", "/version")
            except (OSError, EOFError):
                return True
            return False

        until(refused)
        assert kept.request("GET", "/version").headers["connection"] == "close"
    with Connection(running.address, client_context(issued("billing.example", "others"))) as connection:
        assert connection.request("GET", "/version").status == 200


def test_secrets_hold_certificates_and_a_rotation_renews_them(served: Project) -> None:
    folder = served.folder / "secrets"
    folder.mkdir()

    def store(number: int) -> bytes:
        leaf = issued(number=number)
        (folder / "CERT").write_bytes(chain_of(leaf))
        (folder / "KEY").write_bytes(leaf.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())

    first = store(1)
    secrets = {"rotate": True, "sources": [{"directory": "secrets"}], "interval": "0.1s"}
    manifest(served, {"tls": {"cert": "${secret:CERT}", "key": "${secret:KEY}"}}, secrets=secrets)
    running = Supervised(served)
    assert serves(running.address) == first
    second = store(2)
    until(lambda: serves(running.address) == second)
    assert running.host.stop() == 0
    assert "PRIVATE KEY" not in "\n".join(running.host.lines)


def test_dev_serves_over_tls_as_the_manifest_says(served: Project) -> None:
    listen = [{"address": "127.0.0.1:0", "tls": "off"}, "127.0.0.1:0"]
    manifest(served, {"workers": 1, "listen": listen, "tls": TLS})
    host = served.start([sys.executable, "-m", "pywatt_host", "dev"])
    host.wait_for("https://127.0.0.1:")
    assert "http://127.0.0.1:" in "\n".join(host.lines)
