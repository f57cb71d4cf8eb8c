"""The published schemas in ajv, which CI jobs use: they compile in its strict mode, and its verdicts are ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.schema.json_schema import manifest_schema, workspace_schema
from tests.manifest.schema.npm import installed, node
from tests.manifest.schema.test_schema import BEYOND, GOLDENS, load_core
from tests.manifest.test_goldens import read
from tests.processes import ROOT

pytestmark = pytest.mark.slow

# Compiles a schema, and answers with a verdict for each document. Strict mode, and no keyword is declared beside it.
SCRIPT = """
const Ajv = require("ajv/dist/2020").default;
const {schema, documents} = JSON.parse(require("fs").readFileSync(0));
const said = [];
const log = {log: (text) => said.push(text), warn: (text) => said.push(text), error: (text) => said.push(text)};
const validate = new Ajv({strict: true, logger: log}).compile(schema);
console.log(JSON.stringify({said, verdicts: documents.map((each) => validate(each))}));
"""


def verdicts(schema: dict[str, Any], documents: list[Any]) -> list[bool]:
    """What ajv says about each document."""
    modules = installed("ajv")
    done = subprocess.run(
        [node(), "-e", SCRIPT],
        input=json.dumps({"schema": schema, "documents": documents}),
        capture_output=True,
        text=True,
        cwd=modules.parent,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["said"] == []
    found: list[bool] = answer["verdicts"]
    return found


def manifests() -> Iterator[Path]:
    yield from sorted((GOLDENS / "good").glob("*.yaml"))
    yield from sorted((GOLDENS / "faulty").glob("*.yaml"))
    yield ROOT / "pywatt.yaml.example"
    yield from (path for path in sorted((ROOT / "examples").rglob("*.yaml")) if "wattson" not in path.name)


def workspaces() -> Iterator[Path]:
    yield from sorted((GOLDENS / "wattson").rglob("*.yaml"))
    yield from sorted((ROOT / "examples").rglob("*wattson*.yaml"))


def parsed(paths: Iterator[Path]) -> Iterator[tuple[Path, Any]]:
    """The data of each document that has some."""
    for path in paths:
        if path.name == "pywatt.yaml" and "tests" in path.parts:
            continue
        data = load_core(path.read_bytes().decode("utf-8-sig"))
        if isinstance(data, dict):
            yield path, data


@pytest.mark.parametrize("what", ["manifest", "workspace"])
def test_ajv_jsonschema_and_the_types_are_of_one_mind(what: str) -> None:
    """Where the types refuse a document for what a schema cannot see, only ajv and jsonschema are compared."""
    schema = manifest_schema() if what == "manifest" else workspace_schema()
    found = list(parsed(manifests() if what == "manifest" else workspaces()))
    assert len(found) > 10
    theirs = verdicts(schema, [data for _, data in found])
    validator = Draft202012Validator(schema)
    ours = [validator.is_valid(data) for _, data in found]
    assert [path.name for (path, _), one, other in zip(found, theirs, ours, strict=True) if one != other] == []
    apart = [
        path.stem
        for (path, _), accepted in zip(found, theirs, strict=True)
        if (refused := refused_by_types(path, what)) is not None and refused == accepted
    ]
    # To a schema, 1.0 is an integer; and an override may mend a value that is at fault in the file.
    assert sorted(set(apart) - {"float-for-integer", "override-of-wrong-value"}) == []


def refused_by_types(path: Path, what: str) -> bool | None:
    """Whether the typed model refuses a document; None if it does so only for what no schema can see."""
    golden = read(path)
    if path.is_relative_to(ROOT / "examples") or path.suffix == ".example":
        return False
    if any(line.startswith("#!") for line in path.read_text("utf-8", "replace").splitlines()):
        return None if "faulty" in path.parts else False
    try:
        golden.load() if what == "manifest" else golden.load_workspace()
    except ManifestError as error:
        return None if {problem.code for problem in error.problems} <= BEYOND else True
    return False
