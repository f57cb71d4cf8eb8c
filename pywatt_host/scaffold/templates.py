"""The templates, and texts as YAML scalars."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from string import Template

from pywatt_host.manifest.schema.json_schema import address, text

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._~-]*(?: [A-Za-z0-9/._~-]+)*\Z")
_NOT_TEXT = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])


def render(framework: str, name: str, **values: str) -> str:
    """Fill in a template: the framework's own template if it has one of that name, else the common one."""
    folder = files("pywatt_host.scaffold")
    own = folder / framework / f"{name}.txt"
    template = own if own.is_file() else folder / "common" / f"{name}.txt"
    return Template(template.read_text(encoding="utf-8")).substitute(values)


SCHEMA_NAME = "pywatt.schema.json"


def schema_address(*, own_schema: bool) -> str:
    """What the first line of a manifest refers the editor to: the copy beside the manifest, or the published schema of
    this version."""
    return SCHEMA_NAME if own_schema else address()


def schema_files(*, own_schema: bool) -> dict[str, str]:
    """The copy of the schema, if there is to be one."""
    return {SCHEMA_NAME: text()} if own_schema else {}


def yaml_text(value: str) -> str:
    """A text as a scalar in a YAML flow mapping: quoted if necessary, and escaped so that `${` is not interpolated."""
    if _PLAIN.match(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value.replace("${", "$${"), ensure_ascii=False)
