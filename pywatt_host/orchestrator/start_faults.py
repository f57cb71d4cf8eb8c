"""What a process that did not start has said about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.jsontext import loads

_LAST_LINES = 12  # of a process that writes plain text
_GRAVE = frozenset({"critical", "error"})


def last_words(lines: Iterable[bytes]) -> list[str]:
    """The lines that say why a process did not start: the errors of a host of this package with their tracebacks, or
    the last lines of any other program."""
    texts = [line.decode("utf-8", "backslashreplace").rstrip() for line in lines]
    records = [record for record in map(_record, texts) if record is not None and record.get("level") in _GRAVE]
    if not records:
        return [text for text in texts if text][-_LAST_LINES:]
    found: list[str] = []
    for record in records:
        found.append(str(record.get("message", "")))
        found += str(record.get("exception") or "").splitlines()
    return found


def _record(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        document = loads(text.encode("utf-8", "surrogatepass"))
    except ProtocolError:
        return None
    return document if isinstance(document, dict) else None
