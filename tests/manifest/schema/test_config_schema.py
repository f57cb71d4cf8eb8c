"""`config_schema`: what its author asks of `config`, the place of each fault, and what may not happen on the way."""

from __future__ import annotations

import json
import multiprocessing
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Loaded, Source, load, render_text

SCHEMA = """{
\t"$schema": "https://json-schema.org/draft/2020-12/schema",
\t"type": "object",
\t"properties": {
\t\t"page_size": {"type": "integer", "minimum": 1, "maximum": 500},
\t\t"greeting": {"type": "string", "pattern": "^[A-Z]", "description": "Begins with a capital letter."},
\t\t"mode": {"enum": ["fast", "slow"]},
\t\t"since": {"type": "string", "format": "date"},
\t\t"debug": {"type": "boolean"},
\t\t"ratio": {"type": "number"},
\t\t"zip": {"type": "string"},
\t\t"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": true, "maxItems": 2},
\t\t"store": {"oneOf": [
\t\t\t{"type": "object", "properties": {"kind": {"const": "redis"}, "url": {"type": "string"}},
\t\t\t "required": ["kind", "url"], "additionalProperties": false},
\t\t\t{"type": "object", "properties": {"kind": {"const": "memory"}}, "required": ["kind"]}
\t\t]}
\t},
\t"required": ["page_size"],
\t"additionalProperties": false
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.schema.json").write_text(SCHEMA)
    return tmp_path


def read(folder: Path, config: str, schema: Any = "config.schema.json", **options: Any) -> Loaded:
    (folder / "pywatt.yaml").write_text(f"app: main:app\nconfig_schema: {json.dumps(schema)}\nconfig: {config}\n")
    return load(Source.file(folder), **{"environ": {}, **options})


def faults(folder: Path, config: str, schema: Any = "config.schema.json", **options: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(folder, config, schema, **options)
    found = caught.value.problems
    assert {problem.code for problem in found} <= {"config", "config-schema"}
    errors = [f"{problem.where}{problem.what}" for problem in found if problem.severity == "error"]
    return [each.removeprefix(f"{folder}/") for each in errors]


def test_a_config_that_fits_is_taken(folder: Path) -> None:
    loaded = read(folder, "{page_size: 5, greeting: Hello, tags: [a, b], store: {kind: memory, more: 1}}")
    assert loaded.warnings == ()
    assert loaded.manifest.config["page_size"] == 5


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{page_size: many}", '3:21: config.page_size: "many" is not an integer'),
        ('{page_size: "5"}', '3:21: config.page_size: "5" is not an integer (write 5 without quotes)'),
        ("{page_size: 501}", "3:21: config.page_size: 501 is too large (write at most 500)"),
        ("{page_sise: 5}", '3:10: config.page_sise: unknown key (did you mean "page_size"?)'),
        ("{}", "3:9: config.page_size: this key is required (add it)"),
        (
            "{page_size: 5, greeting: hello}",
            '3:34: config.greeting: "hello" does not match the pattern ^[A-Z] (Begins with a capital letter)',
        ),
        ("{page_size: 5, mode: fst}", '3:30: config.mode: "fst" is not one of fast, slow (did you mean "fast"?)'),
        ("{page_size: 5, since: 2026-02-30}", '3:31: config.since: "2026-02-30" is not a date such as 2026-01-31'),
        ("{page_size: 5, debug: yes}", '3:31: config.debug: "yes" is not a bool (write true, without quotes)'),
        ("{page_size: 5, zip: 8000}", '3:29: config.zip: 8000 is not a string (put it in quotes: "8000")'),
        ("{page_size: 5, tags: [a, a]}", "3:30: config.tags: the list has the same entry twice (remove one of them)"),
        ("{page_size: 5, tags: [a, b, c]}", "3:30: config.tags: the list has more than 2 entries (remove some)"),
        ("{page_size: 5, store: {kind: redis}}", "3:31: config.store.url: this key is required (add it)"),
        ("{page_size: 5, store: 7}", "3:31: config.store: 7 is not a mapping"),
    ],
)
def test_a_fault_has_its_place_and_a_suggestion(folder: Path, config: str, said: str) -> None:
    assert faults(folder, config) == [f"pywatt.yaml:{said}"]


def test_all_faults_are_found_at_once_beside_those_of_other_keys(folder: Path) -> None:
    (folder / "pywatt.yaml").write_text(
        "app: main:app\nconfig_schema: config.schema.json\nconfig: {page_size: x, mode: y}\nserver: {lissten: 1}\n"
    )
    with pytest.raises(ManifestError) as caught:
        load(Source.file(folder), environ={})
    assert [problem.path for problem in caught.value.problems] == ["config.page_size", "config.mode", "server.lissten"]
    assert "    config: {page_size: x, mode: y}\n                        ^\n" in render_text(caught.value.problems)


def test_a_variable_takes_the_type_that_the_schema_asks_for(folder: Path) -> None:
    environ = {"N": "50", "D": "true", "R": "0.5", "Z": "8000", "PYWATT__CONFIG__TAGS": "[a]"}
    config = '{page_size: "${N}", debug: "${D}", ratio: "${R}", zip: "${Z}"}'
    manifest = read(folder, config, environ=environ).manifest
    assert manifest.config == {"page_size": 50, "debug": True, "ratio": 0.5, "zip": "8000", "tags": ["a"]}


def test_an_override_takes_it_too_and_the_spelling_of_the_schema(folder: Path) -> None:
    environ = {"PYWATT__CONFIG__ZIP": "8000", "PYWATT__CONFIG__PAGE_SIZE": "7"}
    assert read(folder, "{}", environ=environ).manifest.config == {"page_size": 7, "zip": "8000"}
    assert read(folder, "{}", overrides=["config.page_size=7"]).manifest.config == {"page_size": 7}


def test_the_value_of_a_variable_is_never_shown(folder: Path) -> None:
    secret = "s3cr3t-v4lue"
    config = '{page_size: "${S}", greeting: "${S}", mode: "${S}", since: "${S}", tags: ["${S}", "${S}"], store: "${S}"}'
    environ = {"S": secret, "PYWATT__CONFIG__DEBUG": secret, "PYWATT__CONFIG__RATIO": f"{{a: {secret}}}"}
    with pytest.raises(ManifestError) as caught:
        read(folder, config, environ=environ)
    assert len(caught.value.problems) == 8
    assert secret not in render_text(caught.value.problems)
    assert "the value of `${S}` is not one of fast, slow" in str(caught.value)


def test_a_variable_that_is_not_set_decides_nothing(folder: Path) -> None:
    loaded = read(folder, '{page_size: "${N}", mode: fast}', allow_unset=True)
    assert [problem.code for problem in loaded.warnings] == ["variable-unset"]


def test_the_decorator_and_other_code_have_the_same_checks(folder: Path) -> None:
    data = {"app": "main:app", "config_schema": "config.schema.json", "config": {"page_size": "x"}}
    with pytest.raises(ManifestError, match=r'config\.page_size: "x" is not an integer'):
        load(Source.of_data(data, name="users.py", directory=folder), environ={})


def test_without_a_config_the_schema_is_asked_as_well(folder: Path) -> None:
    (folder / "pywatt.yaml").write_text("app: main:app\nconfig_schema: config.schema.json\n")
    with pytest.raises(ManifestError) as caught:
        load(Source.file(folder), environ={})
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [(2, "config.page_size")]


# The schema itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integr"}, 'config_schema.type: "integr" is not one of array, boolean'),
        ({"properties": {"a": {"pattern": r"\Z"}}}, r"config_schema.properties.a.pattern: \Z is not an escape"),
        ({"patternProperties": {"(?P<a>b)": True}}, 'config_schema.patternProperties["(?P<a>b)"]: (?P'),
        ({"$ref": "https://x.example/a.json"}, "is not a part of the schema, and nothing is fetched"),
        ({"$ref": "other.json#/a"}, "is not a part of the schema, and nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "is not a part of the schema, and nothing is fetched"),
        ({"$ref": "#/$defs/none"}, '"#/$defs/none" is not a part of the schema'),
        ({"$ref": "#"}, "has no end, or takes too long"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "is not the JSON Schema of draft 2020-12"),
        ("nope.json", 'file not found: "nope.json" (the path is relative to the manifest\'s folder)'),
        (".", 'file not found: "."'),
        ("a\0b", "file not found"),
    ],
)
def test_a_fault_of_the_schema_is_told_at_its_place(folder: Path, schema: Any, said: str) -> None:
    (found,) = faults(folder, "{page_size: 5}", schema)
    assert found.startswith("pywatt.yaml:2:")
    assert said in found


def test_the_file_of_the_schema_is_named(folder: Path) -> None:
    (folder / "own.yaml").write_text("type: object\nproperties:\n  a: {type: integr}\n")
    (found,) = faults(folder, "{}", "own.yaml")
    assert found.startswith('own.yaml:3:13: properties.a.type: "integr" is not one of ')
    assert found.endswith('(did you mean "integer"?)')
    (folder / "own.json").write_text("[1]")
    assert faults_of_reading(folder, "own.json") == ["own.json:1:1: a schema must be a mapping, not a list"]


def faults_of_reading(folder: Path, name: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(folder, "{}", name)
    return [str(each).removeprefix(f"{folder}/").partition(" (")[0] for each in caught.value.problems]


@pytest.mark.parametrize(
    "text",
    ["API_KEY=s3cr3t-v4lue\n", "A=b\nAPI_KEY: {s3cr3t-v4lue\n", "A: 's3cr3t-v4lue\n", "s3cr3t-v4lue", "- s3cr3t-v4lue",
     "s3cr3t-v4lue: a\ns3cr3t-v4lue: b\n", "A: !s3cr3t-v4lue x", "A: *s3cr3t-v4lue"],
)  # fmt: skip
def test_what_is_in_a_file_that_is_no_schema_is_not_shown(folder: Path, text: str) -> None:
    (folder / ".env").write_text(text)
    (folder / "pywatt.yaml").write_text("app: main:app\nconfig_schema: .env\n")
    with pytest.raises(ManifestError) as caught:
        load(Source.file(folder), environ={})
    assert "s3cr3t" not in render_text(caught.value.problems) + str(caught.value)
    assert all(problem.file.endswith(".env") for problem in caught.value.problems)
    if ":" not in text:  # with the name of a schema, the place of a fault of the syntax is shown, and no line of it
        (folder / "s.yaml").write_text(text)
        (folder / "pywatt.yaml").write_text("app: main:app\nconfig_schema: s.yaml\n")
        with pytest.raises(ManifestError) as caught:
            load(Source.file(folder), environ={})
        assert "s3cr3t" not in render_text(caught.value.problems) + str(caught.value)


@pytest.mark.parametrize("value", ["true", "5"])
def test_a_value_that_is_no_schema_is_told_once(folder: Path, value: str) -> None:
    (folder / "pywatt.yaml").write_text(f"app: main:app\nconfig_schema: {value}\n")
    with pytest.raises(ManifestError) as caught:
        load(Source.file(folder), environ={})
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (2, "config_schema")
    assert problem.message.endswith("is neither a schema nor the name of its file")


@pytest.mark.parametrize(
    ("schema", "config", "said"),
    [
        ({"propertyNames": {"maxLength": 2}}, "{abc: 1}", '10: config.abc: the key "abc" has more than 2 characters'),
        (
            {"propertyNames": {"anyOf": [{"maxLength": 2}]}},
            "{abc: 1}",
            '10: config.abc: the key "abc" has more than 2 characters',
        ),
        (
            {"properties": {"propertyNames": {"maxLength": 2}}},
            "{propertyNames: abc}",
            "25: config.propertyNames: the value has more than 2 characters",
        ),
        ({"not": {"required": ["token"]}}, "{token: x}", "10: config.token: this key is not allowed here (remove it)"),
        ({"not": {"required": ["a", "b"]}}, "{a: 1, b: 2}", "9: config: the keys a, b are not allowed together"),
        ({"properties": {"a": {"not": {"const": 1}}}}, "{a: 1}", "13: config.a: 1 is excluded by the schema"),
        ({"not": {"minProperties": 1}}, "{a: 1}", "9: config: the mapping has a form that the schema excludes"),
    ],
)
def test_keys_and_exclusions_have_texts_of_their_own(folder: Path, schema: Any, config: str, said: str) -> None:
    (found,) = faults(folder, config, schema)
    assert found.startswith(f"pywatt.yaml:3:{said}")


def test_a_misspelt_keyword_is_a_warning(folder: Path) -> None:
    (warning,) = read(folder, "{a: 1}", {"type": "object", "requird": ["b"]}).warnings
    assert "`requird` is not a keyword of JSON Schema, so it has no effect" in str(warning)
    assert warning.hint == 'did you mean "required"?'


def test_references_within_the_schema_are_followed(folder: Path) -> None:
    schema = {
        "$id": "https://x.example/config.json",
        "$defs": {"size": {"type": "integer"}, "named": {"$anchor": "name", "type": "string"}},
        "properties": {"a": {"$ref": "#/$defs/size"}, "b": {"$ref": "#name"}},
        "patternProperties": {"^x_": {"$ref": "#/$defs/size"}},
        "unevaluatedProperties": False,
    }
    assert faults(folder, "{a: x, b: 1, x_1: y, d: 1, x_2: 2}", schema) == [
        'pywatt.yaml:3:13: config.a: "x" is not an integer',
        'pywatt.yaml:3:19: config.b: 1 is not a string (put it in quotes: "1")',
        'pywatt.yaml:3:27: config.x_1: "y" is not an integer',
        "pywatt.yaml:3:30: config.d: unknown key (known keys: a, b)",
    ]


@pytest.mark.parametrize(
    ("schema", "config"),
    [
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, "{a: " + "a" * 5000 + "!}"),
        ({"patternProperties": {"^(a|a)*$": False}}, "{" + "a" * 500 + "b: 1}"),
        ({"properties": {"a": {"pattern": "^(?=(a+)+$)a*$"}}}, "{a: " + "a" * 5000 + "!}"),
        ({"properties": {"a": {"uniqueItems": True}}}, "{a: [" + ", ".join(f"{{b: {n}}}" for n in range(5000)) + "]}"),
        ({"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False}, "{" + "a" * 60 + "!: 1}"),
        (
            {
                "$ref": "#/$defs/a0",
                "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
            },
            "{}",
        ),
    ],
    ids=["nested-repetition", "key", "lookahead", "unique", "unevaluated", "doubling"],
)
def test_a_hostile_schema_does_not_hang(folder: Path, schema: Any, config: str) -> None:
    began = time.monotonic()
    with suppress(ManifestError):
        read(folder, config, schema)
    assert time.monotonic() - began < 30


_BESIDE = {"patternProperties": {"^(a|aa)+$": True}, "unevaluatedProperties": False}


@pytest.mark.parametrize(
    ("schema", "config"),
    [
        (_BESIDE, "{" + "a" * 45 + "!: 1}"),
        (
            {"allOf": [{"patternProperties": {"^(a|aa)+$": True}}], "unevaluatedProperties": False},
            "{" + "a" * 45 + "!: 1}",
        ),
        ({"properties": {"a": {"pattern": r"^(x?)(?:a|aa)+\1$"}}}, "{a: " + "a" * 45 + "!}"),
        ({"propertyNames": {"pattern": "^(?:a|aa)+(?<=b)$"}}, "{" + "a" * 45 + "!: 1}"),
        ({"patternProperties": {"^(?:a|a?)+(?<=b)$": False}, "additionalProperties": True}, "{" + "a" * 45 + "!: 1}"),
        (
            {"$ref": "#/parts/one", "parts": {"one": {"patternProperties": {r"^(x?)(?:a|aa)+\1$": True}}}},
            "{" + "a" * 45 + "!: 1}",
        ),
        ({"patternProperties": {f"^[^a]{{{n}}}$": True for n in range(1000, 1100)}}, "{" + "b" * 3000 + ": 1}"),
    ],
    ids=["unevaluated", "all-of", "pattern", "names", "additional", "elsewhere", "many-large"],
)
def test_a_pattern_has_a_time_limit_wherever_it_stands(folder: Path, schema: Any, config: str) -> None:
    """In a process of its own: a pattern that hangs also holds up the thread that would notice."""
    (folder / "pywatt.yaml").write_text(f"app: main:app\nconfig_schema: {json.dumps(schema)}\nconfig: {config}\n")
    reading = multiprocessing.get_context("fork").Process(target=_read_anyhow, args=(folder,), daemon=True)
    reading.start()
    reading.join(30)
    hangs = reading.is_alive()
    reading.kill()
    reading.join()
    assert not hangs
    assert reading.exitcode == 0


def _read_anyhow(folder: Path) -> None:
    with suppress(ManifestError):
        load(Source.file(folder), environ={})


def test_unevaluated_keys_are_those_that_no_schema_in_the_same_place_is_about(folder: Path) -> None:
    schema = {
        "$defs": {"base": {"properties": {"a": True}, "patternProperties": {"^x_": True}}},
        "$ref": "#/$defs/base",
        "allOf": [{"properties": {"b": True}}],
        "anyOf": [{"properties": {"c": {"type": "string"}}}, {"properties": {"d": {"type": "integer"}}}],
        "if": {"required": ["e"], "properties": {"e": True}},
        "then": {"properties": {"f": True}},
        "else": {"properties": {"g": True}},
        "dependentSchemas": {"b": {"properties": {"h": True}}},
        "unevaluatedProperties": False,
    }
    assert read(folder, "{a: 1, x_1: 1, b: 1, c: t, d: 1, e: 1, f: 1, h: 1}", schema).warnings == ()
    assert faults(folder, "{c: 1, d: 1, f: 1, g: 1, h: 1}", schema) == [
        "pywatt.yaml:3:10: config.c: unknown key (remove it)",
        "pywatt.yaml:3:22: config.f: unknown key (remove it)",
        "pywatt.yaml:3:34: config.h: unknown key (remove it)",
    ]
    assert faults(folder, "{a: 1, z: 1}", {"properties": {"a": True}, "unevaluatedProperties": {"type": "string"}}) == [
        'pywatt.yaml:3:19: config.z: 1 is not a string (put it in quotes: "1")'
    ]


def test_a_text_that_is_too_long_for_a_pattern_is_told_so(folder: Path) -> None:
    schema = {"properties": {"a": {"pattern": r"^(\w+) \1$"}}}
    (found,) = faults(folder, "{a: " + "a" * 5000 + "}", schema)
    assert found.endswith(r"is too long for the pattern ^(\w+) \1$ (shorten it)")


def test_all_faults_of_a_schema_are_told_at_once(folder: Path) -> None:
    schema = {
        "properties": {
            "a": {"type": "strnig"},
            "b": {"pattern": "["},
            "c": {"$ref": "#/nope"},
            "d": {"typ": "string"},
            "e": {"$ref": "#/parts/e"},
            "f": {"$ref": 1, "pattern": 2, "patternProperties": []},
        },
        "parts": {"e": {"pattern": 5, "properties": {"x": {"pattern": "a++"}}}},
    }
    with pytest.raises(ManifestError) as caught:
        read(folder, "{}", schema)
    assert sorted(problem.path.removeprefix("config_schema.") for problem in caught.value.problems) == [
        "parts.e.pattern",
        "parts.e.properties.x.pattern",
        "properties.a.type",
        "properties.b.pattern",
        'properties.c["$ref"]',
        "properties.d.typ",
        "properties.f.pattern",
        "properties.f.patternProperties",
        'properties.f["$ref"]',
    ]


def test_a_recursive_schema_is_no_hostile_one(folder: Path) -> None:
    tree = {
        "$defs": {"tree": {"type": "object", "additionalProperties": {"$ref": "#/$defs/tree"}}},
        "$ref": "#/$defs/tree",
    }
    config = "{a: " * 25 + "{}" + "}" * 25
    assert read(folder, config, tree).warnings == ()
    assert faults(folder, "{a: {b: 1}}", tree) == ["pywatt.yaml:3:17: config.a.b: 1 is not a mapping"]
