"""The URL of a store: taken apart, and shown without its password."""

from __future__ import annotations

import pytest

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.url import StoreUrl


def test_all_of_its_parts_are_decoded() -> None:
    url = StoreUrl.parse("PostgreSQL://us%40er:p%40%2F%23%25%3A@[::1]:5433/my%20db?sslmode=require&x=", "databases.a")
    assert (url.scheme, url.user, url.password) == ("postgresql", "us@er", "p@/#%:")
    assert (url.host, url.port, url.path) == ("::1", 5433, "my db")
    assert dict(url.options) == {"sslmode": "require", "x": ""}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hidden@h:1/0", "redis://:***@h:1/0"),
        ("mysql://u:hidden@h/d?password=hidden&charset=utf8", "mysql://u:***@h/d?password=***&charset=utf8"),
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
        ("postgresql://a%3Ab@[::1]/d?host=/run/x", "postgresql://a%3Ab@[::1]/d?host=/run/x"),
        ("memory://", "memory://"),
    ],
)
def test_no_password_is_shown(text: str, shown: str) -> None:
    url = StoreUrl.parse(text, "databases.a")
    assert str(url) == shown
    assert "hidden" not in repr(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://u:hid#den@h/d", "%23"),
        ("postgresql://h:hidden/d", "its port is not valid"),
        ("postgresql://[hidden/d", "its address is not valid"),
        ("hidden.db", "no scheme"),
    ],
)
def test_a_text_that_is_none_is_refused_without_being_shown(text: str, said: str) -> None:
    with pytest.raises(StoreError) as caught:
        StoreUrl.parse(text, "databases.a")
    assert str(caught.value).startswith("databases.a: ")
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "hid#den" not in str(caught.value)
