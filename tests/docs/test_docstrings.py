"""The examples in docstrings run, and what users import or call has one."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pywatt_host
from pywatt_host import AppState

HOME = Path(pywatt_host.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME).with_suffix("").parts
    return ".".join(("pywatt_host", *(part for part in parts if part != "__init__")))


WITH_EXAMPLES = sorted(
    module_name(path) for path in HOME.rglob("*.py") if "    >>> " in (text := path.read_text()) or "\n>>> " in text
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


CALLED = ("AnnouncedEndpoint", "AppState", "Host", "load_manifest", "pywatt_module", "run_module")
FACES = ("django", "fastapi", "flask", "starlette")


@pytest.mark.parametrize(
    "documented",
    [*(getattr(pywatt_host, name) for name in CALLED), *(import_module(f"pywatt_host.{name}") for name in FACES)],
    ids=[*CALLED, *FACES],
)
def test_what_users_call_has_an_example(documented: Any) -> None:
    assert ">>> " in inspect.getdoc(documented)  # type: ignore[operator]


def test_every_method_of_the_appstate_says_what_it_does() -> None:
    methods = {name: value for name, value in vars(AppState).items() if not name.startswith("_")}
    assert [name for name, value in methods.items() if not inspect.getdoc(value)] == []
    plain = {"module_id", "orchestrator_api", "config", "claims", "message"}  # a value each
    shown_elsewhere = {"subscribe", "discover_services", "deregister_service"}  # with publish and register_service
    without = {name for name, value in methods.items() if ">>> " not in (inspect.getdoc(value) or "")}
    assert without == plain | shown_elsewhere
