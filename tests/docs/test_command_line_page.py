"""`docs/command-line.md` names every verb and option of the command line, and none that is not there."""

from __future__ import annotations

import re

import click
import pytest

from pywatt_host.cli import cli
from tests.docs.pages import rows
from tests.processes import ROOT

PAGE = ROOT / "docs" / "command-line.md"
TEXT = PAGE.read_text(encoding="utf-8")
CONTEXT = click.Context(cli)
VERBS = cli.list_commands(CONTEXT)


def _section(verb: str) -> str:
    match = re.search(rf"^## `{verb}`\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"no section for {verb}"
    return match[1]


def test_the_verbs_are_those_of_the_command_line_in_its_order() -> None:
    assert [row[0] for row in rows(PAGE, "| verb | what it does |")] == [f"[`{verb}`](#{verb})" for verb in VERBS]
    assert re.findall(r"^## `([a-z]+)`$", TEXT, re.MULTILINE) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_a_verb(verb: str) -> None:
    command = cli.get_command(CONTEXT, verb)
    assert command is not None
    there = [option.opts[0] for option in command.params if isinstance(option, click.Option)]
    documented = re.findall(r"^\| `(--[a-z-]+)", _section(verb), re.MULTILINE)
    assert sorted(documented) == sorted(there)


def test_the_exit_codes_of_the_help_are_in_the_table() -> None:
    documented = {row[0] for row in rows(PAGE, "| code | means |")}
    _, _, codes = (cli.epilog or "").partition("Exit codes:")
    assert set(re.findall(r"\b(\d)\b(?= \w)", codes)) <= documented
