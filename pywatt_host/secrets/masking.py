"""Masking: secrets are replaced by `***` in everything that is written, such as logs, health reports and traces."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import TypeAlias

from pywatt_host.secrets.spellings import Spelling, spellings

MASK = "***"
MIN_BYTES = 8  # shorter values are not masked, because they would mask half the log

_REMEMBERED_VALUES = 8  # of one secret: old values stay masked after they were replaced

_Ordered: TypeAlias = tuple[tuple[str, Spelling], ...]


class Masker:
    """Replaces secrets in texts by `***`: the newest value of each secret, and the values before it.

    The last 8 values of each secret are masked. Any thread may use it, because its spellings are replaced as a whole.
    """

    def __init__(self) -> None:
        self._values: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED_VALUES))
        self._in_texts: dict[str, tuple[Spelling, ...]] = {}  # by value
        self._in_bytes: dict[str, tuple[Spelling, ...]] = {}
        self.version = 0  # changes with what is masked
        self._of_texts: _Ordered = ()  # all of them, the longest first, each with its run
        self._of_bytes: _Ordered = ()

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
        self._in_texts[value] = tuple(spellings(value, in_bytes=False))
        self._in_bytes[value] = tuple(spellings(value, in_bytes=True))
        known = {one for each in self._values.values() for one in each}
        for forgotten in self._in_texts.keys() - known:
            del self._in_texts[forgotten], self._in_bytes[forgotten]
        self._of_texts, self._of_bytes = _ordered(self._in_texts), _ordered(self._in_bytes)
        self.version += 1
        return True

    def mask(self, text: str) -> str:
        for run, spelling in self._of_texts:
            if run in text:
                text = spelling.mask(text, MASK)
        return text

    def mask_bytes(self, data: bytes) -> bytes:
        if not self._of_bytes:
            return data
        text = before = data.decode("latin-1")
        for run, spelling in self._of_bytes:
            if run in text:
                text = spelling.mask(text, MASK)
        return data if text is before else text.encode("latin-1")


def _ordered(found: Mapping[str, tuple[Spelling, ...]]) -> _Ordered:
    every = sorted((each for one in found.values() for each in one), key=lambda each: -each.length)
    return tuple((each.run, each) for each in every)
