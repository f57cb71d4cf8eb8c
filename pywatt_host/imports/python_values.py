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
from pywatt_host.imports.python_nodes import is_module, is_namespace, loaded, located, returned, stored

_UPDATING = frozenset({"update", "setdefault", "__setitem__"})
_RUNNING = frozenset({"exec", "execfile", "eval"})
_MAX_STATEMENTS = 20_000  # of a file with its loops and branches


@dataclass(frozen=True, slots=True)
class Assigned:
    """A name of the file, its value (an `Unknown` where it cannot be computed), and the line of the assignment."""

    name: str
    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Unread:
    """Code that may assign names, and whose effect is not known: what it is, its line, and why. `names` are the names
    that it assigns; empty if it may assign any."""

    key: str
    line: int
    message: str
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PythonFile:
    """The names that a file assigns, the lines of the `if` that variables of the environment decided, the modules
    whose names the file takes over as a whole, with their lines, and the code that may assign further names."""

    assigned: Mapping[str, Assigned]
    decided: tuple[int, ...]
    taken_from: tuple[tuple[str, int], ...]
    unread: tuple[Unread, ...]


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
    unread = tuple(dict.fromkeys(reader.unread))
    return PythonFile(reader.found, tuple(dict.fromkeys(reader.decided)), tuple(reader.taken_from), unread)


class _Reader:
    """Follows the statements of one file."""

    def __init__(self, file: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.found: dict[str, Assigned] = {}
        self.decided: list[int] = []
        self.taken_from: list[tuple[str, int]] = []
        self.unread: list[Unread] = []
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
            self._assign(node.target, ast.copy_location(ast.BinOp(loaded(node.target), node.op, node.value), node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._define(node)
        elif isinstance(node, ast.If):
            self._if(node)
        elif isinstance(node, ast.Try):
            self._try(node)
        elif isinstance(node, ast.Expr):
            self._expression(node.value)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.found.pop(target.id, None)
        else:
            self._forget(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An imported name is a setting as well, and its value is not known."""
        self._values.imports(node)
        module = getattr(node, "module", None) or "."
        for alias in node.names:
            name = alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0])
            if name == "*":
                self.taken_from.append((module, node.lineno))
                continue
            reason = f"the module {module[:60]} gives it" if isinstance(node, ast.ImportFrom) else "it is a module"
            self._values.names.pop(name, None)
            self.found[name] = Assigned(name, Unknown(node.lineno, reason), node.lineno)

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._set(node.name, Unknown(node.lineno, "it is Python code", True, returned(node)), node.lineno)
        for each in ast.walk(node):
            if isinstance(each, ast.Global):
                reason = f"{node.name[:60]} may assign it"
                for name in each.names:
                    self._set(name, Unknown(each.lineno, reason), each.lineno)

    def _try(self, node: ast.Try) -> None:
        """The handlers are taken not to run. What only they assign, or assign otherwise, is told."""
        before = dict(self.found)
        self.block([*node.body, *node.orelse])
        for handler in node.handlers:
            for name, line in stored(handler):
                there = self.found.get(name)
                if there is None or there is before.get(name):
                    self._set(name, Unknown(line, "an exception decides it"), line)
                elif isinstance(there.value, Unknown):
                    reason = f"{there.value.reason}, or line {line} if that fails"
                    self.found[name] = Assigned(name, Unknown(there.line, reason), there.line)
                else:
                    message = f"{name[:60]} has another value after an exception; line {there.line} was taken over"
                    self.unread.append(Unread("except", line, message, frozenset({name})))
            self._effects(handler)
        self.block(node.finalbody)

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
        for name, line in stored(node):
            self._set(name, Unknown(line, "it depends on code that would have to run"), line)
        self._effects(node)

    def _effects(self, node: ast.AST) -> None:
        """Look at what code that is not followed may do besides assignments to names."""
        for each in ast.walk(node):
            if isinstance(each, ast.Call):
                self._changed(each)
                self._runs(each)
            elif isinstance(each, ast.Subscript) and isinstance(each.ctx, ast.Store) and is_namespace(each.value):
                self._namespace(each)
            elif isinstance(each, ast.ImportFrom) and any(alias.name == "*" for alias in each.names):
                self.taken_from.append((each.module or ".", each.lineno))

    def _namespace(self, target: ast.Subscript) -> None:
        """An item of `globals()` with an unknown value."""
        if isinstance(target.slice, ast.Constant) and isinstance(target.slice.value, str):
            reason = "it depends on code that would have to run"
            self._set(target.slice.value, Unknown(target.lineno, reason), target.lineno)
        else:
            message = "the names that are assigned here are computed"
            self.unread.append(Unread(ast.unparse(target.value), target.lineno, message))

    def _runs(self, node: ast.Call) -> None:
        """Tell of a call that may assign any name."""
        called = node.func
        if isinstance(called, ast.Name) and called.id in _RUNNING:
            self.unread.append(Unread(called.id, node.lineno, "it runs code that may assign any setting"))
        elif isinstance(called, ast.Name) and called.id == "setattr" and node.args and is_module(node.args[0]):
            self.unread.append(Unread(called.id, node.lineno, "it assigns a setting of this file"))
        elif isinstance(called, ast.Attribute) and called.attr in _UPDATING and is_namespace(called.value):
            key = f"{ast.unparse(called.value)}.{called.attr}"
            self.unread.append(Unread(key, node.lineno, "it may assign any setting"))

    def _update(self, node: ast.Call) -> None:
        """`globals().update(...)`: what is written there is assigned."""
        pairs: list[tuple[ast.expr | None, ast.expr]] = [
            (ast.Constant(each.arg) if each.arg is not None else None, each.value) for each in node.keywords
        ]
        for given in node.args:
            pairs += zip(given.keys, given.values, strict=True) if isinstance(given, ast.Dict) else [(None, given)]
        for key, value in pairs:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                self._set(key.value, self._values.value(value), value.lineno)
            else:
                message = "the names that are assigned here are computed"
                self.unread.append(Unread(ast.unparse(node.func), node.lineno, message))

    def _expression(self, node: ast.expr) -> None:
        """A call such as `raw_env.append(...)` changes a list, and some assign names. Every other call is of no
        interest."""
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "update"
            and is_namespace(node.func.value)
        ):
            self._update(node)
            return
        for each in ast.walk(node):
            if isinstance(each, ast.Call):
                self._runs(each)
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
                self._assign(ast.Name(node.func.value.id, ast.Store()), located(whole, node))
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
        elif isinstance(target, ast.Subscript) and is_namespace(target.value):
            try:
                self._set(str(self._values.concrete(target.slice)), self._values.value(value), value.lineno)
            except NotComputableError:
                self._namespace(target)
        elif isinstance(target, ast.Attribute) and is_module(target.value):
            self._set(target.attr, self._values.value(value), value.lineno)

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
