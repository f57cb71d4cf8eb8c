"""Taking secrets out of what is written: logs, health reports, protocol traces."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 8  # octets: shorter values would mask half the log

_REMEMBERED = 8  # values of one secret that stay masked after they were replaced
_PERCENT = re.compile("%[0-9A-F]{2}")


def forms(value: str) -> set[str]:
    """How a value may appear in a text: itself, quoted for URLs, escaped for JSON and by `repr`, and as base64, alone
    or with anything before and after it (as the password is in HTTP basic auth)."""
    octets = value.encode("utf-8", "surrogatepass")
    quoted = {quote(octets, safe=""), quote(octets), quote_plus(octets)}
    found = {
        value,
        *quoted,
        *(_PERCENT.sub(lambda match: match[0].lower(), text) for text in quoted),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        value.encode("unicode_escape").decode(),
    }
    # Logs break a key of many lines up; a short line is no secret by itself.
    found |= {line for line in value.splitlines() if len(line.encode("utf-8", "surrogatepass")) >= 2 * SHORTEST}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(octets).decode()
        found |= {text, text.rstrip("="), quote(text, safe="")}
        found |= {_within(encode(b"\0" * shift + octets).decode(), shift, len(octets)) for shift in range(3)}
    return {form for form in found if len(form.encode("utf-8", "surrogatepass")) >= SHORTEST}


def _within(text: str, shift: int, length: int) -> str:
    """The characters of base64 that are the value's alone, where `shift` octets of something else stand before it."""
    first = shift + 1 if shift else 0
    last = len(text.rstrip("=")) - (1 if (shift + length) % 3 else 0)
    return text[first:last]


class Masker:
    """Knows the values that must not show, the newest of each secret and some before. Safe from any thread, since its
    patterns are replaced as a whole."""

    def __init__(self) -> None:
        self._values: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._text: re.Pattern[str] | None = None
        self._octets: re.Pattern[bytes] | None = None

    def add(self, name: str, value: str) -> bool:
        """Mask a value from now on, as the newest of its secret. False where it is too short for that."""
        if len(value.encode("utf-8", "surrogatepass")) < SHORTEST:
            return False
        values = self._values[name]
        if value in values:
            values.remove(value)
            values.append(value)
            return True
        values.append(value)
        found = {form for each in self._values.values() for one in each for form in forms(one)}
        octets = {form.encode("utf-8", "surrogatepass").decode("latin-1") for form in found}
        self._text = re.compile(_pattern(found))
        self._octets = re.compile(_pattern(octets).encode("latin-1"))
        return True

    def mask(self, text: str) -> str:
        return text if self._text is None else self._text.sub(MASK, text)

    def mask_octets(self, data: bytes) -> bytes:
        return data if self._octets is None else self._octets.sub(MASK.encode(), data)

    def mask_value(self, value: Any) -> Any:
        """A JSON-able document with every text in it masked, names of members too."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, bytes):
            return self.mask_octets(value)
        if isinstance(value, dict):
            return {self.mask(str(name)): self.mask_value(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask_value(item) for item in value]
        return value


def _pattern(found: Iterable[str]) -> str:
    """One alternation, the longest first. Its first characters are looked at as sets before: that turns nearly every
    place of a text away without a look at each alternative, which makes it several times as fast."""
    ordered = sorted(found, key=lambda form: (-len(form), form))
    sets = (
        "".join(re.escape(char) for char in sorted({form[at] for form in ordered})) for at in range(_shortest(ordered))
    )
    return f"(?={''.join(f'[{each}]' for each in sets)})(?:{'|'.join(re.escape(form) for form in ordered)})"


def _shortest(ordered: list[str]) -> int:
    """The length of the shortest, within reason."""
    return min(SHORTEST, len(ordered[-1]))
