"""`docs/architecture.md` names what is there."""

from __future__ import annotations

import configparser
import re
import tomllib

from tests.docs.pages import prose, rows
from tests.processes import ROOT

COMMANDS = ("dev", "export", "init", "routes", "run", "up", "validate", "manifest/model/")
PAGE = ROOT / "docs" / "architecture.md"


def test_its_modules_are_the_layers_that_are_enforced_in_their_order() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].split("\n")
    enforced = [set(re.split(r" *[|:] *", layer.strip())) for layer in layers if layer.strip()]
    assert [set(re.findall(r"`(\w+)`", row[0])) for row in rows(PAGE, "| module | what |")] == enforced


def test_the_files_that_it_mentions_exist() -> None:
    flows, _, _ = prose(PAGE).partition("## Modules")
    folders = ("", "manifest/")
    missing = [
        name
        for name in re.findall(r"`([a-z_/.]+)`", flows)
        if not any(
            (ROOT / "pywatt_host" / f"{folder}{name}").with_suffix(suffix).exists()
            for folder in folders
            for suffix in ("", ".py")
        )
    ]
    assert [name for name in missing if name not in COMMANDS] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=;\[ ]", each)[0] for each in project["dependencies"]}
    explained = {name for row in rows(PAGE, "| package | why | loaded |") for name in row[0].split(", ")}
    assert explained == wanted
