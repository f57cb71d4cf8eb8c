"""Kubernetes: valid by its schemas; a host with the variables of the Deployment is ready on the probed port."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.export import ExportOptions, Facts, kubernetes
from tests.export.modules import APP, MANIFESTS, facts, facts_of, manifest
from tests.processes import Project

VERSIONS = ("1.29", "1.33")  # of Kubernetes: the oldest that is in use, and a new one


def objects(found: Facts, **options: Any) -> dict[str, Any]:
    """Kind to object."""
    (text,) = kubernetes(found, ExportOptions(**options)).files.values()
    assert "'#" not in text
    assert "\n? " not in text
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod(found: Facts, **options: Any) -> dict[str, Any]:
    spec: dict[str, Any] = objects(found, **options)["Deployment"]["spec"]["template"]["spec"]
    return spec


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_object_is_valid_by_the_schemas_of_kubernetes(name: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="its schemas come with the extra `test`")
    options = {"cpu": "250m", "memory": "256Mi", "secret": "other.secret", "image": "registry.example/users:2"}
    for found in (objects(facts(name)), objects(facts(name), replicas=3, **options)):
        for document in found.values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                validator.validate(document, version, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pod_is_bounded(name: str) -> None:
    found = facts(name)
    spec = pod(found)
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "scratch", "mountPath": "/tmp"} in container["volumeMounts"]
    timeouts = found.manifest.server.timeouts
    delay = max(timeouts.drain_delay, 5.0)
    assert spec["terminationGracePeriodSeconds"] > delay + timeouts.shutdown
    assert ("PYWATT__SERVER__TIMEOUTS__DRAIN_DELAY" in variables(container)) == (timeouts.drain_delay < 5)
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    assert "resources" not in container


@pytest.mark.parametrize("name", MANIFESTS)
def test_ports_and_probes_name_each_other(name: str) -> None:
    found = facts(name)
    container = pod(found)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert len(set(ports.values())) == len(ports)
    assert all(port >= 1024 for port in ports.values())
    service = objects(found)["Service"]["spec"]["ports"]
    assert {port["targetPort"] for port in service} == set(ports) - {"admin"}
    assert service[0]["port"] == (443 if service[0]["name"] == "https" else 80)
    health = found.manifest.health
    expected = "admin" if found.manifest.server.admin is not None else service[0]["name"]
    if not health.enabled or name == "tls-clients":
        assert container["readinessProbe"]["tcpSocket"] == {"port": service[0]["name"]}
        assert "livenessProbe" not in container
        return
    for probe, path in (("startup", "liveness"), ("liveness", "liveness"), ("readiness", "readiness")):
        asked = {"path": getattr(health, path), "port": expected}
        asked |= {"scheme": "HTTPS"} if name.startswith("tls") and expected != "http" else {}
        assert container[f"{probe}Probe"]["httpGet"] == asked


@pytest.mark.parametrize(
    ("name", "listen", "admin"),
    [
        ("smallest", ":8080", None),
        ("every-interface", None, None),
        ("several", None, None),
        ("privileged", ":8080", None),
        ("port-0", ":8080", None),
        ("ipv6", ":8080", None),
        ("unix", ":8080", None),
        ("systemd", ":8080", None),
        ("admin", None, None),
        ("admin-loopback", ":8080", ":8081"),
        ("admin-unix", ":8080", ":9090"),
        ("admin-same-port", ":8080", ":9090"),
    ],
)
def test_listeners_that_no_other_machine_would_reach_are_moved(
    name: str, listen: str | None, admin: str | None
) -> None:
    found = variables(pod(facts(name))["containers"][0])
    assert found.get("PYWATT__SERVER__LISTEN") == listen
    assert found.get("PYWATT__SERVER__ADMIN__LISTEN") == admin


def test_more_than_one_instance_is_spread_and_kept() -> None:
    one, three = objects(facts("named")), objects(facts("named"), replicas=3)
    assert "PodDisruptionBudget" not in one
    assert three["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    deployment = three["Deployment"]["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert deployment["template"]["spec"]["topologySpreadConstraints"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (deployment["selector"]["matchLabels"], three["Service"]["spec"]["selector"]):
        assert selector.items() <= labels.items()


def test_open_files_have_no_key_so_a_comment_says_how_many_there_may_be() -> None:
    found = facts_of({"app": "main:app", "server": {"limits": {"connections": 100_000}}})
    (text,) = kubernetes(found, ExportOptions()).files.values()
    assert "# Kubernetes has no key for open files. The container runtime should allow 131072.\n" in text


def test_secrets_are_a_folder_that_others_make() -> None:
    (text,) = kubernetes(facts("secrets"), ExportOptions(secret="vault-of-users")).files.values()
    assert "kubectl create secret generic vault-of-users" in text
    assert "--from-file=DATABASE_URL" in text
    assert "These secrets are not required: PAGE_TOKEN" in text
    spec = pod(facts("secrets"))
    assert spec["volumes"][1]["secret"] == {"secretName": "users-secrets", "defaultMode": 0o440}
    mounted = spec["containers"][0]["volumeMounts"][1]
    assert mounted == {"name": "secrets", "mountPath": "/run/secrets/pywatt", "readOnly": True}
    assert pod(facts("secrets-optional"))["volumes"][1]["secret"]["optional"] is True
    assert pod(facts("secrets-mounted"))["containers"][0]["volumeMounts"][1]["mountPath"] == "/etc/values"
    assert len(pod(facts("secrets-vault"))["volumes"]) == 1


def test_variables_come_from_a_config_map() -> None:
    container = pod(facts("variables"))["containers"][0]
    reference = {"name": "users-env", "key": "REGION"}
    assert {"name": "REGION", "valueFrom": {"configMapKeyRef": reference}} in container["env"]


def test_what_is_asked_for_is_there() -> None:
    container = pod(facts("smallest"), image="registry.example/u:7", cpu="250m", memory="256Mi")["containers"][0]
    assert container["image"] == "registry.example/u:7"
    assert container["resources"] == {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}}


def test_certificates_are_secrets_of_the_usual_type_and_mounted_as_folders() -> None:
    (text,) = kubernetes(facts("tls"), ExportOptions()).files.values()
    assert "#   kubectl create secret tls users-tls \\\n#     --cert=tls/server.pem --key=tls/server.key\n" in text
    spec = pod(facts("tls"))
    assert {"name": "tls", "secret": {"secretName": "users-tls", "defaultMode": 0o440}} in spec["volumes"]
    container = spec["containers"][0]
    mounted = {"name": "tls", "mountPath": "/run/certificates/tls", "readOnly": True}
    assert mounted in container["volumeMounts"]
    found = variables(container)
    assert found["PYWATT__SERVER__TLS__CERT"] == "/run/certificates/tls/tls.crt"
    assert found["PYWATT__SERVER__TLS__KEY"] == "/run/certificates/tls/tls.key"
    (text,) = kubernetes(facts("tls-clients"), ExportOptions()).files.values()
    assert "kubectl create secret tls users-tls" in text
    # Not the Secret of the pair: cert-manager writes the server's own CA there.
    command = "#   kubectl create secret generic users-client-ca \\\n#     --from-file=ca.crt=/etc/tls/clients.pem\n"
    assert command in text
    found = variables(pod(facts("tls-clients"))["containers"][0])
    assert found["PYWATT__SERVER__TLS__CLIENT_CA"] == "/run/certificates/client-ca/ca.crt"


def test_secrets_with_a_certificate_are_secrets_as_others_are() -> None:
    spec = pod(facts("tls-secrets"))
    assert [volume["name"] for volume in spec["volumes"]] == ["scratch", "secrets"]
    assert not any("TLS" in name for name in variables(spec["containers"][0]))


def test_a_listener_keeps_the_certificate_of_its_own_when_it_moves() -> None:
    found = variables(pod(facts("tls-own"))["containers"][0])
    assert json.loads(found["PYWATT__SERVER__LISTEN"]) == [
        {
            "address": ":8443",
            "tls": {"cert": "/run/certificates/tls/tls.crt", "key": "/run/certificates/tls/tls.key"},
        }
    ]
    (text,) = kubernetes(facts("tls-own"), ExportOptions()).files.values()
    assert """--cert='/etc/tls/100 % o'"'"'own.pem'""" in text


def test_clients_of_the_service_use_the_usual_ports() -> None:
    def ports(name: str) -> dict[str, int]:
        return {port["name"]: port["port"] for port in objects(facts(name))["Service"]["spec"]["ports"]}

    assert ports("tls") == {"https": 443}
    assert ports("tls-redirect") == {"https": 443, "redirect": 80}
    assert ports("tls-both") == {"http": 80, "https": 443}
    assert variables(pod(facts("tls-redirect"))["containers"][0])["PYWATT__SERVER__TLS__REDIRECT"] == ":8080"


def test_probes_that_have_no_certificate_go_where_none_is_needed() -> None:
    def probe(name: str) -> dict[str, Any]:
        found: dict[str, Any] = pod(facts(name))["containers"][0]["readinessProbe"]
        return found

    assert probe("tls-clients")["tcpSocket"] == {"port": "https"}
    assert any("probes have none" in note for note in kubernetes(facts("tls-clients"), ExportOptions()).notes)
    assert probe("tls-optional")["httpGet"] == {"path": "/readyz", "port": "https", "scheme": "HTTPS"}
    assert probe("tls-admin")["httpGet"] == {"path": "/readyz", "port": "admin", "scheme": "HTTPS"}
    assert probe("tls-both")["httpGet"] == {"path": "/readyz", "port": "http"}


def on_any_port(found: dict[str, str], folder: Path) -> dict[str, str]:
    """The variables of a container for a process among others: any port, its own folders."""
    for key in ("PYWATT__SERVER__LISTEN", "PYWATT__SERVER__ADMIN__LISTEN"):
        if key in found:
            found[key] = "127.0.0.1:0"
    if "XDG_RUNTIME_DIR" in found:
        found["XDG_RUNTIME_DIR"] = str(folder)
    return {name: value.replace("/run/secrets/pywatt", str(folder / "secrets")) for name, value in found.items()}


@pytest.mark.parametrize("name", ["smallest", "unix", "admin-loopback", "admin-unix", "health-elsewhere", "secrets"])
def test_a_host_with_the_environment_of_the_deployment_answers_the_probes(project: Project, name: str) -> None:
    """The image may have a profile of its own, which the Deployment's wins over."""
    project.write("main.py", APP)
    data = manifest(name) | {"profiles": {"image": {"health": False}}}
    data["server"] = {"listen": "127.0.0.1:8080", **data.get("server", {})}
    project.manifest(**data)
    project.write("secrets/DATABASE_URL", "postgresql://somewhere-else")
    container = pod(facts_of(data))["containers"][0]
    env = {"PYWATT_PROFILE": "image"} | on_any_port(variables(container), project.folder)
    host = project.host(env=env)
    health = facts_of(data).manifest.health
    admin = host.ready.get("admin")
    address = (admin or host.ready["listen"])[0]
    port = container["readinessProbe"]["httpGet"]["port"]
    assert port == ("admin" if admin else "http")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert host.get(container[probe]["httpGet"]["path"], address).status == 200
    assert host.get("/").body == b"here"
    assert host.get(health.path, address).json()["module"]["id"] == "users"
    assert [entry for entry in host.logs if entry["level"] not in ("info", "debug")] == []


def test_the_drain_delay_of_the_deployment_is_heard(project: Project) -> None:
    project.write("main.py", APP)
    project.manifest()
    found = variables(pod(facts("smallest"))["containers"][0])
    config = project.cli("config", "--json", env=on_any_port(found, project.folder))
    assert '"drain_delay": "5s"' in config.stdout


@pytest.mark.parametrize("name", ["tls", "tls-own", "tls-admin", "tls-redirect"])
def test_the_places_of_certificates_are_heard(project: Project, name: str) -> None:
    project.write("main.py", APP)
    project.manifest(**manifest(name))
    found = variables(pod(facts(name))["containers"][0])
    server = json.loads(project.cli("config", "--json", env=found).stdout)["server"]
    expected = {"cert": "/run/certificates/tls/tls.crt", "key": "/run/certificates/tls/tls.key"}
    if name == "tls-own":
        assert server["listen"] == [{"address": ":8443", "tls": {**server["listen"][0]["tls"], **expected}}]
        return
    assert server["tls"].items() >= expected.items()
    if name == "tls-admin":
        assert server["admin"]["tls"]["cert"] == "/run/certificates/tls-2/tls.crt"
        assert server["tls"]["client_ca"] == "/run/certificates/client-ca/ca.crt"
    if name == "tls-redirect":
        assert (server["listen"], server["tls"]["redirect"]) == ([":8443"], ":8080")
