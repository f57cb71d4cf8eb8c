"""Plain scalars, and the functions that all value types use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError


class Interpolated(str):
    """Text from `${...}`, an environment override or `--set`. It is converted to the type that its key expects."""

    __slots__ = ()


# White space and control characters, for a character class of a pattern. `\s` is not the same in all engines.
SPACE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


def _to_bool(value: Any) -> Any:
    return _BOOLS.get(value, value) if isinstance(value, Interpolated) else value


def to_int(value: Any) -> Any:
    """Convert an interpolated text to an integer if it is one; return every other value unchanged."""
    return int(value) if isinstance(value, Interpolated) and _INT.match(value) and len(value) < 20 else value


def to_float(value: Any) -> Any:
    """Convert an integer, or an interpolated text that is a number, to a float; return every other value unchanged."""
    if isinstance(value, Interpolated) and _FLOAT.match(value):
        return float(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _to_version(value: Any) -> Any:
    number = to_int(value)
    return number if type(number) is int else str(number)  # True and 1.0 are equal to 1, but are not the integer 1


Version: TypeAlias = Annotated[Literal[1], BeforeValidator(_to_version)]
Bool: TypeAlias = Annotated[bool, BeforeValidator(_to_bool)]
Int: TypeAlias = Annotated[int, BeforeValidator(to_int)]
Float: TypeAlias = Annotated[float, BeforeValidator(to_float)]


@dataclass(frozen=True, slots=True)
class Format:
    """Marks a text that must have a certain form, and says in messages what form: `"x" is not {name} ({hint})`."""

    name: str  # with its article: "a duration"
    hint: str  # what to write: "write 500ms, 15s, 1m30s or 2h"


def fault(code: str, template: str, **fields: Any) -> PydanticCustomError:
    return PydanticCustomError(code, template, fields)


def text_of(value: Any, wanted: str, example: str) -> str:
    if isinstance(value, str):
        return value
    raise fault("type", "expected {wanted}, such as {example}", wanted=wanted, example=example)


def text_schema(pattern: str, *, off: bool = False) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern}
    return WithJsonSchema({"anyOf": [{"const": "off"}, text]} if off else text)


def as_list(value: Any) -> Any:
    """Make a list of a single value, for keys that take one value or a list."""
    return list(value) if isinstance(value, list | tuple) else [value]
