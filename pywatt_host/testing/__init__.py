"""The test kit: a pytest plugin with the fixtures `pywatt_module` and `wattson`; docs/testing.md shows them.

pytest imports this in every run, so that it imports nothing but pytest; the rest comes with the first use of a fixture.
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
    from pywatt_host.testing.isolation import Imported
    from pywatt_host.testing.modules import PywattModule
    from pywatt_host.testing.wattson import Announced, Answer, StartWattson, Wattson
    from pywatt_host.testing.websocket import WebSocket, WebSocketClosedError, WebSocketRefusedError

__all__ = [
    "Announced",
    "Answer",
    "AsyncModuleClient",
    "ModuleClient",
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
def _pywatt_imported() -> Imported:
    """What the modules of earlier tests have imported."""
    from pywatt_host.testing.isolation import Imported

    return Imported()


@pytest.fixture
def pywatt_module(request: pytest.FixtureRequest, tmp_path: Path, _pywatt_imported: Imported) -> Iterator[PywattModule]:
    """Start a module in this process: `client = pywatt_module(what, secrets=..., overrides=...)`.

    `what` is a manifest or its folder, `module:app`, a mapping, a decorated function or an application. Every module
    that was started stops with the test, and what failed in its background fails the test.
    """
    from pywatt_host.testing.modules import PywattModule

    modules = PywattModule((request.path.parent, request.config.rootpath), tmp_path, _pywatt_imported)
    yield modules
    modules.stop()


@pytest.fixture
def wattson(request: pytest.FixtureRequest) -> Iterator[StartWattson]:
    """Start a module as a process under an orchestrator that does what the test says: `module = wattson(target)`.

    `target` is a command, a manifest or its folder, `module:app` or a `.py` file. The process and its children end with
    the test.
    """
    from pywatt_host.testing.wattson import StartWattson

    with tempfile.TemporaryDirectory(prefix="pywatt") as folder:  # short enough for the paths of sockets
        start = StartWattson((request.path.parent, request.config.rootpath), Path(folder))
        try:
            yield start
        finally:
            start.end()
