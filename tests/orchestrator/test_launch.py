"""The command that starts a module of a workspace."""

from __future__ import annotations

import sys

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
    ours = module_launch("ours", WORKSPACE.modules["ours"], WORKSPACE, environ, ["TOKEN"])
    assert dict(ours.environ) == {
        "PATH": "/bin",
        "MODE": "x",
        "PYWATT_MODULE_ID": "ours",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "PYWATT_DEV_SERVICES": str(WORKSPACE.directory),
        "PYWATT_LOCAL_HOSTS": "box.lan,127.0.0.1,ours",
    }
    theirs = module_launch("theirs", WORKSPACE.modules["theirs"], WORKSPACE, environ, ["TOKEN"])
    assert dict(theirs.environ) == {"PATH": "/bin", "PYWATT_MODULE_ID": "theirs"}
    assert "a secret" not in repr((ours, theirs))


def test_this_python_runs_a_manifest_and_a_command_is_run_as_it_is() -> None:
    ours = module_launch("ours", WORKSPACE.modules["ours"], WORKSPACE, {})
    manifest = str(WORKSPACE.directory / "users/pywatt.yaml")
    assert ours.argv() == [
        *(sys.executable, "-P", "-m", "pywatt_host", "run", "--orchestrated", "--profile", "dev", manifest)
    ]
    theirs = module_launch("theirs", WORKSPACE.modules["theirs"], WORKSPACE, {})
    assert theirs.argv()[-2:] == ["./program", "-v"]
    assert theirs.directory == WORKSPACE.directory / "legacy"
