"""What the tests need, by the metadata of what is installed. Run as a module it prints a file of constraints for pip:

python -m tests.requirements            every package as it is installed: tests/constraints.txt anew
python -m tests.requirements lowest     the oldest versions that pyproject.toml allows
"""

from __future__ import annotations

import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

CONSTRAINTS = ROOT / "tests" / "constraints.txt"
_HEAD = """\
# What the whole run of the tests was last green with. The README's second command and .ci/run install these;
# `NEWEST=1 .ci/run` installs what is newest, and writes this file anew when all is green.
"""


def pinned() -> dict[str, Requirement]:
    """What the file of constraints says, by name."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found}


def wanted() -> set[str]:
    """Every package that `.[test]` brings on this interpreter and platform. Raises PackageNotFoundError where one of
    them is not installed."""
    seen: set[tuple[str, str]] = set()
    pending = [("pywatt-host", "test")]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"pywatt-host"}


def installed() -> list[str]:
    """One line for each package; those that another interpreter or platform needs stay as they were."""
    here, before = wanted(), pinned()
    lines = {name: str(each) for name, each in before.items() if each.marker and name not in here}
    for name in here:
        marker = before[name].marker if name in before else None
        lines[name] = f"{name}=={version(name)}" + (f" ; {marker}" if marker else "")
    return [lines[name] for name in sorted(lines)]


def lowest() -> list[str]:
    """One line for each direct requirement that has a lower bound."""
    found = {}
    for requirement in map(Requirement, requires("pywatt-host") or []):
        if requirement.marker is None or not requirement.marker.evaluate({"extra": "check"}):
            for each in requirement.specifier:
                if each.operator == ">=":
                    found[requirement.name] = each.version
    return [f"{name}=={found[name]}" for name in sorted(found)]


if __name__ == "__main__":
    if sys.argv[1:] == ["lowest"]:
        print("\n".join(lowest()))
    else:
        print(_HEAD + "\n".join(installed()))
