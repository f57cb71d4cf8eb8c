"""Every example in a docstring of the package does what it shows, and what users import or call has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pywatt_host
from pywatt_host import AppState
from tests.processes import ROOT


def _modules() -> Iterator[str]:
    """The modules with an example. The text decides, so that nothing else is imported for it."""
    for path in sorted((ROOT / "pywatt_host").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _examples() -> list[doctest.DocTest]:
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for name in _modules():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "pywatt_host":
                raise
            continue  # the package that it needs is not installed
        found += [example for example in finder.find(module, name) if example.examples]
    return found


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_an_example_does_what_it_shows(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


CALLED = ("AnnouncedEndpoint", "AppState", "Host", "load_manifest", "pywatt_module", "run_module")
FACES = ("django", "fastapi", "flask", "starlette")


@pytest.mark.parametrize(
    "documented",
    [
        *(getattr(pywatt_host, name) for name in CALLED),
        *(importlib.import_module(f"pywatt_host.{name}") for name in FACES),
    ],
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
