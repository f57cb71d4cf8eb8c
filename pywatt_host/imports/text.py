"""Texts of a configuration that contain variables of the environment, such as `$PORT`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Written(str):
    """A text as it stands in a manifest, where `${NAME}` is interpolated. All other texts are escaped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment. Without a default, it has to be set."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A text with variables, which a manifest can contain as it is: the host then reads the same variables."""

    parts: tuple[str | Variable, ...]

    @classmethod
    def joined(cls, *pieces: Text) -> Text:
        """The pieces one after the other; a plain text if none has a variable."""
        parts: list[str | Variable] = []
        for piece in pieces:
            for part in piece.parts if isinstance(piece, Template) else (piece,):
                if part == "":
                    continue
                if parts and isinstance(part, str) and isinstance(parts[-1], str):
                    parts[-1] += part
                else:
                    parts.append(part)
        return cls(tuple(parts)) if any(isinstance(part, Variable) for part in parts) else "".join(map(str, parts))

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(part for part in self.parts if isinstance(part, Variable))

    def value(self, environ: Mapping[str, str]) -> str | None:
        """The text with the variables as they are in `environ`; None if one of them is not set."""
        found = [part if isinstance(part, str) else environ.get(part.name, part.default) for part in self.parts]
        return None if None in found else "".join(part for part in found if part is not None)

    def written(self) -> Written:
        """The text in the syntax of the manifest."""
        return Written("".join(_escaped(part) if isinstance(part, str) else _reference(part) for part in self.parts))

    @property
    def writable(self) -> bool:
        """Whether a manifest can contain the text."""
        return all(
            _NAME.match(each.name) and (each.default is None or not set("{}\n") & set(each.default))
            for each in self.variables
        )


Text: TypeAlias = str | Template


def _escaped(text: str) -> str:
    return text if isinstance(text, Written) else text.replace("${", "$${")


def _reference(variable: Variable) -> str:
    return f"${{{variable.name}}}" if variable.default is None else f"${{{variable.name}:-{variable.default}}}"


def written(value: Text, suffix: str = "") -> str:
    """The text for a manifest, with a suffix such as a unit."""
    return Written(value.written() + suffix) if isinstance(value, Template) else f"{value}{suffix}"


def escaped(value: object) -> object:
    """A value for YAML: every text in it that is not `Written` is escaped."""
    if isinstance(value, str):
        return str(_escaped(value))
    if isinstance(value, dict):
        return {str(_escaped(key)): escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(item) for item in value]
    return value
