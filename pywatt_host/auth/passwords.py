"""Parses the keys and passwords that secrets contain, one per line, and makes the digests by which they are
compared."""

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
MAX_BCRYPT_COST = 14  # each step doubles the time; 14 takes about a second


class Entry(NamedTuple):
    """One name with its key or password, and the number of its line, from 1."""

    name: str
    value: str
    line: int


class Digests:
    """Makes digests with a random key of this process. They are equal if the bytes are, and useless elsewhere."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def __call__(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()


def same(one: bytes, other: bytes) -> bool:
    """Whether both are equal, compared in constant time."""
    return hmac.compare_digest(one, other)


def rendered(value: str | SecretTemplate | None, secret_values: Mapping[str, str], key: str) -> str:
    """Return the text of a value. Raises AuthError if a secret in it has no value."""
    assert value is not None
    try:
        return value.render(secret_values) if isinstance(value, SecretTemplate) else value
    except KeyError as error:
        hint = "set it, or add a source under secrets.sources"
        raise AuthError(key, f"secret {error.args[0]} has no value", hint) from None


def lines(text: str, *, commas: bool) -> Iterator[tuple[int, str]]:
    """Yield the lines that are neither empty nor comments, with their numbers. With `commas`, a comma separates lines
    too."""
    for number, line in enumerate(text.splitlines(), 1):
        for part in line.split(",") if commas else (line,):
            content = part.strip()
            if content and not content.startswith("#"):
                yield number, content


def keys(text: str, key: str) -> list[Entry]:
    """Parse lines of `KEY` or `NAME:KEY`. Raises AuthError, which names the line and nothing in it."""
    found: dict[str, Entry] = {}
    for number, content in lines(text, commas=True):
        name, colon, value = content.partition(":")
        if not colon:
            name, value = f"key-{len(found) + 1}", content
        elif not _NAME(name):
            message = f"line {number}: the text before the colon is not a valid name"
            hint = "use letters, digits and _ . @ + -, at most 100; a key without a name has no colon"
            raise AuthError(key, message, hint)
        if not value or any(not "!" <= char <= "~" for char in value):
            message = f"line {number}: a key must be visible ASCII characters, without spaces, and not empty"
            raise AuthError(key, message)
        if value in found and found[value].name != name:
            message = f"line {number}: the same key is in line {found[value].line} with another name"
            raise AuthError(key, message)
        found[value] = Entry(name, value, number)
    if not found:
        raise AuthError(key, "it contains no key", "write one per line, KEY or NAME:KEY")
    return list(found.values())


def users(text: str, key: str) -> list[Entry]:
    """Parse lines of `USER:PASSWORD`, where the password is plain or a bcrypt hash. Raises AuthError, which names the
    line and the user, and nothing else in it."""
    found: dict[str, Entry] = {}
    for number, content in lines(text, commas=False):
        name, colon, value = content.partition(":")
        if not colon or not name or not value:
            raise AuthError(key, f"line {number} is not USER:PASSWORD")
        if any(char < " " or char == "\x7f" for char in content):  # RFC 7617 section 2
            raise AuthError(key, f"line {number} contains a control character")
        if name in found:
            raise AuthError(key, f"line {number}: the user {name} is already in line {found[name].line}")
        _check_hash(value, name, number, key)
        found[name] = Entry(name, value, number)
    if not found:
        raise AuthError(key, "it contains no user", "write one per line, USER:PASSWORD")
    return list(found.values())


def bcrypt_cost(value: str) -> int:
    """Return the cost of a bcrypt hash, or 0 if the value is not one."""
    match = _BCRYPT.match(value)
    return int(match[1]) if match is not None else 0


def _check_hash(value: str, name: str, number: int, key: str) -> None:
    where = f"line {number}, user {name}"
    cost = bcrypt_cost(value)
    if cost > MAX_BCRYPT_COST or (cost and cost < 4):
        hint = f"use 4 to {MAX_BCRYPT_COST}: htpasswd -B -C 10"
        raise AuthError(key, f"{where}: the hash has a bcrypt cost of {cost}", hint)
    if not cost and (value.startswith(_OTHER_MARKS) or value.startswith(("$2a$", "$2b$", "$2y$"))):
        raise AuthError(key, f"{where}: the kind of hash is not supported", "make a bcrypt hash with htpasswd -B")
