"""Reads the settings of a Python configuration file without running it.

The file is parsed, and the assignments at its top level are followed: constants, and what such files usually compute
out of the environment, the number of cores and paths. Nothing of the file is ever executed, imported or opened. What
cannot be computed is kept as `Unknown`, with its line and the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.python_expressions import Expressions
from pywatt_host.imports.python_kinds import NotComputableError, Unknown

_NO_PARAMETERS = ast.dump(ast.parse("lambda: 0", mode="eval").body.args)  # type: ignore[attr-defined]  # a lambda
_MAX_STATEMENTS = 20_000  # of a file with its loops and branches


@dataclass(frozen=True, slots=True)
class Assigned:
    """A name of the file, its value (an `Unknown` where it cannot be computed), and the line of the assignment."""

    name: str
    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class PythonFile:
    """The names that a file assigns, the lines of the `if` that variables of the environment decided, and the modules
    whose names the file takes over as a whole, with their lines."""

    assigned: Mapping[str, Assigned]
    decided: tuple[int, ...]
    taken_from: tuple[tuple[str, int], ...]


def read_python(text: str, file: str, folder: Path, environ: Mapping[str, str]) -> PythonFile:
    """The names that a configuration file assigns at its top level. `folder` is the folder that it would run in.
    Raises UnreadableError for a file that is not Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(Place(file, error.lineno or 0), f"this is not Python: {error.msg}") from None
    except (RecursionError, MemoryError, ValueError):
        raise UnreadableError(
            Place(file), "this is not Python that can be read: it is too deep, or has a NUL"
        ) from None
    reader = _Reader(file, folder, environ)
    try:
        reader.block(tree.body)
    except RecursionError:
        raise UnreadableError(Place(file), "the file is nested too deeply") from None
    return PythonFile(reader.found, tuple(dict.fromkeys(reader.decided)), tuple(reader.taken_from))


class _Reader:
    """Follows the statements of one file."""

    def __init__(self, file: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.found: dict[str, Assigned] = {}
        self.decided: list[int] = []
        self.taken_from: list[tuple[str, int]] = []
        self._values = Expressions(file, folder, environ)
        self._statements = 0

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statements += 1
            if self._statements > _MAX_STATEMENTS:
                self._values.fail(statement, "the file has too many statements")
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign):
            self._assign(node.target, ast.copy_location(ast.BinOp(_loaded(node.target), node.op, node.value), node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._values.imports(node)
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                self.taken_from.append((node.module or ".", node.lineno))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._set(node.name, Unknown(node.lineno, "it is Python code", True, _returned(node)), node.lineno)
        elif isinstance(node, ast.If):
            self._if(node)
        elif isinstance(node, ast.Try):
            self.block([*node.body, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.Expr):
            self._expression(node.value)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.found.pop(target.id, None)
        else:
            self._forget(node)

    def _if(self, node: ast.If) -> None:
        try:
            chosen = bool(self._values.concrete(node.test))
        except NotComputableError:
            self._forget(node)
            return
        if self._values.reads_environment(node.test):
            self.decided.append(node.lineno)
        self.block(node.body if chosen else node.orelse)

    def _forget(self, node: ast.stmt) -> None:
        """Mark every name that a statement assigns as one that cannot be computed."""
        for each in ast.walk(node):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                self._set(each.id, Unknown(each.lineno, "it depends on code that would have to run"), each.lineno)
            elif isinstance(each, ast.Call):
                self._changed(each)

    def _expression(self, node: ast.expr) -> None:
        """A call such as `raw_env.append(...)` changes a list; every other call is of no interest."""
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            owner, arguments = self._values.names.get(node.func.value.id), node.args
            method = node.func.attr
            if isinstance(owner, list) and len(arguments) == 1 and method in ("append", "extend"):
                added = ast.List([arguments[0]], ast.Load()) if method == "append" else arguments[0]
                whole = ast.BinOp(ast.Name(node.func.value.id, ast.Load()), ast.Add(), added)
                self._assign(ast.Name(node.func.value.id, ast.Store()), _located(whole, node))
            else:
                self._changed(node)

    def _changed(self, node: ast.Call) -> None:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and isinstance(self._values.names.get(owner.id), list | dict):
            self._set(owner.id, Unknown(node.lineno, "a call changes it"), node.lineno)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            if len(parts) == len(target.elts) and not any(isinstance(each, ast.Starred) for each in parts):
                for name, part in zip(target.elts, parts, strict=True):
                    self._assign(name, part)
            else:
                self._forget(ast.copy_location(ast.Assign([target], value), value))
        elif isinstance(target, ast.Name):
            self._set(target.id, self._values.value(value), value.lineno)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            self._item(target, target.value, value)

    def _item(self, target: ast.Subscript, owner: ast.Name, value: ast.expr) -> None:
        mapping = self._values.names.get(owner.id)
        if not isinstance(mapping, dict):
            return  # such as os.environ, which belongs to no setting
        try:
            key = self._values.concrete(target.slice)
            self._set(owner.id, {**mapping, key: self._values.value(value)}, value.lineno)
        except (NotComputableError, TypeError):
            self._set(owner.id, Unknown(value.lineno, "its keys cannot be computed"), value.lineno)

    def _set(self, name: str, value: Any, line: int) -> None:
        self._values.names[name] = value
        self.found[name] = Assigned(name, value, line)


def _returned(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.expr | None:
    """The expression that a function without parameters returns, if it does nothing else."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or ast.dump(node.args) != _NO_PARAMETERS:
        return None
    body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    only = body[0] if len(body) == 1 else None
    return only.value if isinstance(only, ast.Return) else None


def _loaded(target: ast.expr) -> ast.expr:
    """The target of an assignment as an expression."""
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    return target


def _located(node: ast.expr, at: ast.expr) -> ast.expr:
    for each in ast.walk(node):
        if not hasattr(each, "lineno") and isinstance(each, ast.expr):
            ast.copy_location(each, at)
    return ast.copy_location(node, at)
