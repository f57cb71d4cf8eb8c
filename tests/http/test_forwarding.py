"""Whose forwarding headers count, and which client they name, by tables and with arbitrary headers."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.http.forwarding import Forwarding

PROXY = "10.0.0.1"


def client(*lines: str, peer: str | None = PROXY, trusted: tuple[str, ...] = ("10.0.0.0/8",)) -> Any:
    """The client of a request whose X-Forwarded-For has these lines."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    scope = {"type": "http", "scheme": "http", "client": None if peer is None else (peer, 4711), "headers": headers}
    Forwarding(trusted).apply(scope)
    return None if scope["client"] is None else scope["client"][0]


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (["198.51.100.7,"], "198.51.100.7"),
        (["198.51.100.7, ,\t, "], "198.51.100.7"),
        ([",198.51.100.7"], "198.51.100.7"),
        ([", ,"], PROXY),
        (["198.51.100.7", ""], "198.51.100.7"),
        (["192.0.2.1, 198.51.100.7,", ",10.0.0.2, "], "198.51.100.7"),
        (["198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        (["10.0.0.2", "198.51.100.7"], "198.51.100.7"),
        (["10.0.0.3,", "10.0.0.2,"], "10.0.0.3"),
    ],
)
def test_empty_elements_do_not_count_and_several_lines_are_one_list(lines: list[str], seen: str) -> None:
    assert client(*lines) == seen


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        ("198.51.100.7:4711", "198.51.100.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ('"198.51.100.7:4711"', "198.51.100.7"),
        ('"2001:db8::1"', "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("[::ffff:c633:6407]:80", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("[fe80::1%eth0]:443", "fe80::1%eth0"),
    ],
)
def test_an_entry_may_be_in_quotes_and_brackets_and_have_a_port_or_a_zone(entry: str, seen: str) -> None:
    assert client(entry) == seen


@pytest.mark.parametrize(
    "entry",
    [
        "unknown", "_hidden", "-", "localhost", "198.51.100", "198.51.100.7:", "198.51.100.7:x", "198.51.100.7:123456",
        "[2001:db8::1", "2001:db8::1]", "[198.51.100.7", "[]", "[]:80", '"', '""', '"198.51.100.7', '198.51.100.7"',
        "for=198.51.100.7", "198.51.100.7 x", "fe80::1%", 'fe80::1%a"b', "fe80::1%a b", "fe80::1%\x1b[31m",
        "fe80::1%\x85", "fe80::1%" + "a" * 33,
    ],
)  # fmt: skip
def test_what_is_no_address_names_no_client_and_hides_what_is_left_of_it(entry: str) -> None:
    assert client(entry) == PROXY
    assert client(f"198.51.100.7, {entry}") == PROXY
    assert client(f"198.51.100.7, {entry}, 10.0.0.2") == "10.0.0.2"


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:a00:1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:0:0/96", "192.0.2.1", True),
        ("::ffff:10.0.0.1", "10.0.0.2", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("fe80::1%eth0", "fe80::1", False),
        ("2001:db8::/32", "fe80::1%eth0", False),
        ("fe80::/10", "fe80::1%" + "x" * 40, False),
        ("10.0.0.0/8", "testclient", False),
    ],
)
def test_a_peer_is_trusted_in_whatever_way_its_address_is_written(trusted: str, peer: str, believed: bool) -> None:
    assert client("198.51.100.7", peer=peer, trusted=(trusted,)) == ("198.51.100.7" if believed else peer)


def test_a_proxy_in_the_list_may_be_written_as_ipv6() -> None:
    assert client("198.51.100.7, ::ffff:10.0.0.2, [::ffff:10.0.0.3]:80") == "198.51.100.7"
    assert client("198.51.100.7, fe80::2%eth0", trusted=("10.0.0.0/8", "fe80::/10")) == "198.51.100.7"


def test_the_scheme_is_the_last_that_is_not_empty() -> None:
    for lines, scheme in [(["http, https,"], "https"), (["https", " , "], "https"), (["https", "http"], "http")]:
        headers = [(b"x-forwarded-proto", line.encode()) for line in lines]
        scope = {"type": "http", "scheme": "http", "client": (PROXY, 1), "headers": headers}
        Forwarding([PROXY]).apply(scope)
        assert scope["scheme"] == scheme


def test_an_entry_of_the_environment_that_is_no_address_is_named_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pywatt.edge"):
        assert client("198.51.100.7", trusted=("localhost", PROXY)) == "198.51.100.7"
    assert "'localhost' in FORWARDED_ALLOW_IPS" in caplog.text


ADDRESSES = st.ip_addresses().map(str)
ENTRIES = st.one_of(
    ADDRESSES,
    ADDRESSES.map(lambda text: f'"[{text}]:80"'),
    st.sampled_from(["", " ", "unknown", "::ffff:10.0.0.9", "10.0.0.8:80", "fe80::1%eth0"]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=30),
)


@given(lines=st.lists(st.lists(ENTRIES, max_size=5).map(", ".join), max_size=3))
def test_whatever_the_headers_say_the_client_is_an_address_that_can_be_shown(lines: list[str]) -> None:
    seen = client(*lines)
    assert isinstance(ipaddress.ip_address(seen), ipaddress.IPv4Address | ipaddress.IPv6Address)
    assert seen.isprintable()
    assert not set(seen) & set("\"' ,\\")


@given(entries=st.lists(st.ip_addresses(v=4), min_size=1, max_size=6), empty=st.lists(st.integers(0, 6), max_size=4))
def test_the_client_is_the_rightmost_address_that_is_no_proxy_with_or_without_empty_elements(
    entries: list[ipaddress.IPv4Address], empty: list[int]
) -> None:
    network = ipaddress.ip_network("10.0.0.0/8")
    expected = next((each for each in reversed(entries) if each not in network), entries[0])
    texts = [str(each) for each in entries]
    for place in empty:
        texts.insert(place, "")
    assert client(",".join(texts)) == str(expected)
