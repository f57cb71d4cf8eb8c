"""Pieces of a framework's pattern become a template of ours that matches no less, and that a manifest accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pywatt_host.app.introspection.regex import one_segment, pieces_of_regex
from pywatt_host.app.introspection.template import Parameter, Piece, below, join, template
from pywatt_host.manifest.values import EndpointPath

ENDPOINT = TypeAdapter(EndpointPath)


def answers(path_template: str, path: str) -> bool:
    """What the template means, said a second time: {x} is one segment, {x:path} the rest."""
    parts = re.split(r"(\{\w+(?::path)?\})", path_template)
    meaning = {True: ".*", False: "[^/]+"}
    pattern = "".join(meaning[part.endswith(":path}")] if part.startswith("{") else re.escape(part) for part in parts)
    return re.fullmatch(pattern, path, re.DOTALL) is not None


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["/"], "/"),
        (["/users/", Parameter("id")], "/users/{id}"),
        (["/users/", Parameter("id"), "/"], "/users/{id}/"),
        (["/files/", Parameter("p", rest=True)], "/files/{p:path}"),
        (["/files/", Parameter("p", rest=True), "/edit"], "/files/{p:path}"),
        (["/a-", Parameter("id"), ".json"], "/{id}"),
        (["/a-", Parameter("p", rest=True)], "/{p:path}"),
        (["/", Parameter("a"), "-", Parameter("b"), "/x"], "/{a}/x"),
        (["/", Parameter("id"), "/", Parameter("id")], "/{id}/{id_2}"),
        (["/", Parameter("2-x")], "/{_2_x}"),
        (["/a b/c"], "/{segment}/c"),
        (["/{x}/", Parameter("segment")], "/{segment}/{segment_2}"),
        (["/a/../b"], "/a/{segment}/b"),
        (["/a//b"], "/a/{segment:path}"),
        (["users"], "/users"),
        ([], "/"),
    ],
)
def test_a_pattern_is_said_as_narrowly_as_a_template_can(pieces: list[Piece], expected: str) -> None:
    assert template(pieces) == expected
    assert ENDPOINT.validate_python(expected) == expected


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("", "/x", "/x"),
        ("/api", "/", "/api/"),
        ("/api", "/users/{id}", "/api/users/{id}"),
        ("/{id}", "/users/{id}", "/{id}/users/{id_2}"),
        ("/{rest:path}", "/x", "/{rest:path}"),
        ("/api", "/{path:path}", "/api/{path:path}"),
    ],
)
def test_a_template_below_another_keeps_its_parameters_apart(prefix: str, path: str, expected: str) -> None:
    assert join(prefix, path) == expected
    assert ENDPOINT.validate_python(expected) == expected


def test_everything_below_the_root_is_the_rest() -> None:
    assert below("") == "/{path:path}"
    assert below("/static") == "/static/{path:path}"


VALUES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=4)
PIECES = st.lists(
    st.one_of(
        st.text(st.sampled_from("ab/. {}<>?#\\é"), max_size=6),
        st.builds(Parameter, st.text(max_size=3), st.booleans()),
    ),
    max_size=6,
)


@given(pieces=PIECES, data=st.data())
def test_any_pieces_make_a_valid_template_that_matches_their_paths(pieces: list[Piece], data: st.DataObject) -> None:
    found = template(["/", *pieces])
    assert ENDPOINT.validate_python(found) == found
    path = "/" + "".join(
        piece
        if isinstance(piece, str)
        else data.draw(st.text(st.sampled_from("ab/"), max_size=4) if piece.rest else VALUES)
        for piece in pieces
    )
    assert answers(found, path)


@pytest.mark.parametrize(
    "pattern", ["[^/]+", "[0-9]+", r"\d{4}", r"[\w-]+", "(?:a|b)", r"[0-9]+(\.[0-9]+)?", "[-a-z_]+"]
)
def test_an_expression_without_slash_stays_in_one_segment(pattern: str) -> None:
    assert one_segment(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        ".+",
        ".*",
        "[0-9]*",
        "a/b",
        r"a\/b",
        r"\x2f+",
        r"\W",
        r"[^a]+",
        "[+-9]+",
        r"\S+",
        "(a)?",
        "(?=a)b",
        r"(a)\1",
        "(",
        "",
    ],
)
def test_an_expression_in_doubt_does_not_stay_in_one_segment(pattern: str) -> None:
    assert not one_segment(pattern)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^$", ["/"]),
        (r"^articles/$", ["/articles/"]),
        (r"^articles/(?P<year>[0-9]{4})/$", ["/articles/{year}/"]),
        (r"^articles/([0-9]{4})/(\d+)/$", ["/articles/{arg1}/{arg3}/"]),
        (r"^users/?$", ["/users", "/users/"]),
        (r"^report\.(?P<format>csv|json)$", ["/{format}"]),
        (r"^files/(?P<p>.*)$", ["/files/{p:path}"]),
        (r"^files/a.*$", ["/files/{arg7:path}"]),
        (r"^files/(?:a|b)/$", ["/files/{arg6:path}"]),
        (r"^files/((a|b)/)?c$", ["/files/{arg6:path}"]),
        (r"^a/$|^b/$", ["/{rest:path}"]),
        (r"(?i)^admin/$", ["/{rest:path}"]),
        (r"articles/$", ["/{rest:path}"]),
        (r"^articles/", ["/articles/{rest:path}"]),
        (r"^page-\d+/\Z", ["/{arg5}/"]),
    ],
)
def test_a_regular_expression_is_read_until_the_first_thing_that_cannot_be_said(
    pattern: str, expected: list[str]
) -> None:
    readings = [template(["/", *pieces]) for pieces in pieces_of_regex(pattern, whole=True)]
    assert [re.sub(r"arg\d+", "arg", text) for text in readings] == [
        re.sub(r"arg\d+", "arg", text) for text in expected
    ]


FRAGMENTS = st.sampled_from(
    [
        "a",
        "/",
        r"\.",
        r"\/",
        "[ab]",
        "[^/]+",
        r"\d",
        r"\w+",
        "x?",
        "(?P<n>[a-z]+)",
        "(a|b)",
        "(?:c)",
        "(b/)?",
        ".",
        "é",
        "a{2}",
    ]
)


@given(
    fragments=st.lists(FRAGMENTS, max_size=6),
    ends=st.sampled_from([("^", "$"), ("^", "/?$"), ("^", r"\Z"), ("^", ""), ("", "$")]),
    data=st.data(),
)
def test_whatever_a_regular_expression_matches_its_templates_match(
    fragments: list[str], ends: tuple[str, str], data: st.DataObject
) -> None:
    assume(fragments.count("(?P<n>[a-z]+)") < 2)
    pattern = ends[0] + "".join(fragments) + ends[1]
    path = data.draw(st.from_regex(pattern, fullmatch=True))
    assume(not path.endswith("\n"))
    readings = [template(["/", *pieces]) for pieces in pieces_of_regex(pattern, whole=True)]
    assert any(answers(reading, "/" + path) for reading in readings)
