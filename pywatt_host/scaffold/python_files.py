"""Applications at the top level of Python files, found by reading them: no file is imported."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEEPEST = 3  # levels of folders below the folder that is searched
_MOST_FILES = 500
_MOST_BYTES = 1 << 20
_SKIPPED = frozenset(["build", "dist", "docs", "env", "examples", "migrations", "node_modules", "site", "venv"])
_TESTS = frozenset(["conftest.py", "setup.py", "manage.py", "noxfile.py"])
_CLASSES = frozenset(
    [
        *("ASGIApp", "AioHttpApp", "App", "Application", "AsyncApp", "BlackSheep", "Bottle", "Dash"),
        *("DispatcherMiddleware", "FastAPI", "Flask", "FlaskApp", "GraphQL", "Litestar", "ProtocolTypeRouter"),
        *("Quart", "Sanic", "Starlette", "WSGIApp", "WhiteNoise"),
    ]
)
_FACTORIES = frozenset(["create_app", "make_app", "get_app", "build_app", "create_application"])
_MAKERS = frozenset(
    [
        *_FACTORIES,
        "get_asgi_application",
        "get_wsgi_application",
        "http_app",
        "make_wsgi_app",
        "sse_app",
        "streamable_http_app",
    ]
)
_USUAL = ("app", "application", "asgi", "wsgi", "asgi_app", "wsgi_app")


@dataclass(frozen=True, slots=True)
class App:
    """A name at the top level that is an application or, with `factory`, a function that makes one."""

    name: str
    line: int
    factory: bool = False


def python_files(folder: Path) -> list[Path]:
    """The Python files of a folder and of the folders below it, without tests, environments and hidden folders."""
    return list(_walked(folder, _DEEPEST))[:_MOST_FILES]


def _walked(folder: Path, deep: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = entry.name
        if entry.is_file() and name.endswith(".py") and name not in _TESTS and not name.startswith(("test_", ".")):
            yield Path(entry.path)
    for entry in entries:
        skipped = entry.name.startswith((".", "test", "_")) or entry.name in _SKIPPED
        skipped = skipped or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
        if deep and entry.is_dir(follow_symlinks=False) and not skipped:
            yield from _walked(Path(entry.path), deep - 1)


def parsed(path: Path) -> ast.Module:
    """The syntax tree; an empty one for a file that cannot be read as Python."""
    try:
        with path.open("rb") as file:
            return ast.parse(file.read(_MOST_BYTES))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def apps_in(path: Path) -> list[App]:
    """The applications of a file: the one with a usual name, such as `app`, else all that are made at its top level,
    else its factories."""
    tree = parsed(path)
    makers, made = set(_CLASSES | _MAKERS), dict[str, App]()
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef) and any(_called(base) in _CLASSES for base in node.bases):
            makers.add(node.name)
        for name, value in _assigned(node):
            if _makes_app(value, name, makers, made):
                made[name] = App(name, node.lineno)
    usual = [made[name] for name in _USUAL if name in made]
    factories = [
        App(node.name, node.lineno, factory=True)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in _FACTORIES
    ]
    return usual[:1] or list(made.values()) or factories


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement assigns to, each with the expression."""
    targets: list[ast.expr] = []
    value = None
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign):
        targets, value = [node.target], node.value
    for target in targets:
        if isinstance(target, ast.Name) and value is not None:
            yield target.id, value


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of the top level, also under `if`, `try` and `with`; not what runs as a script only."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from _statements(node.body)


def _called(value: ast.expr) -> str:
    """The last part of a dotted name; empty for any other expression."""
    return value.attr if isinstance(value, ast.Attribute) else str(getattr(value, "id", ""))


def _makes_app(value: ast.expr, name: str, makers: set[str], made: dict[str, App]) -> bool:
    """Whether an expression is a call that makes an application, or wraps one that was made above."""
    if not isinstance(value, ast.Call):
        return False
    if _called(value.func) in makers:
        return True
    given = [*value.args, *(keyword.value for keyword in value.keywords)]
    return name in _USUAL and any(isinstance(each, ast.Name) and each.id in made for each in given)


def string_setting(path: Path, name: str) -> str:
    """The text that a settings file assigns to a name; empty where it assigns none."""
    found = ""
    for node in _statements(parsed(path).body):
        value = node.value if isinstance(node, ast.Assign) else None
        named = isinstance(node, ast.Assign) and any(getattr(each, "id", "") == name for each in node.targets)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found = value.value
    return found


def module_of(path: Path, folder: Path) -> tuple[Path, str]:
    """The folder to import a file from, and the dotted name of its module there.

    A package begins where a folder has no `__init__.py`, as for Python. Without packages, a file below `folder` is
    imported from its own folder.
    """
    parts = [] if path.name == "__init__.py" else [path.stem]
    root = path.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        parts.insert(0, root.name)
        root = root.parent
    if not parts:
        parts, root = [path.parent.name], path.parent.parent
    return root, ".".join(parts)
