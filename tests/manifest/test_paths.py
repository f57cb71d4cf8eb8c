"""What a prefix and a path template stand for."""

from __future__ import annotations

import re
import sys

import pytest

from pywatt_host.manifest.values.paths import below, covers, fold, other_spelling, overlap, shape


@pytest.mark.parametrize(
    ("prefix", "path", "rest"),
    [
        ("/", "/", "/"),
        ("/", "/a", "/a"),
        ("/admin", "/admin", ""),
        ("/admin", "/admin/", "/"),
        ("/admin/", "/admin", ""),
        ("/admin", "/admin/x", "/x"),
        ("/admin", "/administrator", None),
        ("/admin", "/Admin", None),
    ],
)
def test_a_prefix_covers_itself_and_what_is_below_it(prefix: str, path: str, rest: str | None) -> None:
    assert covers(prefix, path) is (rest is not None)
    assert below(prefix, path) == (path if rest is None else rest)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a", "/b", False),
        ("/a", "/a/b", False),
        ("/", "/a", False),
        ("/a/{rest:path}", "/a", True),
        ("/a/{rest:path}", "/a/", True),
        ("/a/{rest:path}", "/b/x", False),
        ("/{rest:path}", "/", True),
        ("/users/{id}", "/users/me", True),
        ("/users/{id}", "/users", False),
        ("/users/{id}/x", "/users/{name}/y", False),
    ],
)
def test_two_templates_overlap_where_one_path_matches_both(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


def test_a_template_has_one_other_spelling_unless_it_stands_for_both() -> None:
    assert [other_spelling(each) for each in ("/a", "/a/", "/{x}", "/a/{rest:path}", "/")] == [
        "/a/", "/a", "/{x}/", None, None,
    ]  # fmt: skip
    assert shape("/a/{id}/{rest:path}") == shape("/a/{x}/{more:path}")


def test_what_a_regular_expression_or_a_method_of_texts_takes_for_equal_folds_to_the_same() -> None:
    """For every letter that has a case, and every other one that a regular expression without case matches it with."""
    letters = [
        letter
        for letter in map(chr, range(sys.maxunicode + 1))
        if not "\ud800" <= letter <= "\udfff"
        and (letter.lower() != letter or letter.upper() != letter or letter.casefold() != letter)
    ]
    everything = "".join(letters)
    different = [
        (letter, other)
        for letter in letters
        for other in re.findall(re.escape(letter), everything, re.IGNORECASE)
        if fold(letter) != fold(other)
    ]
    different += [
        (letter, change(letter))
        for letter in letters
        for change in (str.lower, str.upper, str.casefold, str.title, str.swapcase)
        if fold(change(letter)) != fold(letter)
    ]
    assert different == []
    assert [fold(each) for each in ("ADM\u0130N", "adm\u0131n", "\u212a\u017f", "admi\u0307n")] == [
        "admin", "admin", "ks", "admin",
    ]  # fmt: skip
