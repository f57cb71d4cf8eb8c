"""`tests/constraints.txt`, what the tests were green with: one version of every package that they need."""

from __future__ import annotations

import re
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT
from tests.requirements import lowest, pinned, wanted


def test_every_package_that_the_tests_need_has_one_version() -> None:
    found = pinned()
    assert sorted(wanted() - set(found)) == []
    assert [str(each) for each in found.values() if not re.fullmatch(r"==[^*,]+", str(each.specifier))] == []


def test_a_package_of_the_list_is_within_what_the_project_allows() -> None:
    found = pinned()
    for requirement in map(Requirement, requires("pywatt-host") or []):
        name = canonicalize_name(requirement.name)
        if name in found:
            (pin,) = found[name].specifier
            assert requirement.specifier.contains(pin.version), requirement


def test_the_command_of_the_readme_uses_the_list() -> None:
    assert "pip install -q -c tests/constraints.txt -e '.[test]'" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lowest_versions_are_those_of_the_requirements() -> None:
    lines = lowest()
    assert {line.partition("==")[0] for line in lines} >= {"click", "pydantic", "starlette", "uvicorn", "pytest"}
    assert not any("check" in line or line.startswith("mypy") for line in lines)
