"""The published schema: current, complete, and of one mind with the types."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pywatt_host import __version__
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, dump, load
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.schema.ecmascript import compiled
from pywatt_host.manifest.schema.json_schema import address, manifest_schema, text, workspace_schema
from pywatt_host.manifest.values import format_duration, format_size, parse_duration, parse_size
from pywatt_host.manifest.workspace import load_workspace
from pywatt_host.manifest.yaml.composer import compose
from pywatt_host.manifest.yaml.node import Origin
from tests.processes import ROOT

SCHEMA = manifest_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
WORKSPACE = workspace_schema()
WORKSPACE_VALIDATOR = Draft202012Validator(WORKSPACE)
BOTH = pytest.mark.parametrize("schema", [SCHEMA, WORKSPACE], ids=["manifest", "workspace"])
GOLDENS = ROOT / "tests" / "manifests"

# Faults that no schema can see: they are between parts, in the environment, or in the text before it is data.
BEYOND = {
    "address",
    "alias",
    "buckets",
    "certificate-name",
    "config",
    "config-schema",
    "conflict",
    "documents",
    "duplicate-key",
    "empty",
    "host-path",
    "interpolation",
    "key",
    "merge",
    "metrics-public",
    "no-tls-listener",
    "served-secret",
    "served-source",
    "cors-credentials",
    "trusts-everybody",
    "no-app",
    "no-client-certificates",
    "dependency-cycle",
    "no-file",
    "no-folder",
    "not-mounted",
    "number",
    "path",
    "prefix-conflict",
    "algorithm",
    "incomplete",
    "insecure",
    "no-key",
    "open-endpoint",
    "reserved",
    "unknown-scheme",
    "unused-scheme",
    "url",
    "weak-secret",
    "proxy",
    "open-channel",
    "secret-default",
    "secret-not-here",
    "tag",
    "tie",
    "unknown-client",
    "unknown-module",
    "unknown-policy",
    "too-deep",
    "too-large",
    "variable-required",
    "variable-unset",
    "yaml",
}


def test_the_checked_in_schema_is_what_the_model_generates() -> None:
    """Otherwise: python -m pywatt_host.manifest.schema.json_schema > schemas/pywatt.schema.json"""
    assert (ROOT / "schemas" / "pywatt.schema.json").read_text() == text()


def test_so_is_the_one_of_the_workspace() -> None:
    """Otherwise: python -m pywatt_host.manifest.schema.json_schema workspace > schemas/wattson.schema.json"""
    assert (ROOT / "schemas" / "wattson.schema.json").read_text() == text("workspace")


@BOTH
def test_it_is_a_valid_schema_of_draft_2020_12(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def keys(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    if isinstance(schema, dict):
        for name, below in schema.get("properties", {}).items():
            if set(below) != {"$ref"}:  # a key that is written in another place
                yield f"{path}.{name}", below, name in schema.get("required", ())
        for name, below in schema.items():
            if name not in ("examples", "default", "if"):
                yield from keys(below, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, below in enumerate(schema):
            yield from keys(below, f"{path}/{number}")


@BOTH
def test_every_key_is_explained_with_default_and_examples_that_fit(schema: dict[str, Any]) -> None:
    checked = 0
    for path, key, required in keys(schema):
        checked += 1
        assert key["title"], path
        assert len(key["description"]) > 10, path
        if "then" in key and "examples" not in key:  # a section whose name says its kind
            continue
        assert key["examples"], path
        said = key["description"].rpartition("\n\n")[2]
        assert not required or said == "Required.", path
        assert said.startswith("Default: ") or "default" not in key, path
        validator = Draft202012Validator(schema).evolve(schema=key)
        for value in [*key["examples"], *([key["default"]] if "default" in key else [])]:
            assert list(validator.iter_errors(value)) == [], (path, value)
    assert checked > 40


@BOTH
def test_objects_are_closed_but_for_keys_of_ones_own(schema: dict[str, Any]) -> None:
    def closed(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if "properties" in schema and "if" not in schema:
                yield schema
            for name, below in schema.items():
                if name not in ("if", "examples", "default", "$defs"):
                    yield from closed(below)
                elif name == "$defs":
                    yield from closed({key: each for key, each in below.items() if not key.endswith("-keys")})
        elif isinstance(schema, list):
            for below in schema:
                yield from closed(below)

    for each in closed(schema):
        if isinstance(each["additionalProperties"], dict):  # names of the user's own, of which some mean a kind
            continue
        assert each["additionalProperties"] is False
        assert list(each["patternProperties"]) == ["^x-"]


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        yield from schema.get("patternProperties", ())
        for below in schema.values():
            yield from patterns(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from patterns(below)


@BOTH
def test_patterns_are_anchored_and_valid_in_ecmascript(schema: dict[str, Any]) -> None:
    """Also the same in every engine: `\\s` and `\\w` are not."""
    found = set(patterns(schema))
    assert len(found) > 8
    for pattern in found:
        assert pattern.startswith("^") or pattern == r"\$\{", pattern
        compiled(pattern)
        assert not re.search(r"\\[sSwWdDbB]", pattern), pattern


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for name, below in schema.items():
            if name not in ("examples", "default"):
                yield from parts(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from parts(below)


@BOTH
def test_only_standard_keywords_are_published(schema: dict[str, Any]) -> None:
    """ajv in its strict mode refuses a schema with any other keyword, and a list of types."""
    known = {
        *("$schema", "$id", "$defs", "$ref", "$comment", "title", "description", "default", "examples"),
        *("type", "enum", "const", "anyOf", "if", "then", "else", "required", "dependentRequired"),
        *("properties", "patternProperties", "additionalProperties", "propertyNames", "minProperties"),
        *("items", "minItems", "maxItems", "uniqueItems", "pattern", "minLength", "maxLength"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }

    def keywords(schema: Any) -> Iterator[tuple[str, Any]]:
        for name, below in schema.items() if isinstance(schema, dict) else ():
            yield name, below
            if name in ("properties", "patternProperties", "$defs"):
                for each in below.values():
                    yield from keywords(each)
            elif name == "anyOf":
                for each in below:
                    yield from keywords(each)
            elif name in ("items", "additionalProperties", "propertyNames", "if", "then", "else"):
                yield from keywords(below)

    found = list(keywords(schema))
    assert {name for name, _ in found} - known == set()
    assert all(isinstance(below, str) for name, below in found if name == "type")
    typed = [each for each in parts(schema) if {"pattern", "minLength", "maxLength"} & set(each)]
    assert [each for each in typed if each.get("type") != "string"] == []


@BOTH
def test_no_name_of_a_class_is_published(schema: dict[str, Any]) -> None:
    names = {*schema["$defs"], *re.findall(r'"title": "([^"]*)"', json.dumps(schema))}
    assert [name for name in names if re.search(r"\b[A-Z][a-z]+[A-Z][a-z]", name.replace("PyWatt", ""))] == []


@BOTH
def test_the_values_that_an_editor_names_for_a_fault_are_right(schema: dict[str, Any]) -> None:
    """Where a value does not fit, `else` lists examples: each must fit, so that the list accepts nothing else."""

    def tests(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if "enum" in schema.get("else", {}):
                yield schema
            for below in schema.values():
                yield from tests(below)
        elif isinstance(schema, list):
            for below in schema:
                yield from tests(below)

    found = list(tests(schema))
    assert len(found) > 10
    for each in found:
        validator = Draft202012Validator(schema).evolve(schema=each["if"])
        assert [value for value in each["else"]["enum"] if not validator.is_valid(value)] == []


def test_the_address_names_the_release() -> None:
    assert SCHEMA["$id"] == address() == f"https://schemas.pywatt.dev/pywatt-host/{__version__}/pywatt.schema.json"
    assert WORKSPACE["$id"] == address("workspace")


def test_no_mark_of_the_generator_is_published() -> None:
    assert "x-one-or-list" not in text() + text("workspace")
    assert "oneOf" not in text() + text("workspace")
    assert '"null"' not in text() + text("workspace")


def test_values_that_may_hold_a_secret_are_marked() -> None:
    def marked(schema: Any, path: str) -> Iterator[str]:
        for key, below in schema.items() if isinstance(schema, dict) else ():
            if key == "$comment":
                assert below == "may contain ${secret:NAME}"
                yield path.removeprefix("/$defs/")
            yield from marked(below, f"{path}/{key}")

    assert {path for path in marked(SCHEMA, "") if not path.startswith("profile/")} == {
        "/properties/caches/additionalProperties/else",
        "/properties/databases/additionalProperties/else",
        "app/properties/env/additionalProperties",
        "app-mount/properties/env/additionalProperties",
        *(
            f"{section}-tls/properties/{key}"
            for section in ("server", "public")
            for key in ("cert", "key", "client_ca")
        ),
        "tcp-channel-keys/properties/token",
        "http-channel/properties/token",
        *(f"nats-channel-keys/properties/{key}" for key in ("credentials", "password", "token")),
        "static-service-keys/properties/token",
        *(f"auth-scheme-keys/properties/{key}" for key in ("secret", "public_key", "keys", "users")),
        "client-keys/properties/client_secret",
        "database/properties/url",
        "cache-keys/properties/url",
        "tracing/properties/headers/additionalProperties",
    }
    assert set(marked(WORKSPACE, "")) == {
        "/properties/caches/additionalProperties/else",
        "/properties/databases/additionalProperties/else",
        "cache-keys/properties/url",
        "database/properties/url",
        *(f"server-tls/properties/{key}" for key in ("cert", "key", "client_ca")),
        "tracing/properties/headers/additionalProperties",
    }


def of_the_document(path: Path) -> bool:
    """Whether the faults of a golden file are such that a schema can see them in the document alone."""
    lines = path.read_text().splitlines()
    codes = {line[3:].split(" | ")[0] for line in lines if line.startswith("#>")}
    # To a schema, 1.0 is an integer.
    return not any(line.startswith("#!") for line in lines) and not codes <= BEYOND and path.stem != "float-for-integer"


@pytest.mark.parametrize("path", sorted((GOLDENS / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_good_manifests_fit_the_schema(path: Path) -> None:
    data = load_core(path.read_text())
    if path.stem == "override-of-wrong-value":
        assert not VALIDATOR.is_valid(data)
    else:
        assert [error.message for error in VALIDATOR.iter_errors(data)] == []


@pytest.mark.parametrize("path", sorted((GOLDENS / "wattson" / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_good_workspaces_fit_the_schema(path: Path) -> None:
    assert [error.message for error in WORKSPACE_VALIDATOR.iter_errors(load_core(path.read_text()))] == []


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((GOLDENS / "wattson" / "faulty").glob("*.yaml")) if of_the_document(path)],
    ids=lambda path: path.stem,
)
def test_faulty_workspaces_do_not_fit_the_schema(path: Path) -> None:
    assert not WORKSPACE_VALIDATOR.is_valid(load_core(path.read_text()))


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((GOLDENS / "faulty").glob("*.yaml")) if of_the_document(path)],
    ids=lambda path: path.stem,
)
def test_faulty_manifests_do_not_fit_the_schema(path: Path) -> None:
    assert not VALIDATOR.is_valid(load_core(path.read_text()))


def load_core(source: str) -> Any:
    """The data of a document, as an editor of YAML 1.2 reads it."""
    node = compose(source, Origin("x"), Report())
    return node.plain() if node is not None else None


# Generated documents ----------------------------------------------------------------------------------------------

# No `$`, which begins an interpolation, and no line break, before which `$` matches in Python's patterns.
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="$"), max_size=8)
telling = ["off", "auto", "5s", "10MiB", "/a", ":80", "true", "${SET:-x}", "a:b"]
collections: list[Any] = [[], {}, ["a"], {"a": 1}]
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 3000),
    st.sampled_from([0.5, 2.5]),
    words,
    st.sampled_from(telling),
    st.sampled_from(collections),
)


def pointed(reference: str, root: dict[str, Any]) -> Any:
    """What a reference refers to."""
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def branches(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The mappings, lists and words that a value may be."""
    if "$ref" in schema:
        yield from branches(pointed(schema["$ref"], root), root)
    for each in [*schema.get("anyOf", ()), *(schema[kind] for kind in ("then", "else") if kind in schema)]:
        yield from branches(each, root)
    if "if" not in schema and {"properties", "additionalProperties", "items", "enum"} & set(schema):
        yield schema


@cache
def branch_of(shown: str, root_name: str) -> st.SearchStrategy[Any]:
    """Values of one branch, which is given as JSON so that equal ones share a strategy."""
    schema, root = json.loads(shown), {"manifest": SCHEMA, "workspace": WORKSPACE}[root_name]
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "items" in schema:
        return st.lists(st.deferred(lambda: value_of(schema["items"], root)), max_size=2)
    if isinstance(schema["additionalProperties"], dict):
        names = st.sampled_from(["a", "B_1", "users", *schema.get("properties", ())])
        values = st.deferred(lambda: value_of(schema["additionalProperties"], root))
        return st.dictionaries(names, values, max_size=2)
    return mapping_of(schema, root)


def value_of(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    name = "workspace" if "modules" in root["properties"] else "manifest"
    kinds = [branch_of(json.dumps(each, sort_keys=True), name) for each in branches(schema, root)]
    return st.one_of(kinds) if kinds else st.sampled_from(["a", "5s", 3])


def key_of(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a key takes: its examples, its default, sections of its kinds, alone, in lists or by name."""
    while set(schema) == {"$ref"}:
        schema = pointed(schema["$ref"], root)
    known = [*schema["examples"], *([schema["default"]] if "default" in schema else [])]
    return st.one_of(st.sampled_from(known), st.deferred(lambda: value_of(schema, root)))


def mapping_of(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    strategies = {name: key_of(below, root) for name, below in schema["properties"].items() if name != "profiles"}
    required = {name: strategies.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=strategies)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys or numbers."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def documents(draw: st.DrawFn, root: dict[str, Any] = {**SCHEMA, "required": ["app"]}) -> dict[str, Any]:  # noqa: B006
    """A document that is mostly right, with up to two places where something else was put."""
    document: dict[str, Any] = json.loads(json.dumps(draw(mapping_of(root, root))))
    for _ in range(draw(st.integers(0, 2))):
        container, key = draw(st.sampled_from(list(places(document)) or [(document, "x-a")]))
        change = draw(st.sampled_from(["put", "put", "put", "remove", "add"]))
        if change == "put" or isinstance(container, list):
            container[key] = copy.deepcopy(draw(odd))
        elif change == "add":
            container[draw(st.sampled_from(["x-a", "lissten", "path", "enabled"]))] = copy.deepcopy(draw(odd))
        else:
            container.pop(key, None)
    return document


@settings(suppress_health_check=list(HealthCheck), derandomize=True)
@given(document=documents())
def test_schema_and_types_agree_on_generated_documents(document: dict[str, Any]) -> None:
    accepted = VALIDATOR.is_valid(document)
    try:
        load(Source.of_text(json.dumps(document, ensure_ascii=False)), environ={"NOTHING": ""})
        found: set[str] = set()
    except ManifestError as error:
        found = {problem.code for problem in error.problems if problem.severity == "error"}
    if not accepted:
        assert found, [error.message for error in VALIDATOR.iter_errors(document)]
    elif "${" not in json.dumps(document):  # what comes out of an interpolation has a type of its own
        assert found <= BEYOND - {"yaml", "path"}, found


@settings(suppress_health_check=list(HealthCheck), derandomize=True)
@given(document=documents(WORKSPACE))
def test_schema_and_types_agree_on_generated_workspaces(document: dict[str, Any]) -> None:
    accepted = WORKSPACE_VALIDATOR.is_valid(document)
    try:
        load_workspace(Source.of_text(json.dumps(document, ensure_ascii=False)), environ={"NOTHING": ""})
        found: set[str] = set()
    except ManifestError as error:
        found = {problem.code for problem in error.problems if problem.severity == "error"}
    if not accepted:
        assert found, [error.message for error in WORKSPACE_VALIDATOR.iter_errors(document)]
    elif "${" not in json.dumps(document):
        assert found <= BEYOND - {"yaml", "path"}, found


@settings(
    max_examples=min(settings().max_examples, 60),  # each loads a dozen manifests
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(document=documents())
def test_what_is_dumped_loads_again_to_an_equal_manifest(document: dict[str, Any]) -> None:
    """Also the parts of a document that is refused as a whole."""
    for section, value in document.items():
        try:
            manifest = load(
                Source.of_text(json.dumps({"app": "m:a", section: value}, ensure_ascii=False)), environ={}
            ).manifest
        except ManifestError:
            continue
        for everything in (True, False):
            again = load(Source.of_text(yaml.safe_dump(dump(manifest, all=everything))), environ={}).manifest
            assert again == manifest
            assert dump(again) == dump(manifest)
        assert load(Source.of_data(dump(manifest, escaped=False), name="code"), environ={}).manifest == manifest
        assert VALIDATOR.is_valid(dump(manifest))


@given(st.integers(0, 10**15))
def test_durations_are_read_as_they_are_printed(nanoseconds: int) -> None:
    seconds = nanoseconds / 1_000_000_000
    assert parse_duration(format_duration(seconds)) == seconds


@given(
    st.lists(
        st.tuples(st.decimals(0, 999_999_999, places=6), st.sampled_from(["ms", "s", "m", "h"])), min_size=1, max_size=3
    )
)
def test_any_duration_survives_being_printed(parts: list[tuple[Any, str]]) -> None:
    seconds = parse_duration("".join(f"{number:f}{unit}" for number, unit in parts))
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 10**11))
def test_sizes_are_read_as_they_are_printed(size: int) -> None:
    assert parse_size(format_size(size)) == size


@settings(derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_any_text_gives_a_manifest_or_problems(source: bytes | str) -> None:
    try:
        load(Source.of_text(source), environ={})
    except ManifestError as error:
        problems = error.problems
    else:
        return
    assert problems
