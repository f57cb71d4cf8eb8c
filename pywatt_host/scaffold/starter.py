"""A new module: manifest, application and test, for a framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from unicodedata import normalize

from pywatt_host.scaffold.templates import render, schema_address, schema_files, yaml_text

FRAMEWORKS = ("fastapi", "flask", "starlette", "django")


def starter(framework: str, module_id: str, *, own_schema: bool = False) -> Mapping[str, str]:
    """The files of a module, by name. The module runs and its test passes without changes. With `own_schema`, a copy of
    the schema is among them."""
    schema = schema_address(own_schema=own_schema)
    return {
        "pywatt.yaml": render(framework, "pywatt.yaml", schema=schema, id=yaml_text(module_id)),
        **schema_files(own_schema=own_schema),
        "app.py": render(framework, "app.py"),
        "test_app.py": render(framework, "test_app.py", id=module_id),
    }


def installed(package: str) -> bool:
    """Whether a package can be imported. A folder of the same name in the working directory does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def module_id_of(folder: Path) -> str:
    """The folder's name, changed so that it is valid as `module.id`."""
    plain = normalize("NFKD", folder.name).encode("ascii", "ignore").decode()
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip("._-")[:63]
    return fitting.rstrip("._-") or "module"
