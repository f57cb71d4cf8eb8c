"""API keys in a header: which keys are accepted, and what is said about keys that are not valid."""

from __future__ import annotations

from typing import Any

import pytest

from pywatt_host.auth.api_key import ApiKeyScheme
from pywatt_host.auth.identity import DeniedError
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from tests.auth.renewal import Clock, renew

LONG = "k" * 32


def keys(text: str, clock: Clock | None = None, **options: Any) -> ApiKeyScheme:
    scheme = ApiKeyScheme("key", AuthScheme(type="api_key", keys=text, **options), clock=clock or Clock())
    scheme.prepare({}).commit()
    return scheme


def subject(scheme: ApiKeyScheme, key: str) -> str:
    found = scheme.recall(key.encode())
    return found.subject if found is not None else ""


def test_keys_have_names_or_get_them_by_their_place() -> None:
    scheme = keys(f"# ours\nrobot:{LONG}1\n\n{LONG}2, other:{LONG}3\n")
    assert [subject(scheme, LONG + each) for each in "1234"] == ["robot", "key-2", "other", ""]
    assert subject(scheme, f"robot:{LONG}1") == ""
    found = scheme.recall((LONG + "1").encode())
    assert found is not None
    assert found.claims == {"sub": "robot", "pywatt.auth": {"scheme": "key", "type": "api_key"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" ", "contains no key"),
        ("# nothing", "contains no key"),
        (f"a b:{LONG}", "line 1"),
        ("name:", "line 1"),
        (f"\nname:{LONG} x", "line 2"),
        (f"a:{LONG}\nb:{LONG}", "with another name"),
        (f"a:{LONG}\nb:gehe\u00efm", "line 2"),
    ],
)
def test_keys_that_are_none_are_named_by_their_line_and_never_shown(text: str, said: str) -> None:
    with pytest.raises(AuthError, match=said) as caught:
        keys(text)
    assert "auth.key.keys" in str(caught.value)
    assert LONG not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_short_key_is_warned_of_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    assert subject(keys("tiny-key"), "tiny-key") == "key-1"
    assert "line 1" in caplog.text
    assert "tiny-key" not in caplog.text


def test_a_replaced_key_holds_for_a_while() -> None:
    clock = Clock()
    scheme = keys(f"a:{LONG}1", clock, previous="1m")
    renew(scheme, keys=f"a:{LONG}2")
    assert (subject(scheme, LONG + "1"), subject(scheme, LONG + "2")) == ("a", "a")
    clock.now += 61
    assert (subject(scheme, LONG + "1"), subject(scheme, LONG + "2")) == ("", "a")


def test_a_key_that_comes_back_holds_for_good() -> None:
    clock = Clock()
    scheme = keys(f"a:{LONG}1", clock)
    renew(scheme, keys=f"a:{LONG}2")
    renew(scheme, keys=f"b:{LONG}1")
    clock.now += 10_000
    assert subject(scheme, LONG + "1") == "b"
    assert subject(scheme, LONG + "2") == ""


def test_two_headers_are_no_key() -> None:
    scheme = keys(LONG)
    header = (b"x-api-key", LONG.encode())
    assert scheme.presented({"headers": [header]}) == LONG.encode()
    assert scheme.presented({"headers": [(b"authorization", b"x")]}) is None
    with pytest.raises(DeniedError, match="malformed"):
        scheme.presented({"headers": [header, header]})


def test_nothing_of_a_key_is_in_what_is_kept() -> None:
    assert LONG not in repr(vars(keys(f"robot:{LONG}")) | {"_options": None})
