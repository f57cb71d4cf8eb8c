"""Every example in a docstring of the package does what it shows."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT


def _modules() -> Iterator[str]:
    """Those with an example. The text decides, so that nothing else is imported for it."""
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
            continue  # it is for a package that is not installed
        found += finder.find(module, name)
    return found


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_an_example_does_what_it_shows(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)
