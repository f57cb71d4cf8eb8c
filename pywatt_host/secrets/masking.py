"""Masking: secrets are replaced by `***` in everything that is written, such as logs, health reports and traces."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
MIN_BYTES = 8  # shorter values are not masked, because they would mask half the log

_REMEMBERED_VALUES = 8  # of one secret: old values stay masked after they were replaced
_PERCENT = re.compile("%[0-9A-F]{2}")


def forms(value: str) -> set[str]:
    """Return all forms in which a value may appear in a text.

    These are: the value itself, quoted for URLs, escaped for JSON and by `repr`, and in base64, alone or with other
    bytes before and after it (like the password in HTTP basic authentication).
    """
    data = value.encode("utf-8", "surrogatepass")
    quoted = {quote(data, safe=""), quote(data), quote_plus(data)}
    found = {
        value,
        *quoted,
        *(_PERCENT.sub(lambda match: match[0].lower(), text) for text in quoted),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        value.encode("unicode_escape").decode(),
    }
    # Logs split a key of many lines into its lines. A short line is not a secret by itself.
    found |= {line for line in value.splitlines() if len(line.encode("utf-8", "surrogatepass")) >= 2 * MIN_BYTES}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        found |= {text, text.rstrip("="), quote(text, safe="")}
        found |= {_within(encode(b"\0" * shift + data).decode(), shift, len(data)) for shift in range(3)}
    return {form for form in found if len(form.encode("utf-8", "surrogatepass")) >= MIN_BYTES}


def _within(text: str, shift: int, length: int) -> str:
    """Return the base64 characters that depend on the value alone, where `shift` other bytes come before the value."""
    first = shift + 1 if shift else 0
    last = len(text.rstrip("=")) - (1 if (shift + length) % 3 else 0)
    return text[first:last]


class Masker:
    """Replaces secrets in texts by `***`: the newest value of each secret, and the values before it.

    The last 8 values of each secret are masked. Any thread may use it, because its patterns are replaced as a whole.
    """

    def __init__(self) -> None:
        self._values: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED_VALUES))
        self._text_pattern: re.Pattern[str] | None = None
        self._bytes_pattern: re.Pattern[bytes] | None = None

    def add(self, name: str, value: str) -> bool:
        """Mask `value` from now on, as the newest value of the secret `name`. Return False if it is too short."""
        if len(value.encode("utf-8", "surrogatepass")) < MIN_BYTES:
            return False
        values = self._values[name]
        if value in values:
            values.remove(value)
            values.append(value)
            return True
        values.append(value)
        found = {form for each in self._values.values() for one in each for form in forms(one)}
        encoded = {form.encode("utf-8", "surrogatepass").decode("latin-1") for form in found}
        self._text_pattern = re.compile(_pattern(found))
        self._bytes_pattern = re.compile(_pattern(encoded).encode("latin-1"))
        return True

    def mask(self, text: str) -> str:
        return text if self._text_pattern is None else self._text_pattern.sub(MASK, text)

    def mask_bytes(self, data: bytes) -> bytes:
        return data if self._bytes_pattern is None else self._bytes_pattern.sub(MASK.encode(), data)

    def mask_value(self, value: Any) -> Any:
        """Return a JSON document with every text in it masked, the names of members included."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, bytes):
            return self.mask_bytes(value)
        if isinstance(value, dict):
            return {self.mask(str(name)): self.mask_value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask_value(item) for item in value]
        return value


def _pattern(found: Iterable[str]) -> str:
    """Return one alternation of all forms, the longest first.

    A lookahead compares the first characters with sets of characters. It rejects nearly every position of a text
    without trying each alternative, which makes the pattern several times as fast.
    """
    ordered = sorted(found, key=lambda form: (-len(form), form))
    prefix = min(MIN_BYTES, len(ordered[-1]))  # characters
    sets = ("".join(re.escape(char) for char in sorted({form[at] for form in ordered})) for at in range(prefix))
    return f"(?={''.join(f'[{each}]' for each in sets)})(?:{'|'.join(re.escape(form) for form in ordered)})"
