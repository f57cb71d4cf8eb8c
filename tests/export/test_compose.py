"""Compose: valid by the Compose Specification, and what its service says holds together."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from pywatt_host.export import ExportOptions, Facts, compose
from pywatt_host.export.compose import FILE
from tests.certificates import chain_of, issued
from tests.export.modules import APP, MANIFESTS, facts, facts_of, manifest
from tests.processes import PATIENCE, Project


def text(found: Facts, **options: Any) -> str:
    files = compose(found, ExportOptions(**options)).files
    assert list(files) == [FILE]
    assert "'#" not in files[FILE]
    return files[FILE]


def document(found: Facts, **options: Any) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(text(found, **options))
    return read


def service(found: Facts, **options: Any) -> dict[str, Any]:
    read: dict[str, Any] = document(found, **options)["services"][found.name]
    return read


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", MANIFESTS)
def test_it_is_valid_by_the_compose_specification(name: str, replicas: int) -> None:
    library = pytest.importorskip("compose_spec", reason="it comes with the extra `test`, for CPython")
    library.PyCompose.from_yaml(text(facts(name), replicas=replicas)).to_spec()


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_service_is_bounded_and_gets_its_time(name: str) -> None:
    found = facts(name)
    read = service(found)
    assert read["restart"] == "on-failure"
    assert read["read_only"] is True
    assert read["cap_drop"] == ["ALL"]
    timeouts = found.manifest.server.timeouts
    assert int(read["stop_grace_period"].removesuffix("s")) > timeouts.drain_delay + timeouts.shutdown
    secrets = document(found).get("secrets", {})
    assert {each if isinstance(each, str) else each["source"] for each in read.get("secrets", [])} <= set(secrets)


@pytest.mark.parametrize(("connections", "expected"), [(10_000, 65536), (100_000, 131072), ("off", 524288)])
def test_the_service_may_open_as_many_connections_as_the_manifest_says(connections: Any, expected: int) -> None:
    found = facts_of({"app": "main:app", "server": {"limits": {"connections": connections}}})
    assert service(found)["ulimits"] == {"nofile": expected}


def local(port: int) -> dict[str, Any]:
    return {"target": port, "published": port, "host_ip": "127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("smallest", [{"target": 8080, "published": 8080, "host_ip": "127.0.0.1"}]),
        ("every-interface", [{"target": 9000, "published": 9000}]),
        ("several", [{"target": 8080, "published": 8080}, {"target": 8081, "published": 8081}]),
        ("admin", [{"target": 8080, "published": 8080}]),
        ("tls-redirect", [local(8443), local(8080)]),
        ("channel", [{"target": 8080, "published": 8080, "host_ip": "127.0.0.1"}, {"target": 9100, "published": 9100}]),
    ],
)
def test_who_may_connect_stays_as_in_the_manifest(name: str, ports: list[Any]) -> None:
    assert service(facts(name))["ports"] == ports


def test_several_share_a_range_of_ports_and_drain_for_who_chooses_between_them() -> None:
    read = service(facts("smallest"), replicas=3)
    assert read["ports"][0]["published"] == "8080-8082"
    assert read["deploy"] == {"replicas": 3}
    assert read["environment"]["PYWATT__SERVER__TIMEOUTS__DRAIN_DELAY"] == "5s"
    assert "PYWATT__SERVER__TIMEOUTS__DRAIN_DELAY" not in service(facts("smallest"))["environment"]


def test_it_is_built_where_no_image_is_named() -> None:
    assert service(facts("named"))["build"] == "."
    assert service(facts("named"))["image"] == "users:1.4.0-build.7"
    named = service(facts("named"), image="registry.example/u:7")
    assert (named["image"], "build" in named) == ("registry.example/u:7", False)


def test_secrets_are_files_where_the_host_looks() -> None:
    read = document(facts("secrets"))
    assert read["secrets"] == {"DATABASE_URL": {"file": "./secrets/DATABASE_URL"}}
    assert read["services"]["users"]["secrets"] == ["DATABASE_URL"]
    assert "/run/secrets" in read["services"]["users"]["environment"]["PYWATT__SECRETS__SOURCES"]
    assert "# PAGE_TOKEN: {file: ./secrets/PAGE_TOKEN}" in text(facts("secrets"))
    mounted = service(facts("secrets-mounted"))
    assert mounted["secrets"] == [{"source": "DATABASE_URL", "target": "/etc/values/DATABASE_URL"}]


def test_certificates_are_folders_so_that_new_files_are_seen() -> None:
    found = service(facts("tls-clients"))
    assert found["volumes"] == [
        "./tls:/run/certificates/tls:ro",
        "./client-ca:/run/certificates/client-ca:ro",
    ]
    assert found["environment"]["PYWATT__SERVER__TLS__CLIENT_CA"] == "/run/certificates/client-ca/ca.crt"
    assert "put the files of server.tls.client_ca into ./client-ca: ca.crt (/etc/tls/clients.pem)" in text(
        facts("tls-clients")
    )
    note = "put the files of server.tls into ./tls: tls.crt (tls/server.pem), tls.key (tls/server.key)"
    assert note in text(facts("tls-clients"))
    assert "volumes" not in service(facts("tls-secrets"))


def test_the_health_check_speaks_tls_where_the_host_does() -> None:
    def code(name: str) -> str:
        found: str = service(facts(name))["healthcheck"]["test"][-1]
        return found

    assert "'https://127.0.0.1:8443/readyz'" in code("tls")
    assert "'https://127.0.0.1:9090/readyz'" in code("tls-admin")
    assert "create_connection(('127.0.0.1', 8443), 2)" in code("tls-clients")


def test_variables_are_those_of_who_starts_it_and_nothing_else_is_interpolated() -> None:
    read = service(facts("variables"))
    assert read["environment"]["REGION"] == "${REGION:?the manifest reads it}"
    priced = service(facts_of({"app": "main:app", "health": {"readiness": "/a$b"}}))
    assert "/a$$b" in priced["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", ["smallest", "admin-loopback", "health-elsewhere", "health-off", "tls"])
def test_the_health_check_passes_on_a_ready_host_and_fails_without_one(project: Project, name: str) -> None:
    project.write("main.py", APP)
    data = manifest(name)
    if "admin" in data.get("server", {}):
        data["server"] = {"admin": {"listen": "127.0.0.1:0"}}
    if name == "tls":
        data["server"]["listen"] = "127.0.0.1:0"
        project.write("tls/server.pem", chain_of(issued()).decode())
        project.write("tls/server.key", issued().private_key_pem.bytes().decode())
    project.manifest(**data)
    host = project.host()
    port = int((host.ready.get("admin") or host.ready["listen"])[0].rpartition(":")[2])
    program, *arguments = service(facts(name))["healthcheck"]["test"][1:]
    assert program == "python"
    code = arguments[-1].replace("$$", "$")
    shown = {"admin-loopback": "8081", "tls": "8443"}.get(name, "8080")
    assert shown in code

    def checked() -> int:
        command = [sys.executable, "-c", code.replace(shown, str(port))]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode

    assert checked() == 0
    host.stop()
    assert checked() != 0


def test_nats_comes_along_where_the_manifest_has_it_on_its_own_machine() -> None:
    read = document(facts("nats"))
    assert read["services"]["nats"]["command"] == ["-js", "-sd", "/data"]
    assert read["services"]["users"]["depends_on"] == ["nats"]
    assert read["services"]["users"]["environment"]["PYWATT__CHANNELS__NATS__SERVERS"] == "nats://nats:4222"
    assert read["volumes"] == {"nats": {}}
    assert "nats" not in document(facts("nats-elsewhere"))["services"]
    elsewhere = document(facts("nats"), nats="nats://n.example:4222")
    assert list(elsewhere["services"]) == ["users"]
    assert elsewhere["services"]["users"]["environment"]["PYWATT__CHANNELS__NATS__SERVERS"] == "nats://n.example:4222"
