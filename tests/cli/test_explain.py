"""`explain`: every code that a fault can have is explained, with the text of docs/errors.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

import pytest

from pywatt_host.cli.explain import PAGE, explanations
from tests.processes import ROOT, Project

# The functions that take a code as one of their arguments, and which one it is if another word may stand before it.
_TAKES_CODE = {"fault", "problem", "problem_at", "_fault", "_add", "Unknown", "_problem", "add"}
_REASONS = {"AppLoadError": (1, "app-"), "TlsError": (2, "tls-")}
_WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _produced() -> Iterator[str]:
    for file in (ROOT / "pywatt_host").rglob("*.py"):
        of_problems = file.is_relative_to(ROOT / "pywatt_host" / "manifest") or file.parent.name in (
            "cli",
            "inspection",
        )
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and file.name == "typing.py":
                yield from _words(node.value.elts[:1])
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _REASONS:
                number, prefix = _REASONS[name]
                yield from (prefix + word for word in _words(node.args[number : number + 1]))
            elif name == "Problem":
                yield from _words(node.args[4:5])
            elif name in _TAKES_CODE and of_problems:
                yield from list(_words(node.args))[:1]


def _words(arguments: list[ast.expr]) -> Iterator[str]:
    for each in arguments:
        if (
            isinstance(each, ast.Constant)
            and isinstance(each.value, str)
            and _WORD.fullmatch(each.value)
            and each.value not in ("error", "warning")
        ):
            yield each.value


def test_every_code_that_the_package_produces_is_explained() -> None:
    produced = set(_produced())
    assert len(produced) > 80
    assert produced - set(explanations()) == set()


def test_the_text_is_that_of_the_page_and_every_explanation_is_whole() -> None:
    assert PAGE.samefile(ROOT / "docs" / "errors.md")
    known = explanations()
    headings = re.findall(r"^## `([a-z0-9-]+)`$", PAGE.read_text(), re.MULTILINE)
    assert list(known) == headings
    for each in known.values():
        assert each.meaning, each.code
        assert each.example, each.code
        assert each.cure, each.code
        assert "](" not in each.meaning + each.cure, each.code


@pytest.mark.parametrize(
    "given", ["unknown-scheme", "[unknown-scheme]", "UNKNOWN_SCHEME", "x.yaml:1:2: a: b [unknown-scheme]"]
)
def test_a_code_is_explained_however_it_was_copied(project: Project, given: str) -> None:
    done = project.cli("explain", given)
    assert done.returncode == 0
    assert done.stdout.startswith("unknown-scheme\n")
    assert "Example:" in done.stdout
    assert "What to do: Correct the name, or declare the scheme." in done.stdout


def test_an_unknown_code_gets_a_suggestion(project: Project) -> None:
    done = project.cli("explain", "unkown-scheme")
    assert done.returncode == 2
    assert 'did you mean "unknown-scheme"?' in done.stderr


def test_without_a_code_all_codes_are_listed(project: Project) -> None:
    done = project.cli("explain")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(explanations())


def test_the_json_form_has_the_parts(project: Project) -> None:
    one = json.loads(project.cli("explain", "no-app", "--json").stdout)
    assert one == {
        "code": "no-app",
        "meaning": "The manifest has neither `app` nor `mounts`, so there is nothing to serve.",
        "example": "module: {id: users}",
        "cure": "Write `app: module:attribute`, or `mounts`.",
    }
    assert one in json.loads(project.cli("explain", "--json").stdout)
