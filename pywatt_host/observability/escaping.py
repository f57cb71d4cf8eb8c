"""Texts of clients in log lines: whatever they hold, a line stays one line and steers no terminal.

Every log line is written with one of these: `json_text` and `json_line` for JSON, `console_text` for text that people
read. They are for the access log, for records, and for the output of modules.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from pywatt_host.observability.console_text import console_text

__all__ = ["console_text", "json_line", "json_text"]

# JSON allows these within a text, but readers take them for the end of a line, and terminals for commands: DEL, the
# control characters U+0080 to U+009F, and the line and paragraph separators.
_BREAKING = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")


def json_text(text: str) -> str:
    """The text as it stands between the quotes of a JSON text. A lone surrogate is shown as `\\\\ud800`."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return _unbroken(orjson.dumps(_encodable(text))[1:-1]).decode()


def json_line(document: dict[str, Any]) -> bytes:
    """One line of JSON. Values of types that JSON does not have are written as text; surrogates are escaped."""
    try:
        line = orjson.dumps(document, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates, integers beyond 64 bits, dicts with odd keys, cycles
        plain = {_encodable(str(name)): _encodable(str(value)) for name, value in document.items()}
        line = orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)
    return _unbroken(line)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _unbroken(data: bytes) -> bytes:
    if data.isascii() and b"\x7f" not in data:
        return data
    return _BREAKING.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), data)
