"""JSON for hostile input: what it reads, what it refuses, and that it agrees with the standard library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.jsontext import MAX_DEPTH, dumps, loads
from tests.protocol import shapes

TWICE = "an object has a duplicate member"


class TwiceError(Exception):
    """The standard library's reader found a member twice."""


def strict(text: str) -> Any:
    """The standard library's reader, told to refuse members that stand twice."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in members}) != len(members):
            raise TwiceError
        return dict(members)

    return json.JSONDecoder(object_pairs_hook=pairs).decode(text)


def refusal(encoded: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        loads(encoded)
    assert caught.value.code == "json"
    assert len(str(caught.value)) < 150
    return str(caught.value)


def compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def spaced(document: Any) -> str:
    return json.dumps(document, indent=1, separators=(" ,", " : "))


WRITERS: list[Callable[[Any], str]] = [compact, json.dumps, spaced]
writers = pytest.mark.parametrize("write", WRITERS, ids=["compact", "as json.dumps", "spaced"])


@writers
@given(document=shapes.json_documents)
def test_every_document_is_read_as_the_standard_library_reads_it(write: Callable[[Any], str], document: Any) -> None:
    text = write(document)
    assert loads(text.encode()) == json.loads(text) == document
    assert loads(bytearray(text.encode())) == loads(memoryview(text.encode())) == document
    assert loads(dumps(document)) == document


@st.composite
def with_duplicates(draw: st.DrawFn) -> str:
    """The text of a document, each object of which may have one of its members again, its value the same or another."""
    comma = draw(st.sampled_from([",", ", ", " ,\n"]))
    colon = draw(st.sampled_from([":", " :", ": ", "\t:\n"]))
    ascii_only = draw(st.booleans())

    def text_of(value: Any) -> str:
        if isinstance(value, list):
            return f"[{comma.join(map(text_of, value))}]"
        if not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=ascii_only)
        members = list(value.items())
        if draw(st.booleans()) and members:
            name, again = draw(st.sampled_from(members))
            if draw(st.booleans()):
                again = draw(shapes.scalars)
            members.insert(draw(st.integers(0, len(members))), (name, again))
        written = (
            f"{json.dumps(name, ensure_ascii=ascii_only or number % 2 == 1)}{colon}{text_of(item)}"
            for number, (name, item) in enumerate(members)
        )
        return "{" + comma.join(written) + "}"

    return text_of(draw(shapes.json_documents))


@given(with_duplicates())
@example('{"a":1,"a":1}')
@example('[{"a:b":"{\\"c\\":1}"},{"x":{"y":0,"y":0}}]')
@example('{"\\\\":1,"\\\\":2}')
@example('{"\\"":1,"\\u0022":2}')
@example('{"é":1,"\\u00e9":2}')
@example('{"a":{"a":1},"b":{"a":1}}')
@example('{"a": "b: c, d: e", "f": ", "}')
@example('{"a: b": 1, "a:b": 1}')
@example('{"a": 1, "a": 1, "b": ": : : "}')
def test_it_refuses_members_that_stand_twice_exactly_where_the_standard_library_sees_them(text: str) -> None:
    try:
        document = strict(text)
    except TwiceError:
        assert refusal(text.encode()) == TWICE
    else:
        assert loads(text.encode()) == document


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":1}',
        '[[{"a":1,"a":2}]]',
        '{"x":[{"y":{"a":1,"a":2}}]}',
        '{"a:":1,"a:":2}',
        '{"a" : 1 , "a" : 2}',
        '{"a"\n:\n1,"a"\t:\r2}',
        '{"\\"":1,"\\"":2}',
        '{"\\\\":1,"\\\\":2}',
        '{"\\\\\\"":":","\\\\\\"":"::"}',
        '{"":1,"":2}',
        '{"a":{},"a":{}}',
        '{"a":"b:c","d":"\\":","a":0}',
        '{"\\u0061":1,"a":2}',
        '{"\\/":1,"/":2}',
        '{"😀":1,"\\ud83d\\ude00":2}',
        '{"a":0,"a":{"b":[{"c":":"}]}}',
        '{"{":1,"{":2}',
    ],
)
def test_a_member_that_stands_twice_is_refused_at_any_depth_and_however_it_is_written(text: str) -> None:
    assert refusal(text.encode()) == TWICE
    assert refusal(f'{{"k:":"{{",  "v":[{text}]}}'.encode()) == TWICE


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"b:c","d":"e\\":\\"f"}',
        '{"a\\\\":"\\\\","b":"\\\\\\""}',
        '{"{":"}","[":"]",":":"::"}',
        '{"A":1,"a":2}',
        '[{"a":1},{"a":2}]',
        '{"a":{"a":{"a":1}}}',
        '{"é":1,"e\\u0301":2}',
        '{"u":"http://a:1/?b=c:d","v" : "{\\"x\\":1,\\"x\\":2}"}',
    ],
)
def test_colons_braces_and_quotation_marks_in_texts_are_no_members(text: str) -> None:
    assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"a:{[":', "}]"), ('{"\\"":[', "]}")], ids=str
)
def test_it_nests_sixty_four_levels_and_no_more(opened: str, closed: str) -> None:
    levels = 1 if len(closed) == 1 else 2
    text = opened * (MAX_DEPTH // levels) + "0" + closed * (MAX_DEPTH // levels)
    assert loads(text.encode()) == json.loads(text)
    # Beside much that is not deep, and in front of it.
    wide = "[" + '{"x":[[]]},' * 200 + "0]"
    deeper = f"[{text}]"
    assert refusal(deeper.encode()) == "JSON nests deeper than 64 levels"
    assert refusal(f"[{wide},{text},{wide}]".encode()) == "JSON nests deeper than 64 levels"


def test_brackets_in_texts_are_no_depth() -> None:
    document = {"a": "[" * 1000, "b" + "{" * 1000: ['"' + "[" * 1000, "\\" + "[" * 1000]}
    assert loads(json.dumps(document).encode()) == document


def test_many_levels_beside_one_another_are_no_depth() -> None:
    document: list[Any] = [[[]]] * 1000
    assert loads(json.dumps(document).encode()) == document


@pytest.mark.parametrize("encoded", [b"[" * 10**6, b'{"a":' * 10**5, b"[" * 65 + b"0", b"[{" * 10**5], ids=len)
def test_depth_without_an_end_is_refused_in_no_time(encoded: bytes) -> None:
    started = time.process_time()
    assert refusal(encoded) == "JSON nests deeper than 64 levels"
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b" ",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"a":NaN}',
        b"1e999",
        b"-1e999",
        b"+1",
        b"01",
        b"1.",
        b".5",
        b"0x10",
        b"1_000",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b"[1 2]",
        b"{}{}",
        b"nul",
        b'"a\nb"',
        b'"\x00"',
        b'"\\x41"',
        b'"\\u00g0"',
        b'"abc',
        b"// a\n1",
        b"\xef\xbb\xbf{}",
        b"]" * 200,
        b"[}" * 100,
        b'{"a"}',
        b"\x00",
    ],
    ids=repr,
)
def test_what_is_not_json_is_refused(encoded: bytes) -> None:
    assert refusal(encoded).startswith("not valid JSON: ")


@pytest.mark.parametrize(
    "encoded",
    [
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\\ud800\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xe2\x80"',
        b'"\xf5\x80\x80\x80"',
        b"\xff\xfe{\x00}\x00",
    ],
    ids=repr,
)
def test_what_has_no_form_in_utf_8_is_refused(encoded: bytes) -> None:
    assert refusal(encoded).startswith("not valid JSON: ")


def test_integers_of_sixty_four_bits_are_exact_and_larger_ones_are_floats() -> None:
    """RFC 8259, section 6: what is beyond a double's or a machine word's range need not stay exact."""
    for number in (2**53 + 1, 2**63, 2**64 - 1, -(2**63)):
        assert loads(str(number).encode()) == number
        assert type(loads(str(number).encode())) is int
    assert loads(str(2**64).encode()) == float(2**64)
    assert loads(b"-" + b"9" * 30) == float("-" + "9" * 30)
    assert loads(b"9" * 300) == float("9" * 300)
    assert refusal(b"9" * 400).startswith("not valid JSON: ")


def test_numbers_of_a_million_digits_take_no_time() -> None:
    """int() of the standard library takes time in proportion to the square of the digits."""
    started = time.process_time()
    refusal(b"[" + b"9" * 10**6 + b"]")
    assert loads(b"[0." + b"9" * 10**6 + b"]") == [1.0]
    assert time.process_time() - started < 2


@given(st.binary(max_size=40) | st.text('{}[]:,"\\ \n0aé', max_size=40).map(str.encode))
@example(b'"\\')
@example(b'{"a\\":1}')
def test_any_bytes_are_a_document_or_refused(encoded: bytes) -> None:
    try:
        document = loads(encoded)
    except ProtocolError as error:
        refused = error
    else:
        assert document == strict(encoded.decode())
        return
    assert refused.code == "json"
    assert "\n" not in str(refused)


@pytest.mark.parametrize("write", [json.dumps, spaced], ids=["as json.dumps", "spaced"])
def test_a_mebibyte_of_small_objects_is_checked_in_time(write: Callable[[Any], str]) -> None:
    encoded = write([{"a:": ":", "b": {}}] * 40_000).encode()
    started = time.process_time()
    assert len(loads(encoded)) == 40_000
    assert time.process_time() - started < 5
