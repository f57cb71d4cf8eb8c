"""Finds the application of a folder: where its configuration names it, else by looking at its Python files.

No file is imported or run for this. Looked at are, in this order: `[tool.fastapi] entrypoint` in pyproject.toml;
FLASK_APP, QUART_APP and LITESTAR_APP in the environment, .flaskenv and .env; manage.py and DJANGO_SETTINGS_MODULE; and
the top level of Python files.
"""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywatt_host.manifest.layers.environment import read_dotenv
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.scaffold.python_files import App, apps_in, module_of, parsed, python_files, string_setting

_FLASK_LIKE = ("FLASK_APP", "QUART_APP", "LITESTAR_APP")
_SETDEFAULT = re.compile(r"""setdefault\(\s*["']DJANGO_SETTINGS_MODULE["']\s*,\s*["']([\w.]+)["']""")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An application that may be meant. `folder` is where its module is imported from, `why` where it was found, and
    `args` the arguments of its factory."""

    import_path: str
    folder: Path
    why: str
    args: Mapping[str, Any] = field(default_factory=dict)


class CannotFindError(Exception):
    """The configuration names an application that is not there; the text says which."""


def candidates(folder: Path, environ: Mapping[str, str]) -> list[Candidate]:
    """The applications that may be meant: one that the configuration names, or those of the Python files that fit
    equally well. Raises CannotFindError."""
    named = [*_fastapi(folder), *_flask(folder, environ), *_django(folder, environ)]
    if named:
        return list({each.import_path: each for each in named}.values())
    found = [(path, app) for path in python_files(folder) for app in apps_in(path)]
    ready = [(path, app) for path, app in found if not app.factory] or found
    return [_candidate(path, app, folder) for path, app in ready]


def in_file(path: Path, name: str = "") -> list[Candidate]:
    """The applications of one Python file; with `name`, the one of that name."""
    if name:
        return [_candidate(path, App(name, 0), path.parent)]
    found = apps_in(path)
    return [_candidate(path, app, path.parent) for app in [app for app in found if not app.factory] or found]


def _candidate(path: Path, app: App, folder: Path) -> Candidate:
    root, module = module_of(path, folder)
    place = f"{os.path.relpath(path, folder)}:{app.line}" if app.line else os.path.relpath(path, folder)
    return Candidate(f"{module}:{app.name}", root, place)


def _fastapi(folder: Path) -> Iterator[Candidate]:
    try:
        document = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    value: Any = document
    for part in ("tool", "fastapi", "entrypoint"):
        value = value.get(part) if isinstance(value, dict) else None
    entrypoint = value
    if isinstance(entrypoint, str) and re.match(IMPORT_PATTERN, entrypoint):
        yield Candidate(entrypoint, _home(folder, entrypoint), "[tool.fastapi] in pyproject.toml")


def _variables(folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The environment, then the files that Flask reads, each with what messages call it."""
    yield "the environment", environ
    for name in (".env", ".flaskenv"):
        try:
            values = read_dotenv(folder / name)
        except (OSError, ValueError):
            continue
        yield name, {key.upper(): value for key, value in values.items()}


def _flask(folder: Path, environ: Mapping[str, str]) -> Iterator[Candidate]:
    for variable in _FLASK_LIKE:
        for place, values in _variables(folder, environ):
            if values.get(variable):
                yield _of_flask(folder, values[variable].strip(), f"{variable} in {place}")
                break


def _of_flask(folder: Path, value: str, why: str) -> Candidate:
    """What Flask makes of FLASK_APP: `hello`, `hello:app`, `hello:create_app("dev")`, `dir/hello.py`."""
    location, _, name = value.partition(":")
    path = folder / location
    if location.endswith(".py") or path.is_file():
        if not path.is_file():
            raise CannotFindError(f"{why} names {location}, which does not exist")
        root, module = module_of(path, folder)
    else:
        root, module = _home(folder, location), location
        path = _file_of(root, module)
    if not name:
        found = in_file(path) if path.is_file() else []
        if len(found) != 1:
            raise CannotFindError(f"{why} names {location}; name its application too: --from {module}:app")
        name = found[0].import_path.partition(":")[2]
    call = re.fullmatch(r"([\w.]+)\((.*)\)", name, re.DOTALL)
    args = _arguments(path, name, call[1], why) if call is not None and call[2].strip() else {}
    return Candidate(f"{module}:{call[1] if call else name}", root, why, args)


def _arguments(path: Path, text: str, function: str, why: str) -> dict[str, Any]:
    """The arguments of a call such as `create_app("dev", debug=True)`, by the names of the factory's parameters."""
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        tree = parsed(path)
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        names = [each.arg for node in functions if node.name == function for each in node.args.args]
        given = {names[number]: ast.literal_eval(value) for number, value in enumerate(call.args)}
        return given | {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
    except (SyntaxError, ValueError, IndexError, AssertionError):
        message = f"{why} calls {text}, and these arguments cannot be read: use --from and write app.args yourself"
        raise CannotFindError(message) from None


def _django(folder: Path, environ: Mapping[str, str]) -> Iterator[Candidate]:
    manage = folder / "manage.py"
    why, settings = "", ""
    for place, values in _variables(folder, environ):
        if not settings and values.get("DJANGO_SETTINGS_MODULE"):
            why, settings = f"DJANGO_SETTINGS_MODULE in {place}", values["DJANGO_SETTINGS_MODULE"]
    if not settings and manage.is_file():
        named = _SETDEFAULT.search(manage.read_text(encoding="utf-8", errors="replace"))
        why, settings = "manage.py", named[1] if named else ""
    if not settings or not (manage.is_file() or _file_of(_home(folder, settings), settings).is_file()):
        return
    home = _home(folder, settings)
    file = _file_of(home, settings)
    for key in ("ASGI_APPLICATION", "WSGI_APPLICATION"):
        value = string_setting(file, key)
        module, _, name = value.rpartition(".")
        if module and _file_of(home, module).is_file():
            yield Candidate(f"{module}:{name}", home, f"{key} of {settings} ({why})")
            return
    parts = settings.split(".")
    for length in range(len(parts) - 1, -1, -1):  # proj.settings.prod has its asgi.py in proj
        for name in ("asgi", "wsgi"):
            module = ".".join([*parts[:length], name])
            if _file_of(home, module).is_file():
                yield Candidate(f"{module}:application", home, f"{why} ({settings})")
                return


def _home(folder: Path, module: str) -> Path:
    """The folder from which a module is imported: `folder` or its `src`."""
    top = module.partition(":")[0].partition(".")[0]
    for place in (folder, folder / "src"):
        if (place / top).is_dir() or (place / f"{top}.py").is_file():
            return place
    return folder


def _file_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
