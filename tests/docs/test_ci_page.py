"""The page about CI: its files are well-formed, and the commands in them are commands of this version."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pywatt_host.cli.validate import validate
from tests.docs.pages import blocks
from tests.processes import ROOT

PAGE = ROOT / "docs" / "ci.md"
BLOCKS = blocks(PAGE)
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield from value.splitlines()


def _commands() -> Iterator[str]:
    lines = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
    for block in BLOCKS:
        if block.language == "yaml":
            lines += _texts(yaml.safe_load(block.text))
    lines += [hook["entry"] for hook in HOOKS]
    for line in lines:
        if "pywatt-host validate" in line:
            yield line[line.index("pywatt-host validate") :].partition("|")[0].partition(">")[0]


def test_there_is_a_workflow_one_for_code_scanning_and_one_of_gitlab() -> None:
    workflows = [yaml.safe_load(block.text) for block in BLOCKS if block.info == "workflow"]
    jobs = [workflow["jobs"]["validate"] for workflow in workflows if "jobs" in workflow]
    assert len(jobs) == 2
    assert all("uses" in step or "run" in step for job in jobs for step in job["steps"])
    assert any("sarif_file" in step.get("with", {}) for step in jobs[1]["steps"])
    assert workflows[1]["permissions"]["security-events"] == "write"  # without it, the upload is refused
    assert any("script" in workflow.get("manifests", {}) for workflow in workflows)


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_each_command_has_options_of_this_version(command: str) -> None:
    arguments = shlex.split(command)[2:]
    with validate.make_context("validate", arguments) as context:
        assert context.command is validate


def test_the_hooks_are_those_of_the_page() -> None:
    text = PAGE.read_text()
    assert len(HOOKS) == 2
    for hook in HOOKS:
        assert hook.keys() >= {"id", "name", "entry", "language", "files"}
        assert f"| `{hook['id']}` |" in text
    (example,) = [yaml.safe_load(block.text) for block in BLOCKS if block.info == "pre-commit"]
    (local,) = example["repos"][0]["hooks"]
    assert {key: local[key] for key in ("id", "entry", "files")} == {
        key: HOOKS[0][key] for key in ("id", "entry", "files")
    }
