"""Plain scalars, and what every kind of value is made with."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError


class Interpolated(str):
    """Text that came out of `${...}`, an environment override or `--set`: it takes the type that is wanted."""

    __slots__ = ()


_BOOLS = {"true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


def _to_bool(value: Any) -> Any:
    return _BOOLS.get(value, value) if isinstance(value, Interpolated) else value


def to_int(value: Any) -> Any:
    """An integer, where an interpolated text spells one."""
    return int(value) if isinstance(value, Interpolated) and _INT.match(value) and len(value) < 20 else value


def to_float(value: Any) -> Any:
    """A number, where an interpolated text or an integer spells one."""
    if isinstance(value, Interpolated) and _FLOAT.match(value):
        return float(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _to_version(value: Any) -> Any:
    number = to_int(value)
    return number if type(number) is int else str(number)  # true and 1.0 equal 1, and are none


Version: TypeAlias = Annotated[Literal[1], BeforeValidator(_to_version)]
Bool: TypeAlias = Annotated[bool, BeforeValidator(_to_bool)]
Int: TypeAlias = Annotated[int, BeforeValidator(to_int)]
Float: TypeAlias = Annotated[float, BeforeValidator(to_float)]


def fault(code: str, template: str, **fields: Any) -> PydanticCustomError:
    return PydanticCustomError(code, template, fields)


def text_of(value: Any, wanted: str, example: str) -> str:
    if isinstance(value, str):
        return value
    raise fault("type", "{wanted} is wanted, such as {example}", wanted=wanted, example=example)


def text_schema(pattern: str, *, off: bool = False) -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern}
    return WithJsonSchema({"anyOf": [{"const": "off"}, text]} if off else text)


def as_list(value: Any) -> Any:
    """One value where a list is wanted stands for the list of it."""
    return list(value) if isinstance(value, list | tuple) else [value]
