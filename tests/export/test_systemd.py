"""systemd: units that its own checker takes, and a host that runs with what they say."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.export import ExportOptions, systemd
from tests.export.modules import APP, MANIFESTS, facts, facts_of, manifest
from tests.processes import PATIENCE, Project


def units(name: str, **options: Any) -> dict[str, str]:
    return dict(systemd(facts(name), ExportOptions(**options)).files)


def values(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


def variables(unit: str) -> dict[str, str]:
    """As systemd reads them, specifiers still in them."""
    words = [word for line in values(unit, "Environment") for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("options", [{}, {"socket": True}, {"replicas": 3}, {"replicas": 2, "socket": True}], ids=str)
@pytest.mark.parametrize("name", MANIFESTS)
def test_the_units_are_taken_without_a_word(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("systemd-analyze is not on this machine")
    program = tmp_path / "module" / ".venv" / "bin" / "pywatt-host"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    files = units(name, directory=str(tmp_path / "module"), **options)
    instances = values(next((text for file, text in files.items() if file.endswith(".target")), ""), "Wants")
    (tmp_path / "units").mkdir()
    for file, text in files.items():
        _, at, kind = file.partition("@")
        named = [each for each in instances if at and each.endswith(kind)] or [file]
        for each in named:
            (tmp_path / "units" / each).write_text(text)
    done = subprocess.run(
        [checker, "verify", "--man=no", *map(str, sorted((tmp_path / "units").iterdir()))],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # Older versions than 253 keep the type that stands before it.
    lines = (done.stdout + done.stderr).splitlines(keepends=True)
    said = "".join(line for line in lines if "service type, ignoring: notify-reload" not in line)
    if "Failed to initialize manager" in said or "Failed to setup working directory" in said:
        pytest.skip(f"systemd-analyze cannot work here: {said.splitlines()[0]}")
    assert (done.returncode, said) == (0, "")


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_service_is_told_when_to_stop_and_when_to_try_again(name: str) -> None:
    found = facts(name)
    (unit,) = [text for file, text in units(name).items() if file.endswith(".service")]
    for key, value in {
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "WatchdogSec": "30s",
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "StateDirectory": found.name,
        "RuntimeDirectory": found.name,
    }.items():
        assert values(unit, key) == [value]
    assert values(unit, "Type")[0] == "notify"
    timeouts = found.manifest.server.timeouts
    assert int(values(unit, "TimeoutStopSec")[0].removesuffix("s")) > timeouts.drain_delay + timeouts.shutdown


def test_certificates_are_credentials_since_the_user_of_the_service_could_not_read_them() -> None:
    unit = units("tls-clients")["users.service"]
    assert values(unit, "LoadCredential") == [
        "tls.crt:/srv/users/tls/server.pem",
        "tls.key:/srv/users/tls/server.key",
        "ca.crt:/etc/tls/clients.pem",
    ]
    found = variables(unit)
    assert found["PYWATT__SERVER__TLS__CERT"] == "%d/tls.crt"
    assert found["PYWATT__SERVER__TLS__CLIENT_CA"] == "%d/ca.crt"
    assert "restart the service to renew them" in unit


def test_a_listener_keeps_its_own_certificate() -> None:
    unit = units("tls-own")["users.service"]
    assert values(unit, "LoadCredential") == ["tls.crt:/etc/tls/100 %% o'own.pem", "tls.key:/etc/tls/own.key"]
    assert json.loads(variables(unit)["PYWATT__SERVER__LISTEN"]) == [
        {"address": "127.0.0.1:8080", "tls": "off"},
        {"address": "127.0.0.1:8443", "tls": {"cert": "%d/tls.crt", "key": "%d/tls.key"}},
    ]
    socket = units("tls-own", socket=True)
    assert variables(socket["users.service"])["PYWATT__SERVER__LISTEN"] == (
        '[{"address": "systemd", "tls": {"cert": "%d/tls.crt", "key": "%d/tls.key"}}]'
    )
    assert "all listeners have the same TLS settings" in socket["users.service"]


def test_a_redirect_may_need_a_privilege_and_is_not_for_several_instances() -> None:
    unit = units("tls-redirect")["users.service"]
    assert values(unit, "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    assert "PYWATT__SERVER__TLS__REDIRECT" not in variables(unit)
    several = units("tls-redirect", replicas=2)["users@.service"]
    assert variables(several)["PYWATT__SERVER__TLS__REDIRECT"] == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("server", "reloads", "variable"),
    [
        ({}, False, None),
        ({"workers": 1}, False, None),
        ({"workers": 2, "reload": "off"}, False, None),
        ({"workers": "auto", "reload": "off"}, False, None),
        ({"workers": 2}, True, None),
        ({"reload": "signal"}, True, None),
        ({"workers": "auto", "reload": "watch"}, True, None),
        ({"workers": "auto"}, True, "signal"),
    ],
)
def test_systemctl_reload_waits_for_a_host_that_reloads(
    server: dict[str, Any], reloads: bool, variable: str | None
) -> None:
    """With `workers: auto`, the number of workers is that of the machine, so the unit decides whether it reloads."""
    unit = systemd(facts_of({"app": "main:app", "server": server}), ExportOptions()).files["users.service"]
    assert values(unit, "Type") == (["notify", "notify-reload"] if reloads else ["notify"])
    assert values(unit, "NotifyAccess") == (["main"] if reloads else [])
    assert values(unit, "ExecReload") == []  # systemd sends SIGHUP by itself, and would send another one
    assert variables(unit).get("PYWATT__SERVER__RELOAD") == variable


@pytest.mark.parametrize(
    ("connections", "expected"), [(10_000, "65536:524288"), (100_000, "131072:524288"), ("off", "524288:524288")]
)
def test_the_service_may_open_as_many_connections_as_the_manifest_says(connections: Any, expected: str) -> None:
    found = facts_of({"app": "main:app", "server": {"limits": {"connections": connections}}})
    unit = systemd(found, ExportOptions()).files["users.service"]
    assert values(unit, "LimitNOFILE") == [expected]


def test_each_secret_is_a_credential_of_its_own() -> None:
    """A folder as one credential would give files of other names."""
    unit = units("secrets")["users.service"]
    assert values(unit, "LoadCredential") == ["DATABASE_URL:/etc/users/secrets/DATABASE_URL"]
    assert "#LoadCredential=PAGE_TOKEN:/etc/users/secrets/PAGE_TOKEN" in unit
    assert variables(unit)["PYWATT__SECRETS__SOURCES"] == '[{"directory": "%d"}, "orchestrator", "env"]'
    mounted = variables(units("secrets-mounted")["users.service"])
    assert mounted["PYWATT__SECRETS__SOURCES"] == '[{"directory": "%d"}, "env"]'


def test_files_are_where_the_service_may_write() -> None:
    found = variables(units("sqlite")["users.service"])
    assert found["PYWATT__DATABASES__DEFAULT__URL"] == "sqlite:////var/lib/users/app.db"
    assert "PYWATT__DATABASES__OTHER__URL" not in found
    unix = units("unix")["users.service"]
    listen = '[{"unix": "/run/users/x.sock", "mode": "0660", "group": "www-data"}]'
    assert variables(unix)["PYWATT__SERVER__LISTEN"] == listen
    assert variables(unix)["PYWATT__SERVER__CONTROL"] == "auto"
    assert values(unix, "SupplementaryGroups") == ["www-data"]
    channel = systemd(facts_of({"app": "main:app", "channels": {"ipc": {"listen": "run/p.sock"}}}), ExportOptions())
    assert variables(channel.files["users.service"])["PYWATT__CHANNELS__IPC__LISTEN"] == "/run/users/p.sock"
    assert "XDG_RUNTIME_DIR" not in variables(units("admin-unix")["users.service"])


@pytest.mark.parametrize("name", ["smallest", "every-interface", "several", "ipv6", "admin", "admin-loopback"])
def test_addresses_that_hold_on_a_machine_stay(name: str) -> None:
    found = variables(units(name)["users.service"])
    assert [key for key in found if "LISTEN" in key] == []


def test_a_privileged_port_needs_its_capability_unless_systemd_listens() -> None:
    assert values(units("privileged")["users.service"], "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    listening = units("privileged", socket=True)
    assert values(listening["users.service"], "AmbientCapabilities") == []
    assert values(listening["users.socket"], "ListenStream") == ["80"]


@pytest.mark.parametrize(
    ("name", "streams"),
    [
        ("smallest", ["127.0.0.1:8080"]),
        ("ipv6", ["[::1]:8080"]),
        ("several", ["8080", "8081"]),
        ("unix", ["/run/users.sock"]),
        ("systemd", ["127.0.0.1:8080"]),
    ],
)
def test_a_socket_unit_listens_where_the_manifest_does(name: str, streams: list[str]) -> None:
    files = units(name, socket=name != "systemd")
    assert values(files["users.socket"], "ListenStream") == streams
    assert values(files["users.service"], "Requires") == ["users.socket"]
    expected = None if name == "systemd" else "systemd"
    assert variables(files["users.service"]).get("PYWATT__SERVER__LISTEN") == expected


@pytest.mark.parametrize(
    ("name", "options", "wanted", "listen", "admin"),
    [
        ("smallest", {}, ["users@8080.service", "users@8081.service"], "127.0.0.1:%i", None),
        ("ipv6", {}, ["users@8080.service", "users@8081.service"], "[::1]:%i", None),
        ("unix", {}, ["users@1.service", "users@2.service"], None, None),
        ("admin", {}, ["users@8080.service", "users@8081.service"], ":%i", "unix:/run/users-%i/admin.sock"),
        (
            "smallest",
            {"socket": True},
            ["users@8080.socket", "users@8081.socket", "users@8080.service", "users@8081.service"],
            "systemd",
            None,
        ),
    ],
)
def test_instances_of_a_template_do_not_meet(
    name: str, options: dict[str, Any], wanted: list[str], listen: str | None, admin: str | None
) -> None:
    files = units(name, replicas=2, **options)
    assert values(files["users.target"], "Wants") == wanted
    unit = files["users@.service"]
    assert values(unit, "PartOf") == ["users.target"]
    assert values(unit, "RuntimeDirectory") == ["users-%i"]
    found = variables(unit)
    assert found["PYWATT__SERVER__TIMEOUTS__DRAIN_DELAY"] == "5s"
    assert listen is None or found["PYWATT__SERVER__LISTEN"] == listen
    assert found.get("PYWATT__SERVER__ADMIN__LISTEN") == admin


def test_what_is_written_in_a_unit_is_read_as_it_was_meant() -> None:
    data = manifest("named") | {"databases": {"default": "sqlite:///50%.db"}}
    unit = systemd(facts_of(data), ExportOptions(directory="/srv/my $users")).files["users.service"]
    assert values(unit, "Description") == ['User "accounts", 100 %%\\nof them']
    assert values(unit, "ExecStart") == ['"/srv/my $$users/.venv/bin/pywatt-host" run "/srv/my $$users"']
    assert variables(unit)["PYWATT__DATABASES__DEFAULT__URL"] == "sqlite:////var/lib/users/50%%.db"
    home = systemd(facts_of(data), ExportOptions(directory="/home/alice/users")).files["users.service"]
    assert values(home, "ProtectHome") == ["read-only"]


@pytest.mark.parametrize("name", ["smallest", "unix", "admin-unix", "secrets", "sqlite"])
def test_a_host_with_the_environment_of_the_unit_says_that_it_is_ready(project: Project, name: str) -> None:
    project.write("main.py", APP)
    data = manifest(name)
    if name == "unix":
        del data["server"]["listen"]["group"]
    data.get("databases", {}).pop("other", None)  # in a folder that is the user's affair
    data["server"] = {"listen": "127.0.0.1:0", **data.get("server", {})}
    project.manifest(**data)
    project.write("credentials/DATABASE_URL", "postgresql://somewhere-else")
    for folder in ("run/users", "var/lib/users"):
        (project.folder / folder).mkdir(parents=True)
    home = str(project.folder)
    unit = systemd(facts_of(data), ExportOptions()).files["users.service"]
    env = {
        key: value.replace("%d", f"{home}/credentials")
        .replace("/run/users", f"{home}/run/users")
        .replace("/var/lib/", f"{home}/var/lib/")
        for key, value in variables(unit).items()
    }
    if data["server"]["listen"] == "127.0.0.1:0":
        env["PYWATT__SERVER__LISTEN"] = "127.0.0.1:0"  # the unit has a port that others can name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"{home}/notify")
        told.settimeout(PATIENCE)
        host = project.host(env={**env, "NOTIFY_SOCKET": f"{home}/notify", "WATCHDOG_USEC": "30000000"})
        assert b"READY=1" in told.recv(4096)
        assert told.recv(4096) == b"WATCHDOG=1"
        assert host.get("/").body == b"here"
        # Readiness waits for the first check of a database, liveness for nothing.
        assert host.get("/livez", (host.ready.get("admin") or host.ready["listen"])[0]).status == 200
        assert host.stop() == 0
