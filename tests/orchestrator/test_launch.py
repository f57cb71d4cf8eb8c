"""The command that starts a module of a workspace."""

from __future__ import annotations

import sys

import pytest

from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.orchestrator.launch import module_launch

WORKSPACE = Workspace.model_validate(
    {
        "gateway": {"allowed_hosts": ["box.lan"]},
        "modules": {
            "ours": {"manifest": "users/pywatt.yaml", "profile": "dev", "env": {"MODE": "x", "PYWATT__A": "y"}},
            "theirs": {"command": ["./program", "-v"], "working_dir": "legacy"},
        },
    }
)


def test_no_module_inherits_a_secret_or_a_variable_for_up_itself() -> None:
    environ = {
        "PATH": "/bin",
        "TOKEN": "a secret",
        "PYWATT_PROFILE": "prod",
        "NOTIFY_SOCKET": "/n",
        "LISTEN_FDS": "1",
        "PYWATT__SERVER__LISTEN": ":1",
    }
    told = {
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "PYWATT_GATEWAY": "127.0.0.1,unix",
        "PYWATT_DEV_SERVICES": str(WORKSPACE.directory),
    }
    ours = module_launch("ours", WORKSPACE.modules["ours"], WORKSPACE, environ, ["TOKEN"])
    assert dict(ours.environ) == {
        **told,
        "PATH": "/bin",
        "MODE": "x",
        "PYWATT_MODULE_ID": "ours",
        "PYWATT_LOCAL_HOSTS": "box.lan,127.0.0.1,ours",
    }
    theirs = module_launch("theirs", WORKSPACE.modules["theirs"], WORKSPACE, environ, ["TOKEN"])
    assert dict(theirs.environ) == {
        **told,
        "PATH": "/bin",
        "PYWATT_MODULE_ID": "theirs",
        "PYWATT_LOCAL_HOSTS": "box.lan,127.0.0.1,theirs",
    }
    assert "a secret" not in repr((ours, theirs))


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [("10.0.0.1", "10.0.0.1,127.0.0.1"), ("*", "*"), ("127.0.0.1, 10.0.0.1", "127.0.0.1,10.0.0.1"), ("", "127.0.0.1")],
)
def test_every_module_trusts_the_gateway_beside_what_it_trusts_already(inherited: str, expected: str) -> None:
    for id in ("ours", "theirs"):
        launch = module_launch(id, WORKSPACE.modules[id], WORKSPACE, {"FORWARDED_ALLOW_IPS": inherited})
        assert launch.environ["FORWARDED_ALLOW_IPS"] == expected


def test_this_python_runs_a_manifest_and_a_command_is_run_as_it_is() -> None:
    ours = module_launch("ours", WORKSPACE.modules["ours"], WORKSPACE, {})
    manifest = str(WORKSPACE.directory / "users/pywatt.yaml")
    assert ours.argv() == [
        *(sys.executable, "-P", "-m", "pywatt_host", "run", "--orchestrated", "--profile", "dev", manifest)
    ]
    theirs = module_launch("theirs", WORKSPACE.modules["theirs"], WORKSPACE, {})
    assert theirs.argv()[-2:] == ["./program", "-v"]
    assert theirs.directory == WORKSPACE.directory / "legacy"
