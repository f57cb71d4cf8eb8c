"""`docs/testing.md` can be followed: every example is a test file that passes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.testing import ModuleClient, ModuleProcess, PywattModule, StartWattson, Wattson
from tests.docs.pages import Block, blocks, rows
from tests.processes import ROOT
from tests.testing.conftest import RunTests

PAGE = ROOT / "docs" / "testing.md"
EXAMPLES = [block for block in blocks(PAGE) if block.language == "python"]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.info)
def test_an_example_passes(block: Block, run_tests: RunTests, tmp_path: Path) -> None:
    (tmp_path / block.info).write_text(block.text, encoding="utf-8")
    outcome = run_tests()
    assert outcome.code == 0, outcome.output
    assert outcome.counts["passed"] == len(re.findall(r"^def test_", block.text, re.MULTILINE))


def test_what_it_lists_is_there() -> None:
    said = " ".join(row[0] for header in ("| it has besides | |", "| it does | |") for row in rows(PAGE, header))
    names = set(re.findall(r"`(\w+)", said))
    kinds = (ModuleClient, ModuleProcess, Wattson)
    assert [name for name in names if not any(hasattr(kind, name) for kind in kinds)] == []
    keywords = {name for row in rows(PAGE, "| keyword | |") for name in re.findall(r"^`(\w+)=", row[0])}
    functions: tuple[Any, ...] = (PywattModule.__call__, PywattModule.process, StartWattson.__call__)
    taken = {name for function in functions for name in function.__kwdefaults__}
    assert keywords == taken
