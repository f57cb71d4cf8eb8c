"""From bytes to a tree: positions, limits, and what hostile files do."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
import yaml

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Problem, Source, dump, load, load_manifest
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.workspace import load_workspace
from pywatt_host.manifest.yaml import composer, document
from pywatt_host.manifest.yaml.node import Node, Origin
from tests.processes import ROOT

DOCS = ROOT / "docs" / "errors.md"


def problems(data: bytes | str) -> tuple[Problem, ...]:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(data), environ={})
    return caught.value.problems


def only(data: bytes | str) -> Problem:
    (problem,) = problems(data)
    return problem


def place(problem: Problem) -> tuple[int, int, str]:
    return problem.line, problem.column, problem.code


def test_the_byte_that_is_not_utf8_is_pointed_at() -> None:
    assert place(only("app: main:app\nmodule: {description: é".encode() + b"\xe9}")) == (2, 24, "encoding")
    assert place(only(b"\xef\xbb\xbfapp: \xff")) == (1, 6, "encoding")


def test_utf16_is_recognised() -> None:
    assert "UTF-16" in only("app: main:app".encode("utf-16")).hint


def test_a_byte_order_mark_is_no_fault() -> None:
    assert load(Source.of_text(b"\xef\xbb\xbfapp: main:app"), environ={}).manifest.app is not None


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe"])
def test_a_character_that_yaml_does_not_allow_is_pointed_at(char: str) -> None:
    problem = only(f"app: main:app\nmodule: {{id: a{char}}}")
    assert place(problem) == (2, 15, "control-character")
    assert char not in str(problem)


def test_columns_count_characters_and_lines_count_carriage_returns() -> None:
    assert place(only("app: main:app\r\nmodule: {description: 'é😀', idd: x}\r\n")) == (2, 29, "unknown-key")


@pytest.mark.parametrize("depth", [65, 2000, 1_000_000])
@pytest.mark.parametrize("opening", ["[", "- ", "{a: "])
def test_deep_nesting_is_a_clean_fault(depth: int, opening: str) -> None:
    problem = only((opening * depth)[: document.MAX_BYTES - 10])
    assert place(problem) == (1, 64 * len(opening) + 1, "too-deep")
    assert problem.message == "the values are nested deeper than 64 levels"


def test_sixty_four_levels_are_fine_and_one_more_is_not() -> None:
    good = "app: main:app\nconfig: {a: " + "[" * 62 + "]" * 62 + "}"
    assert load(Source.of_text(good), environ={}).manifest.config
    assert only(good.replace("a: [", "a: [[").replace("]}", "]]}")).code == "too-deep"


def test_depth_is_counted_through_aliases() -> None:
    text = "app: main:app\nx-a: &a " + "[" * 40 + "]" * 40 + "\nconfig: {a: " + "[" * 30 + "*a" + "]" * 30 + "}"
    assert only(text).code == "too-deep"


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    started = time.process_time()
    assert only("\n".join(lines)).code == "too-large"
    assert time.process_time() - started < 2


def test_the_number_of_aliases_and_bytes_is_bounded() -> None:
    assert only("a: &a x\nb: [" + ", ".join(["*a"] * 1001) + "]").code == "too-large"
    assert only(b"#" * (document.MAX_BYTES + 1)).code == "too-large"


@pytest.mark.parametrize(
    "text",
    [
        "app: m:a\nserver: {trusted_proxies: [" + "z," * 29_000 + "]}",
        "app: m:a\nendpoints: [" + "{path: /}," * 9_000 + "]",
        "".join(f"key{number}: 1\n" for number in range(14_000)),
        "app: m:a\nconfig: {" + "".join(f"k{number}: ${{X}}\n, " for number in range(14_000)) + "}",
        "app: m:a\nmodule: {id: '" + "${A:-" * 5_000 + "}" * 5_000 + "'}",
        "app: m:a\nmodule: {id: '" + "a" * 500_000 + "'}",
    ],
    ids=["values", "ties", "keys", "variables", "nested-defaults", "long-text"],
)
def test_many_faults_are_found_in_two_seconds(text: str) -> None:
    started = time.process_time()
    found = problems(text)
    assert time.process_time() - started < 10  # more, for slow machines
    assert len(found) <= 201


def test_problems_beyond_the_limit_are_counted() -> None:
    last = problems("".join(f"key{number}: 1\n" for number in range(300)))[-1]
    assert (last.code, last.message) == ("too-many", "101 more problems are not shown")  # one is that there is no app


def test_any_bytes_give_a_manifest_or_problems() -> None:
    """Pieces of manifests in any order: never another exception, and every problem can be printed."""
    pieces = [
        "app",
        ": ",
        "main:app",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<",
        "${X}",
        "${X:-",
        "'",
        '"',
        "|",
    ]
    pieces += [
        "server",
        "listen",
        "null",
        "!!int ",
        "? ",
        "\t",
        "é",
        "#",
        "0",
        "1.0",
        "endpoints",
        "path",
        "/{x}",
        ",",
        "%",
    ]
    chance = random.Random(7)
    for _ in range(1500):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 40)))
        data = bytearray(text.encode())
        if chance.random() < 0.2:
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            load(Source.of_text(bytes(data)), environ={"X": "1"})
        except ManifestError as error:
            found = error.problems
        else:
            continue
        assert found, text
        assert all(str(problem).isprintable() for problem in found), text


def test_the_python_loader_reads_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml."""
    text = "app: &a main:app\nmodule: {id: 'x y', labels: {b: *a}}\nendpoints:\n- path: /é\n  methods:\n  - GET\n"

    def tree() -> list[object]:
        node = composer.compose(text, Origin("x"), Report())
        assert node is not None
        return flat(node)

    def flat(node: Node) -> list[object]:
        below = (
            node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
        )
        scalar = None if isinstance(node.value, dict | list) else node.value
        return [scalar, node.mark.line, node.mark.column, sorted((node.keys or {}).items()), *map(flat, below)]

    native = tree()
    monkeypatch.setattr(composer, "_LOADER", yaml.SafeLoader)
    assert tree() == native


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pywatt.yml").write_text("app: main:app")
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path, environ={})
    (problem,) = caught.value.problems
    assert problem.code == "file"
    assert problem.hint == f'did you mean "{tmp_path / "pywatt.yml"}"?'


def test_a_folder_stands_for_the_manifest_in_it(tmp_path: Path) -> None:
    (tmp_path / "pywatt.yaml").write_text("app: main:app")
    manifest = load_manifest(tmp_path, environ={})
    assert manifest.directory == tmp_path
    assert manifest.source == tmp_path / "pywatt.yaml"
    assert manifest.module_id == tmp_path.name


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "there/is/no/such.yaml"])
def test_a_name_that_is_no_file_is_a_problem(name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifest(name, environ={})
    assert caught.value.problems[0].code == "file"


def test_the_examples_of_the_error_codes_show_them() -> None:
    sections = re.split(r"^## `", DOCS.read_text(), flags=re.MULTILINE)[1:]
    shown = 0
    for section in sections:
        code = section.partition("`")[0]
        for kind, example in re.findall(r"```yaml faulty( wattson\.yaml)?\n(.*?)```", section, re.DOTALL):
            shown += 1
            read = load_workspace if kind else load
            try:
                found = read(Source.of_text(example), environ={}).warnings
            except ManifestError as error:
                found = error.problems
            assert [problem.code for problem in found] == [code]
    assert shown > 35


def test_a_literal_dollar_brace_survives_dump_and_load() -> None:
    manifest = load(Source.of_text("app: m:a\nconfig: {a: '$${x} $$${y} $z'}"), environ={}).manifest
    assert manifest.config == {"a": "${x} $${y} $z"}
    assert load(Source.of_text(yaml.safe_dump(dump(manifest))), environ={}).manifest == manifest
