"""The lines of modules as people read them: `users | 12:00:00.123 info pywatt.host: ready`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pywatt_host.exceptions import ProtocolError
from pywatt_host.observability.escaping import console_text
from pywatt_host.protocol.jsontext import loads

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR codes; one for each module, in the order of the workspace
_SHOWN_FIRST = ("time", "level", "logger", "message", "module", "exception")


class ModuleLines:
    """Renders the lines of modules: the name, padded and in the colour of the module, then the text. A JSON log record
    becomes a line for people, and its traceback further lines. Control characters are escaped."""

    def __init__(self, replicas: Mapping[str, int], *, colour: bool) -> None:
        """`replicas` is how many processes each module has, in the order of the workspace."""
        self._replicas = replicas
        self._colour = colour
        self._codes = {id: _COLOURS[number % len(_COLOURS)] for number, id in enumerate(replicas)}
        self._width = max((len(self.label(id, number)) for id, number in replicas.items()), default=0)

    def label(self, module: str, replica: int) -> str:
        """The printed name of a replica: `users`, or `users.2` if the module has several replicas."""
        return module if self._replicas.get(module, 1) == 1 else f"{module}.{replica}"

    def render(self, module: str, replica: int, text: str) -> str:
        """One line of a module, without a line feed at the end."""
        name = console_text(self.label(module, replica)).ljust(self._width)
        if self._colour and module in self._codes:
            name = f"\x1b[{self._codes[module]}m{name}\x1b[0m"
        document = record_of(text)
        lines = [text] if document is None or "message" not in document else _for_people(document)
        return "\n".join(f"{name} | {console_text(line, keep=chr(9))}" for line in lines)


def record_of(text: str) -> dict[str, Any] | None:
    """The JSON object in a line; None where it has none."""
    if not text.startswith("{"):
        return None
    try:
        document = loads(text.encode("utf-8", "surrogatepass"))
    except ProtocolError:  # also if it nests too deeply to be written again
        return None
    return document if isinstance(document, dict) else None


def _for_people(document: Mapping[str, Any]) -> list[str]:
    """A log record as lines: the message with its fields, then the traceback."""
    fields = {name: value for name, value in document.items() if name not in _SHOWN_FIRST}
    when = str(document.get("time", ""))[11:23]
    head = " ".join(str(part) for part in (when, document.get("level", ""), document.get("logger", "")) if part)
    first = f"{head}: {document['message']}" + "".join(f" {name}={value}" for name, value in fields.items())
    return [first, *str(document.get("exception") or "").splitlines()]
