"""Patterns as ECMA-262 with the flag `u` has them, run in a time that does not grow out of hand."""

from __future__ import annotations

import json
import subprocess

import pytest

from pywatt_host.manifest.schema.ecmascript import TextTooLongError, compiled
from pywatt_host.manifest.schema.ecmascript_parser import PatternError
from tests.manifest.schema.npm import node

VALID = [
    *(r"^\d+$", r"\p{L}+", r"^(?=.*[A-Z])(?=.*\d).{8,}$", r"(a+)+$", r"^(\w+)\s\1$", r"(?<y>\d{4})-\k<y>", r"[^]"),
    *(r"[]", r"\u{1F600}", r"\ud83d\ude00", r"^[\w.-]+$", r"[\D]x", r"a{2,3}?b", r"\bfoo\b", "^$", "", "a|b|", "^.$"),
    *(r"(?<!x)y", r"^\S+@\S+$", r"\/", r"[\]\\-]", r"[\-a]", r"^(?!-)[a-z-]+(?<!-)$", r"\cJ", r"[^\d\s]", r"\P{Lu}"),
    *(r"\p{Script=Greek}", "x{3}", r"^(?!(.*/)?\.\.(/|$))/.*$", r"^a|^b(?!c)", r"\0", r"[\b]", r"\x41", r"\S\W"),
]
INVALID = [
    *(r"\Z", r"\A", "(?P<x>a)", "a++", "{", "a{,3}", "(?>a)", "[z-a]", r"[\w-z]", r"\U0010ffff"),
    *(r"\-", r"\_", "(", ")", "[", "(?=a)*", "^*", r"\2", r"\k<a>", "a{3,2}", "a**", r"\u12", "(?#c)", r"\1"),
    *(r"\p{Foo}", "]", "}", "(?<a>x)(?<a>y)", r"\e", "a{1}{2}", "a\\", r"\p", "(?i)a"),
]
TEXTS = [
    *("", "a", "ab", "foo", "foo bar", "x foo y", "12", "12\n", "h\u00e9llo", "aaaaaa!", "A1bcdefgh", "2020-2020"),
    *("ab ab", "aab", "aaab", "\U0001f600", "-", "--", "abc-", "abc", "\n", "\u2028", "\u03a9", "\u03bb", "xxx"),
    *(
        "/",
        "]",
        "\\",
        "a@b",
        "\u00e9",
        "\ufeff",
        "\x85",
        "y",
        "xy",
        "5s",
        "/a/../b",
        "/a/b",
        "bc",
        "b",
        "\0",
        "\b",
        "A",
    ),
]


def search(pattern: str) -> list[bool]:
    return [compiled(pattern)(text) for text in TEXTS]


@pytest.mark.parametrize("pattern", INVALID)
def test_what_only_python_knows_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (r"^\d+$", "12\n", False),
        (r"^\d$", "\u0663", False),  # a digit of another script
        (r"^\w+$", "h\u00e9llo", False),
        ("^.$", "\U0001f600", True),
        ("^.$", "\u2028", False),
        (r"^\s$", "\ufeff", True),
        (r"^\s$", "\x1c", False),
        (r"^(?=.*[A-Z])(?!.*x).{3,}$", "abC", True),
        (r"^(?=.*[A-Z])(?!.*x).{3,}$", "abCx", False),
        (r"^(\w)\1$", "aa", True),
    ],
)
def test_a_pattern_means_what_it_means_in_an_editor(pattern: str, text: str, matches: bool) -> None:
    assert compiled(pattern)(text) is matches


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "(x+x+)+y", "^(?=(a+)+$)a*$", "^(?!.*.*.*.*x).*$"])
def test_a_pattern_cannot_blow_up(pattern: str) -> None:
    assert compiled(pattern)("a" * 20_000 + "!") in (True, False)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(x?)(?:a|aa)+\1$",
        "^(?:a|aa)+(?<=b)$",
        "(?:a?b?)*(?<!c)d",
        "^(?:a{1,5})*(?!b)$",
        "^" + "a?" * 60 + "a" * 60 + "(?!b)$",
        "^a*a*a*a*a*a*(?<=b)$",
        "(?:a|aa){30}(?!b)",
    ],
)
def test_what_needs_backtracking_and_has_many_ways_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="can take very long"):
        compiled(pattern)


def test_backtracking_over_few_ways_is_taken() -> None:
    assert compiled("^(?:(?!--)[a-z-])+(?<!-)$")("a-b")
    assert not compiled("^(?:(?!--)[a-z-])+(?<!-)$")("a--b")
    assert compiled("^(?:foo|bar){2}(?!x)")("foobar")


def test_the_work_of_a_search_is_known_before() -> None:
    assert compiled("[^a]{5000}").steps("b" * 20_000) >= 20_000
    assert compiled(r"^(\w+)\s\1$").steps("a" * 400) > 100 * compiled(r"^\w+$").steps("a" * 400)


def test_look_around_elsewhere_has_bounds() -> None:
    with pytest.raises(PatternError, match="can take very long"):
        compiled("(a+(?!b))+")
    matches = compiled("^.*(?!b).*$")
    assert matches("short")
    with pytest.raises(TextTooLongError):
        matches("a" * 100_000)


@pytest.mark.parametrize("pattern", ["a" * 2001, "(" * 60 + ")" * 60, "(a{1000}){1000}"])
def test_a_pattern_that_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern)


@pytest.mark.slow
def test_node_is_of_one_mind() -> None:
    script = (
        "const {patterns, texts} = JSON.parse(require('fs').readFileSync(0));"
        "const test = (p) => {try {const r = new RegExp(p, 'u'); return texts.map((t) => r.test(t))}"
        " catch {return null}};"
        "console.log(JSON.stringify(patterns.map(test)))"
    )
    asked = json.dumps({"patterns": VALID + INVALID, "texts": TEXTS})
    done = subprocess.run([node(), "-e", script], input=asked, capture_output=True, text=True, timeout=60, check=True)
    answers = dict(zip(VALID + INVALID, json.loads(done.stdout), strict=True))
    del answers["(?i)a"]  # refused here, since not every engine has it
    assert {pattern: search(pattern) for pattern in VALID} == {pattern: answers[pattern] for pattern in VALID}
    assert {pattern for pattern, answer in answers.items() if answer is None} == {*INVALID} - {"(?i)a"}
