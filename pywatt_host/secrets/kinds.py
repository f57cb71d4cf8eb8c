"""The types of secrets: how the text of a secret becomes a `str`, `int`, `float`, `bool` or JSON value."""

from __future__ import annotations

import json
import math
from typing import Any

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import SecretKey

_BOOLS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}
_KINDS = {str: "str", int: "int", float: "float", bool: "bool", dict: "json", list: "json"}


def typed(name: str, text: str, kind: str) -> Any:
    """Return the value that `text` spells as the type `kind`. Raises SecretError, which does not contain the text."""
    try:
        match kind:
            case "int":
                return int(text.strip())
            case "float":
                number = float(text.strip())
                if not math.isfinite(number):
                    raise ValueError
                return number
            case "bool":
                return _BOOLS[text.strip().lower()]
            case "json":
                return json.loads(text)
    except (ValueError, KeyError, RecursionError):
        raise _wrong_type(name, kind) from None
    return text


def typed_as(name: str, text: str, wanted: type[Any]) -> Any:
    """Return the value that `text` spells as the Python class `wanted`. Raises SecretError."""
    if wanted not in _KINDS:
        raise SecretError(f"a secret can be str, int, float, bool, dict or list, not {wanted.__name__}")
    value = typed(name, text, _KINDS[wanted])
    if not isinstance(value, wanted):
        raise _wrong_type(name, wanted.__name__)
    return value


def _wrong_type(name: str, kind: str) -> SecretError:
    why = f"is not of type {kind}"
    return SecretError(f"Secret {name} {why}", [(name, why)])


def default_text(key: SecretKey) -> str | None:
    """Return the text that spells the default of `key`, or None if it has no default."""
    if key.default is None or (isinstance(key.default, str) and key.type != "json"):
        return key.default
    return json.dumps(key.default)
