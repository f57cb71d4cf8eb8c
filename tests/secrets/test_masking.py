"""No secret shows in a text that was masked, whatever form it has there, and nothing else is changed."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pywatt_host.observability.masked import masked_document
from pywatt_host.secrets import Masker

SECRET = 'p@ss/w+rd "ö" 1?'
SECRETS = [
    SECRET,
    "it's\n\ttwo 'lines' \"\r\n of text",
    "C:\\new\\\\table\\",
    '"\\\'"\\\'<&>"',
    "grüße 日本 \N{GRINNING FACE}\x00\x1b[0m\x7f\x85\u2028",
    "AKIA0123456789abcdef",
    "????????>>>>~~~~",
    "postgresql://app:p%40ss+word@db/users?a=1&b=2",
]


def masker(*values: str) -> Masker:
    made = Masker()
    for number, value in enumerate(values):
        made.add(f"N{number}", value)
    return made


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_json(value: str) -> str:
    return json.dumps(value)[1:-1]


def in_repr(value: str) -> str:
    """As `repr` writes it where there are quotes of both kinds, which it escapes."""
    return repr(value + "'\"")[1:-4]


FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "quoted": quote,
    "quoted, slashes too": lambda value: quote(value, safe=""),
    "quoted for a form": quote_plus,
    "quoted in small letters": lambda value: re.sub("%..", lambda match: match[0].lower(), quote(value, safe="")),
    "JSON": in_json,
    "JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "repr": lambda value: repr(value)[1:-1],
    "repr of a repr": lambda value: in_repr(in_repr(value)),
    "repr with both quotes": in_repr,
    "repr of bytes": lambda value: repr(value.encode())[2:-1],
    "unicode_escape": lambda value: value.encode("unicode_escape").decode(),
    "JSON in JSON": lambda value: in_json(in_json(value)),
    "JSON in JSON in JSON": lambda value: in_json(in_json(in_json(value))),
    "repr of JSON": lambda value: in_repr(in_json(value)),
    "JSON of a repr": lambda value: in_json(in_repr(value)),
    "JSON with escaped slashes": lambda value: in_json(value).replace("/", "\\/"),
    "quoted twice": lambda value: quote(quote(value, safe=""), safe=""),
    "quoted for a form, twice": lambda value: quote_plus(quote_plus(value)),
    "quoted three times": lambda value: quote(quote(quote(value))),
    "quoted in letters of both cases": lambda value: quote(value, safe="").replace("%C3", "%c3").replace("%2F", "%2f"),
    "quoted in part": lambda value: value.replace("@", "%40").replace("/", "%2f"),
    "quoted, in JSON": lambda value: in_json(quote(value)),
    "JSON in JSON, quoted twice": lambda value: quote(quote(in_json(in_json(value)))),
    "repr, quoted": lambda value: quote_plus(in_repr(value)),
    "JSON, quoted": lambda value: quote(in_json(value)),
    "HTML": html.escape,
    "base64 in JSON": lambda value: in_json(b64(value)).replace("/", "\\/"),
    "base64 quoted twice": lambda value: quote(quote(b64(value), safe=""), safe=""),
    "base64": b64,
    "base64 without padding": lambda value: b64(value).rstrip("="),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 within a URL": lambda value: quote(b64(value), safe=""),
}


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_masked(form: Callable[[str], str], secret: str) -> None:
    text = form(secret)
    assert masker(secret).mask(f"before {text} after") == "before *** after"
    assert masker(secret).mask_bytes(f"before {text} after".encode()) == b"before *** after"


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_masked_line_is_the_json_that_it_was(secret: str, depth: int) -> None:
    document = text = {"a": f"before {secret}", "b": [secret, f"{secret} after"], "c": 'and "this"'}
    for _ in range(depth):
        text = {"inner": json.dumps(text), "beside": 1}  # type: ignore[dict-item]
    line: Any = json.loads(masker(secret).mask_bytes(json.dumps(text).encode()))
    for _ in range(depth):
        line = json.loads(line["inner"])
    assert line == {"a": "before ***", "b": ["***", "*** after"], "c": document["c"]}


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 40_000,
        "%25" * 20_000,
        "&amp;" * 20_000,
        '"' * 40_000,
        "%" * 40_000,
        '\\"' * 20_000,
        "%5C%22" * 10_000,
        ("\\" * 16 + '"') * 19 + "?",
        "%" + "25" * 20_000,
    ],
    ids=range(9),
)
def test_a_text_made_to_be_slow_is_not(text: str) -> None:
    """All repetitions are bounded: without that, such a text would take minutes."""
    made = masker(*SECRETS, '\\"' * 20, '"' * 20, "\\" * 20, "%" * 20, "&" * 20)
    began = time.process_time()
    made.mask(text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("user", ["", "u", "us", "use"])
@pytest.mark.parametrize("after", ["", ":", "::", ":::"])
def test_base64_of_more_than_the_secret_does_not_give_it_away(user: str, after: str) -> None:
    """As in HTTP basic auth: the bytes around the secret stay, and some bits of its first and last byte."""
    told = masker("hunter2-hunter2").mask(f"Basic {b64(user + 'hunter2-hunter2' + after)}")
    assert "***" in told
    assert len(told) <= len("Basic ***") + 9


def test_values_of_less_than_8_bytes_are_not_masked() -> None:
    made = Masker()
    assert made.add("A", "1234567") is False
    assert made.mask("1234567") == "1234567"
    assert made.add("A", "ööö7") is False
    assert made.add("A", "öööö") is True
    assert made.mask("öööö") == "***"


def test_the_longest_is_masked_first() -> None:
    assert masker("abcdefgh", "abcdefghijkl").mask("abcdefghijkl") == "***"


def test_lines_of_a_key_are_masked_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nshort\n-----END KEY-----\n"
    assert masker(key).mask("line MIIEvQIBADANBgkqhkiG9w0BAQEFAASC") == "line ***"
    assert masker(key).mask("short") == "short"


def test_the_last_8_values_of_each_secret_stay_masked() -> None:
    made = Masker()
    for number in range(9):
        made.add("A", f"value-number-{number}")
    made.add("B", "another-value")
    assert made.mask("value-number-0") == "value-number-0"
    for number in range(1, 9):
        assert made.mask(f"value-number-{number}") == "***"
    assert made.mask("another-value") == "***"


def test_a_value_that_comes_back_is_the_newest() -> None:
    made = Masker()
    for number in (0, 1, 2, 0, *range(3, 10)):
        made.add("A", f"value-number-{number}")
    assert made.mask("value-number-0") == "***"


def test_documents_are_masked_field_by_field() -> None:
    made = masker("hunter2-hunter2")
    document = {"a hunter2-hunter2": ["hunter2-hunter2", 1, None, True, ("x hunter2-hunter2",)]}
    assert masked_document(document, made.mask) == {"a ***": ["***", 1, None, True, ["x ***"]]}


def test_without_secrets_nothing_is_touched() -> None:
    text = "as it is"
    assert Masker().mask(text) is text


secret_texts = st.text(st.characters(exclude_characters="*", exclude_categories=["Cs"]), min_size=8, max_size=40)
around = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(secret_texts, st.lists(around, min_size=1, max_size=5))
def test_no_secret_is_left_whatever_stands_around_it(secret: str, pieces: list[str]) -> None:
    made = masker(secret)
    for form in FORMS.values():
        text = form(secret).join(pieces)
        masked = made.mask(text)
        assert secret not in masked
        assert form(secret) not in masked
        assert secret.encode() not in made.mask_bytes(text.encode())


@given(
    st.lists(st.text("abcdefghijk\"'\\/ é\n%&", min_size=8, max_size=40), min_size=1, max_size=4),
    st.text("lmnopqrstuvwxyz0123456789\"'\\/ é\n%&", max_size=200),
)
def test_a_text_without_a_secret_is_not_changed(secrets: list[str], text: str) -> None:
    assume(all(set(secret) & set("abcdefghijk") for secret in secrets))  # which no encoder changes
    assert masker(*secrets).mask(text) == text
    assert masker(*secrets).mask_bytes(text.encode()) == text.encode()


@given(st.lists(secret_texts, min_size=1, max_size=4, unique=True), st.lists(st.integers(0, 9), max_size=12), around)
def test_any_mixture_of_secrets_and_text_is_masked(secrets: list[str], order: list[int], text: str) -> None:
    parts = [secrets[number] if number < len(secrets) else text for number in order]
    masked = masker(*secrets).mask(" ".join(parts))
    assert not any(secret in masked for secret in secrets)
