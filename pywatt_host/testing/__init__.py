"""The test kit: a pytest plugin with the fixtures `pywatt_module` and `wattson`. docs/testing.md has a guide.

pytest loads this plugin in every run. Therefore it imports nothing but pytest; the first use of a fixture imports the
rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pywatt_host.testing.client import AsyncModuleClient, ModuleClient
    from pywatt_host.testing.isolation import ImportedModules
    from pywatt_host.testing.module_process import ModuleProcess
    from pywatt_host.testing.modules import PywattModule
    from pywatt_host.testing.wattson import Announced, Answer, StartWattson, Wattson
    from pywatt_host.testing.websocket import WebSocket, WebSocketClosedError, WebSocketRefusedError

__all__ = [
    "Announced",
    "Answer",
    "AsyncModuleClient",
    "ModuleClient",
    "ModuleProcess",
    "PywattModule",
    "StartWattson",
    "Wattson",
    "WebSocket",
    "WebSocketClosedError",
    "WebSocketRefusedError",
    "pywatt_module",
    "wattson",
]

_WHERE = {
    "Announced": "wattson",
    "Answer": "wattson",
    "AsyncModuleClient": "client",
    "ModuleClient": "client",
    "ModuleProcess": "module_process",
    "PywattModule": "modules",
    "StartWattson": "wattson",
    "Wattson": "wattson",
    "WebSocket": "websocket",
    "WebSocketClosedError": "websocket",
    "WebSocketRefusedError": "websocket",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


@pytest.fixture(scope="session")
def _pywatt_imported() -> ImportedModules:
    """The Python modules that the tests so far have imported."""
    from pywatt_host.testing.isolation import ImportedModules

    return ImportedModules()


@pytest.fixture
def pywatt_module(
    request: pytest.FixtureRequest, tmp_path: Path, _pywatt_imported: ImportedModules
) -> Iterator[PywattModule]:
    """Start a module in the test's process, and talk to it with an httpx client that needs no socket.

    Call the fixture with a manifest or its folder, an import path such as `main:app`, a mapping, a decorated function
    or an application; see PywattModule for the other arguments. Every module stops at the end of the test. An error in
    a module's background fails the test.

        def test_users(pywatt_module):
            client = pywatt_module("pywatt.yaml", secrets={"KEY": "of-the-test"})
            assert client.get("/users").status_code == 200
    """
    from pywatt_host.testing.modules import PywattModule

    modules = PywattModule((request.path.parent, request.config.rootpath), tmp_path, _pywatt_imported)
    yield modules
    modules.stop()


@pytest.fixture
def wattson(request: pytest.FixtureRequest) -> Iterator[StartWattson]:
    """Start a module as a real process, and act as its orchestrator.

    Call the fixture with a manifest or its folder, an import path such as `main:app`, a `.py` file, or a command as a
    list; see StartWattson for the other arguments. The process and its children end at the end of the test.

        def test_shutdown(wattson):
            module = wattson("pywatt.yaml")
            module.announced()
            assert module.shutdown() == 0
    """
    from pywatt_host.testing.wattson import StartWattson

    with tempfile.TemporaryDirectory(prefix="pywatt") as folder:  # short, since the paths of sockets have a limit
        start = StartWattson((request.path.parent, request.config.rootpath), Path(folder))
        try:
            yield start
        finally:
            start.end()
