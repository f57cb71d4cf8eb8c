"""Lines of keys and passwords as secrets hold them, and digests that they are compared by."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.values import SecretTemplate

_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,100}\Z").match
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}\Z")
_OTHER_MARKS = ("$apr1$", "$1$", "$5$", "$6$", "$y$", "$argon2", "{SHA}", "{SSHA}", "{PLAIN}")
MOST_ROUNDS = 14  # bcrypt's cost; each one more doubles the time, and 14 takes about a second


class Entry(NamedTuple):
    """One name with its key or password, and the line that it stands on."""

    name: str
    value: str
    line: int


class Digests:
    """Digests under a key of this process: equal where the octets are, and worth nothing elsewhere."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def __call__(self, octets: bytes) -> bytes:
        return hashlib.blake2b(octets, key=self._key, digest_size=32).digest()


def same(one: bytes, other: bytes) -> bool:
    """In constant time."""
    return hmac.compare_digest(one, other)


def rendered(value: str | SecretTemplate | None, secret_values: Mapping[str, str], key: str) -> str:
    """The text of a value. Raises AuthError where a secret in it is not there."""
    assert value is not None
    try:
        return value.render(secret_values) if isinstance(value, SecretTemplate) else value
    except KeyError as error:
        raise AuthError(key, f"the secret {error.args[0]} is not there") from None


def lines(text: str, *, commas: bool) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers; `commas` end one as well."""
    for number, line in enumerate(text.splitlines(), 1):
        for part in line.split(",") if commas else (line,):
            said = part.strip()
            if said and not said.startswith("#"):
                yield number, said


def keys(text: str, key: str) -> list[Entry]:
    """`KEY` and `NAME:KEY`. Raises AuthError, which names the line and nothing of it."""
    found: dict[str, Entry] = {}
    for number, said in lines(text, commas=True):
        name, colon, value = said.partition(":")
        if not colon:
            name, value = f"key-{len(found) + 1}", said
        elif not _NAME(name):
            message = f"line {number}: what stands before the colon is no name"
            raise AuthError(key, message, "letters, digits and _ . @ + -, at most 100; a key alone has no colon")
        if not value or any(not "!" <= char <= "~" for char in value):
            raise AuthError(key, f"line {number}: a key is of visible ASCII, without spaces, and not empty")
        if value in found and found[value].name != name:
            raise AuthError(key, f"line {number}: the key stands in line {found[value].line} under another name")
        found[value] = Entry(name, value, number)
    if not found:
        raise AuthError(key, "there is no key in it", "one a line, KEY or NAME:KEY")
    return list(found.values())


def users(text: str, key: str) -> list[Entry]:
    """`USER:PASSWORD`, the password plain or a bcrypt hash. Raises AuthError, which names line and user at the most."""
    found: dict[str, Entry] = {}
    for number, said in lines(text, commas=False):
        name, colon, value = said.partition(":")
        if not colon or not name or not value:
            raise AuthError(key, f"line {number} is not USER:PASSWORD")
        if any(char < " " or char == "\x7f" for char in said):  # RFC 7617 section 2
            raise AuthError(key, f"line {number} has a control character")
        if name in found:
            raise AuthError(key, f"line {number}: the user {name} stands in line {found[name].line} already")
        _check_hash(value, name, number, key)
        found[name] = Entry(name, value, number)
    if not found:
        raise AuthError(key, "there is no user in it", "one a line, USER:PASSWORD")
    return list(found.values())


def rounds(value: str) -> int:
    """The cost of a bcrypt hash; 0 where it is none."""
    match = _BCRYPT.match(value)
    return int(match[1]) if match is not None else 0


def _check_hash(value: str, name: str, number: int, key: str) -> None:
    where = f"line {number}, user {name}"
    cost = rounds(value)
    if cost > MOST_ROUNDS or (cost and cost < 4):
        raise AuthError(key, f"{where}: a bcrypt cost of {cost}", f"4 to {MOST_ROUNDS} are taken; htpasswd -B -C 10")
    if not cost and (value.startswith(_OTHER_MARKS) or value.startswith(("$2a$", "$2b$", "$2y$"))):
        raise AuthError(key, f"{where}: a hash that is not known here", "htpasswd -B writes bcrypt, which is")
