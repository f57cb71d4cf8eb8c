"""What commands print that others have written: hosts, modules, and the process that answers on a control socket.

Such a text must not control the terminal, so that its control characters are escaped. The colours that we add ourselves
are not printed with these functions.
"""

from __future__ import annotations

import json
import re
from typing import Any

import click

from pywatt_host.observability.console_text import console_text

_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")  # JSON allows them within a text


def plain(text: object) -> str:
    """The text of a value on one line, with control characters escaped, apart from tabs."""
    return console_text(text, keep="\t")


def echo(text: str, *, err: bool = False) -> None:
    """Print one line, with control characters escaped; with `err`, on standard error."""
    click.echo(plain(text), err=err)


def echo_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, indented, with the control characters of each line escaped."""
    for line in text.splitlines():
        click.echo(f"    {plain(line)}".rstrip(), err=err)


def echo_json(document: Any, *, indent: int | None = 2, ascii: bool = True) -> None:
    """Print JSON; control characters are escaped. Without `ascii`, other characters are printed as they are."""
    text = json.dumps(document, indent=indent, ensure_ascii=ascii).encode("utf-8", "backslashreplace").decode()
    click.echo(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
