"""The templates, and texts as YAML scalars."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from string import Template

from pywatt_host.manifest.schema.json_schema import manifest_schema

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._~-]*(?: [A-Za-z0-9/._~-]+)*\Z")
_NOT_TEXT = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])


def render(framework: str, name: str, **values: str) -> str:
    """Fill in a template: the framework's own template if it has one of that name, else the common one."""
    folder = files("pywatt_host.scaffold")
    own = folder / framework / f"{name}.txt"
    template = own if own.is_file() else folder / "common" / f"{name}.txt"
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def schema_text() -> str:
    """The JSON schema of manifests, as `pywatt-host schema` prints it."""
    return json.dumps(manifest_schema(), indent=2, ensure_ascii=False) + "\n"


def yaml_text(text: str) -> str:
    """A text as a scalar in a YAML flow mapping: quoted if necessary, and escaped so that `${` is not interpolated."""
    if _PLAIN.match(text) and text.lower() not in _NOT_TEXT:
        return text
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)
