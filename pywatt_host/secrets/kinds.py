"""What a secret's text spells: `str`, `int`, `float`, `bool` or `json`."""

from __future__ import annotations

import json
import math
from typing import Any

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import SecretKey

_BOOLS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}
_KINDS = {str: "str", int: "int", float: "float", bool: "bool", dict: "json", list: "json"}


def typed(name: str, text: str, kind: str) -> Any:
    """Raises SecretError, without the text."""
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
        raise SecretError(f"the secret {name} is not of the type {kind}") from None
    return text


def typed_as(name: str, text: str, wanted: type[Any]) -> Any:
    """As a class of Python. Raises SecretError."""
    if wanted not in _KINDS:
        raise SecretError(f"a secret is str, int, float, bool, dict or list, and not {wanted.__name__}")
    value = typed(name, text, _KINDS[wanted])
    if not isinstance(value, wanted):
        raise SecretError(f"the secret {name} is not of the type {wanted.__name__}")
    return value


def default_text(key: SecretKey) -> str | None:
    """The text that would spell the default; None where there is none."""
    if key.default is None or (isinstance(key.default, str) and key.type != "json"):
        return key.default
    return json.dumps(key.default)
