"""The pages of the manifest and of the workspace, `pywatt.yaml.example` and the schemas tell the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.manifest import Source, load
from pywatt_host.manifest.workspace import load_workspace
from tests.docs.pages import blocks, rows
from tests.docs.schema_keys import NONE, REQUIRED, schema_keys
from tests.processes import ROOT

FOLDER = ROOT / "docs" / "manifest"
HEADER = "| key | type | default | what it does |"
# The admin listener takes the forms of `server.listen`, which are told there; TLS settings are told at `server.tls`,
# and the keys of an application that is mounted at `app`, though these stand in a table of their own.
ELSEWHERE = ("server.admin.listen.", "server.listen.address.", "server.listen.tls.", "server.admin.tls.")
DOCUMENTED = {key: default for key, default in schema_keys().items() if not key.startswith(ELSEWHERE)}
# wattson.yaml has a page of its own; what it shares with a manifest is told there.
WORKSPACE_PAGE = FOLDER / "workspace.md"
SHARED = ("secrets.sources[]", "secrets.keys.*", "logging.", "tracing.", "databases.*", "caches.*")
WORKSPACE = {key: default for key, default in schema_keys("wattson").items() if not key.startswith(SHARED)}


def _page_of(key: str) -> str:
    section = re.split(r"[.\[]", key)[0]
    return {"version": "module", "config_schema": "config"}.get(section, section) + ".md"


def _pages() -> list[Path]:
    return [page for page in FOLDER.glob("*.md") if page != WORKSPACE_PAGE]


def _tables() -> dict[str, list[str]]:
    return {row[0].strip("`"): [page.name, *row[1:]] for page in _pages() for row in rows(page, HEADER)}


def test_every_key_has_a_row_on_its_page_and_no_other_key_has_one() -> None:
    assert {key: row[0] for key, row in _tables().items()} == {key: _page_of(key) for key in DOCUMENTED}


@pytest.mark.parametrize("key", DOCUMENTED)
def test_the_default_in_the_table_is_that_of_the_schema(key: str) -> None:
    assert _tables()[key][2] == DOCUMENTED[key]


def test_the_page_of_the_workspace_has_every_key_of_it_and_no_other_with_its_default() -> None:
    assert {row[0].strip("`"): row[2] for row in rows(WORKSPACE_PAGE, HEADER)} == WORKSPACE


def test_the_workspaces_that_are_shown_are_right(tmp_path: Path) -> None:
    shown = [block for block in blocks(WORKSPACE_PAGE) if block.info == "workspace"]
    (tmp_path / "legacy").mkdir()
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "pywatt.yaml").write_text("app: main:app\n")
    for block in shown:
        load_workspace(Source.of_text(block.text, name="wattson.yaml", directory=tmp_path), environ={})
    assert shown


def test_every_row_says_its_type_and_what_the_key_does() -> None:
    assert [key for key, (_, kind, _, text) in _tables().items() if not kind or not text] == []


def test_no_key_has_two_rows() -> None:
    found = [row[0] for page in _pages() for row in rows(page, HEADER)]
    assert sorted(found) == sorted(set(found))


def test_the_index_of_the_pages_is_complete() -> None:
    listed = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in FOLDER.glob("*.md") if f"({page.name})" not in listed and page.stem != "index"] == []


# pywatt.yaml.example --------------------------------------------------------------------------------------------------

EXAMPLE = ROOT / "pywatt.yaml.example"
# What cannot stand beside what is shown: there in a comment.
COMMENTED = {
    *("channels.ipc.connect", "channels.tcp.connect", "channels.tcp.tls.ca", "channels.tcp.tls.server_name"),
    "state",
    "config_schema",
    "databases.*.init",
    *("channels.nats.user", "channels.nats.password", "channels.nats.token"),
}


# Mappings whose keys are the user's.
_NAMED = (
    *("secrets.keys", "auth", "clients", "databases", "caches"),
    *("resiliency.policies.retries", "resiliency.policies.circuit_breakers"),
    *("resiliency.targets.modules", "resiliency.targets.clients"),
)


def _written(value: Any, path: str = "") -> dict[str, Any]:
    """Path to value for every key, lists taken for their entries."""
    found: dict[str, Any] = {}
    if isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{'*' if path in _NAMED else key}" if path else str(key)
            found[below] = item
            if below not in ("profiles", "config"):
                found |= _written(item, below)
    elif isinstance(value, list):
        for item in value:
            entry = path if path.endswith("listen") else f"{path}[]"
            found |= _written(item, entry)
    return found


def _parsed(text: str) -> dict[str, Any]:
    # Safe for this file: none of its values is one that YAML 1.1 reads otherwise, but for `off`, which is put back.
    return _written(yaml.safe_load(re.sub(r": off\b", ': "off"', text)))


def test_the_example_validates_without_a_warning() -> None:
    source = Source.of_text(EXAMPLE.read_text(encoding="utf-8"), name=EXAMPLE.name, directory=ROOT)
    assert load(source, environ={}).warnings == ()


def test_the_example_has_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = _parsed(text)
    for key in COMMENTED:
        assert re.search(rf"^ *# {key.rpartition('.')[2]}: ", text, re.MULTILINE), key
    # The entries of a list of endpoints have the keys of the rules, which are shown.
    missing = {key for key in DOCUMENTED if key not in shown and not key.startswith("endpoints[]")}
    assert missing == COMMENTED


def test_the_example_shows_the_defaults() -> None:
    """But where a comment says that it does not."""
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = _parsed(text)
    wrong = {}
    for key, default in DOCUMENTED.items():
        if default in (REQUIRED, NONE) or key not in shown or (isinstance(shown[key], dict | list) and shown[key]):
            continue
        value = shown[key]
        written = value if isinstance(value, str) else json.dumps(value)
        if f"`{written}`" != default and not _said_otherwise(text, key):
            wrong[key] = (written, default)
    assert wrong == {}


def _said_otherwise(text: str, key: str) -> bool:
    name = key.rpartition(".")[2]
    # Writing the section at all switches these on.
    return key in ("metrics.enabled", "server.compress.enabled") or any(
        re.match(rf" *(- )?{name}: .*# if omitted: ", line) for line in text.splitlines()
    )


# Pages about other servers --------------------------------------------------------------------------------------------


FROM_SERVERS = [page for page in sorted((ROOT / "docs" / "coming-from").glob("*.md")) if page.stem != "procfile"]


@pytest.mark.parametrize("page", FROM_SERVERS, ids=lambda page: page.stem)
def test_what_another_server_calls_it_leads_to_keys_that_exist(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if re.match(r"\| .* \| manifest \| note", line))
    targets = [row[1] for row in rows(page, header)]
    assert len(targets) > 20
    unknown = [target for target in targets if target != "not there" and target.strip("`") not in schema_keys()]
    assert unknown == []
