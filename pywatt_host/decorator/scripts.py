"""Python files with a decorated function: `pywatt-host run my_module.py`."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

from pywatt_host.app.decorated import Decorated
from pywatt_host.app.loading import import_object
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Problem
from pywatt_host.manifest.values.names import Script


def module_of(path: Path) -> tuple[Path, str]:
    """The folder to import a file from, and the dotted name of its module there."""
    path = Path(os.path.abspath(path))
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def load_script(script: Script) -> Decorated:
    """Import the file in this process and find its decorated function.

    Raises ManifestError where there is none or its decorator has a fault, AppLoadError where the file cannot be
    imported.
    """
    if not script.path.is_file():
        raise _fault(script, "there is no such file")
    folder, module = _running(script.path) or module_of(script.path)
    if module in ("", "__main__") or "." in script.path.stem:
        message = f"a file named {script.path.name} cannot be imported"
        raise _fault(script, message, "rename it, or pass a function of another file to run_module")
    if script.path.is_symlink():  # as Python does: modules beside the file itself can be imported
        beside = os.fspath(module_of(Path(os.path.realpath(script.path)))[0])
        sys.path[:] = [beside, *(entry for entry in sys.path if entry != beside)]
    try:
        import_object(f"{module}:__name__", working_dir=folder)
    except AppLoadError as error:
        raise AppLoadError(str(script), error.reason, error.message, error.hint) from error.__cause__
    names = vars(sys.modules[module])
    if script.name is not None:
        found = names.get(script.name)
        if not isinstance(found, Decorated):
            raise _fault(script, f"`{script.name}` is not a function decorated with @pywatt_module")
        return found
    decorated = {id(value): value for value in names.values() if isinstance(value, Decorated)}
    own = [value for value in decorated.values() if value.function.__module__ == module] or list(decorated.values())
    if not own:
        message, hint = "no function in the file is decorated with @pywatt_module", ""
        wrapped = [name for name, value in names.items() if _is_wrapped(value)]
        if wrapped:
            message = f"the decorated function is wrapped by another decorator: {wrapped[0]}"
            hint = "put @pywatt_module above the others"
        elif _is_main(script.path):
            hint = 'decorate at the top level of the file, not in a function or under if __name__ == "__main__"'
        raise _fault(script, message, hint or f'to serve an app in the file, write "{script.path.stem}:app"')
    if len(own) > 1:
        listed = ", ".join(value.function.__name__ for value in own)
        message = f"several functions in the file are decorated: {listed}"
        raise _fault(script, message, f"name one: {script.path}:{own[0].function.__name__}")
    return own[0]


def _is_main(path: Path) -> bool:
    """Whether Python runs this file as the main script."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and os.path.realpath(file) == os.path.realpath(path)


def _running(path: Path) -> tuple[Path, str] | None:
    """As `module_of`, for the file that `python -m` runs, whose packages need no `__init__.py`."""
    name = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", "")
    if not _is_main(path) or name.rpartition(".")[2] != path.stem:
        return None
    return Path(os.path.abspath(path)).parents[name.count(".")], name


def _is_wrapped(value: object) -> bool:
    return inspect.isroutine(value) and isinstance(getattr(value, "__wrapped__", None), Decorated)


def _fault(script: Script, message: str, hint: str = "") -> ManifestError:
    return ManifestError([Problem(str(script), 0, 0, "", "script", message, hint)])
