"""What users import by name: every name that has been public stays importable."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PUBLIC = {
    "pywatt_host": (
        "AnnouncedEndpoint", "AppLoadError", "AppState", "AuthError", "BindError", "ChannelError", "Host", "HostError",
        "Manifest", "ManifestError", "MessagingError", "OrchestratorLostError", "ProtocolError", "Secret",
        "SecretError", "ServiceError", "StoreError", "TlsError", "__version__", "load_manifest", "pywatt_module",
        "run_module",
    ),
    "pywatt_host.asgi": ("app",),
    "pywatt_host.django": ("PywattMiddleware", "app_state", "claims"),
    "pywatt_host.fastapi": ("Claims", "State", "app_state", "claims"),
    "pywatt_host.flask": ("app_state", "claims"),
    "pywatt_host.manifest": (
        "InitLayer", "Loaded", "Manifest", "Problem", "SecretTemplate", "Source", "as_json", "dump", "load",
        "load_manifest", "render_github", "render_text",
    ),
    "pywatt_host.starlette": ("app_state", "claims"),
    "pywatt_host.testing": (
        "Announced", "Answer", "AsyncModuleClient", "ModuleClient", "ModuleProcess", "PywattModule", "StartWattson",
        "Wattson", "WebSocket", "WebSocketClosedError", "WebSocketRefusedError", "pywatt_module", "wattson",
    ),
}  # fmt: skip


@pytest.mark.parametrize("module", [*PUBLIC, "pywatt_sdk"])
def test_every_public_name_can_be_imported(module: str) -> None:
    home = import_module(module)
    names = PUBLIC["pywatt_host" if module == "pywatt_sdk" else module]
    assert [name for name in names if not hasattr(home, name)] == []


def test_the_sdk_has_the_objects_of_the_host() -> None:
    host, sdk = import_module("pywatt_host"), import_module("pywatt_sdk")
    assert all(getattr(sdk, name) is getattr(host, name) for name in PUBLIC["pywatt_host"])
    assert sdk.run_script is host.run_script


def test_run_script_is_for_the_decorator_and_not_in_a_star_import() -> None:
    host = import_module("pywatt_host")
    assert callable(host.run_script)
    assert "run_script" not in host.__all__


def test_all_lists_the_public_names_and_a_star_import_gives_them() -> None:
    assert sorted(import_module("pywatt_host").__all__) == sorted(PUBLIC["pywatt_host"])
    for name in ("pywatt_host", "pywatt_sdk"):
        names: dict[str, object] = {}
        exec(f"from {name} import *", names)
        assert set(PUBLIC["pywatt_host"]) <= set(names)


def test_the_package_and_its_command_line_run_as_modules() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pywatt_host", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert import_module("pywatt_host").__version__ in done.stdout
