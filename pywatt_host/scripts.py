"""Python files with a decorated function in them: `pywatt-host run my_module.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pywatt_host.decorated import Decorated
from pywatt_host.exceptions import ManifestError
from pywatt_host.loading import import_object
from pywatt_host.manifest import Problem
from pywatt_host.manifest.values.names import Script


def module_of(path: Path) -> tuple[Path, str]:
    """The folder to import a file from and its name there, with those of the packages that it lies in."""
    path = Path(os.path.abspath(path))
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def load_script(script: Script) -> Decorated:
    """Import the file, in this process, and find its decorated function. Raises ManifestError where there is none or
    its decorator is wrong, AppLoadError where the file cannot be imported."""
    if not script.path.is_file():
        raise _fault(script, "there is no such file")
    folder, module = module_of(script.path)
    import_object(f"{module}:__name__", working_dir=folder)
    names = vars(sys.modules[module])
    if script.name is not None:
        found = names.get(script.name)
        if not isinstance(found, Decorated):
            raise _fault(script, f"`{script.name}` is no function that is decorated with @pywatt_module")
        return found
    decorated = {id(value): value for value in names.values() if isinstance(value, Decorated)}
    own = [value for value in decorated.values() if value.function.__module__ == module] or list(decorated.values())
    if not own:
        message = "no function in it is decorated with @pywatt_module"
        raise _fault(script, message, f'to serve an app in it, write "{script.path.stem}:app"')
    if len(own) > 1:
        listed = ", ".join(value.function.__name__ for value in own)
        message = f"several functions in it are decorated: {listed}"
        raise _fault(script, message, f"name one: {script.path}:{own[0].function.__name__}")
    return own[0]


def _fault(script: Script, message: str, hint: str = "") -> ManifestError:
    return ManifestError([Problem(str(script), 0, 0, "", "script", message, hint)])
