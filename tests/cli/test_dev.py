"""`dev` before it serves: what is wrong usage, what is missing, what its first start cannot do."""

from __future__ import annotations

import importlib.util
import socket
from importlib.machinery import ModuleSpec

import pytest
from click.testing import CliRunner

from pywatt_host.cli import cli
from pywatt_host.cli.dev import _ConfigReader
from pywatt_host.cli.options import Selection
from tests.processes import Project


def test_without_watchfiles_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = importlib.import_module("pywatt_host.cli.dev")

    def nothing(name: str) -> ModuleSpec | None:
        return None if name == "watchfiles" else importlib.util.find_spec(name)

    monkeypatch.setattr(dev, "find_spec", nothing)
    result = CliRunner().invoke(cli, ["dev"], standalone_mode=False)
    assert result.return_value == 2
    assert result.output == "dev needs the package watchfiles. Install it with: pip install 'pywatt-host[dev]'\n"


@pytest.mark.parametrize("address", [":8080", "0.0.0.0:0", "[::]:0", "fd:3", "systemd", "192.0.2.1:80"])
def test_to_listen_beyond_loopback_is_wrong_usage(project: Project, address: str) -> None:
    done = project.cli("dev", "--listen", address, "main:app")
    assert done.returncode == 2
    assert f"--listen {address}: dev listens only on loopback addresses and Unix sockets" in done.stderr
    assert done.stdout == ""


def test_a_manifest_that_is_not_there_is_exit_code_2(project: Project) -> None:
    done = project.cli("dev")
    assert done.returncode == 2
    assert "pywatt.yaml: the file does not exist" in done.stderr


def test_an_invalid_manifest_is_exit_code_2_at_the_first_start(project: Project) -> None:
    project.write("pywatt.yaml", "app: main:app\nserver:\n  listn: :8080\n")
    done = project.cli("dev")
    assert done.returncode == 2
    assert "pywatt.yaml:3:3: server.listn: unknown key" in done.stderr
    assert "^~~~~" in done.stderr


def test_a_taken_address_is_exit_code_3(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = project.cli("dev", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "main:app")
    assert done.returncode == 3
    assert "the address is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_and_reload_are_ignored_with_one_line(project: Project) -> None:
    told: list[str] = []
    reader = _ConfigReader(Selection(str(project.folder)), False, (), told.append)
    project.write("main.py", "app = None\n")
    for server in ({}, {"workers": 1, "reload": "off"}):
        project.manifest(server=server)
        reader.read()
    assert told == []
    project.manifest(server={"workers": 4, "reload": "watch"})
    for _ in range(2):
        assert {"server.workers=1", "server.reload=off"} <= set(reader.read().arguments)
    (line,) = told
    assert line.startswith(
        "dev ignores server.workers and server.reload: it serves with one process, which it restarts"
    )
