"""A new module: manifest, schema, application and test, by framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from unicodedata import normalize

from pywatt_host.scaffold.templates import render, schema_text, yaml_text

FRAMEWORKS = ("fastapi", "flask", "starlette", "django")


def starter(framework: str, module_id: str) -> Mapping[str, str]:
    """File name to text of a module that runs, and whose test passes, as it is."""
    return {
        "pywatt.yaml": render(framework, "pywatt.yaml", id=yaml_text(module_id)),
        "pywatt.schema.json": schema_text(),
        "app.py": render(framework, "app.py"),
        "test_app.py": render(framework, "test_app.py", id=module_id),
    }


def installed(package: str) -> bool:
    """Whether it can be imported here; a folder that happens to have its name does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def module_id_of(folder: Path) -> str:
    """The folder's name, made to fit `module.id`."""
    plain = normalize("NFKD", folder.name).encode("ascii", "ignore").decode()
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip("._-")[:63]
    return fitting.rstrip("._-") or "module"
