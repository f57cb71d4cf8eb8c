"""Computes expressions of a Python configuration file without running them: only the operations in this file exist."""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, NoReturn

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.python_kinds import (
    Cores,
    CoresText,
    Decided,
    NotComputableError,
    Unknown,
    bounded,
    check_length,
    filled,
    formatted,
    is_number,
    joined,
)
from pywatt_host.imports.text import Template, Variable
from pywatt_host.manifest.machine import usable_cores

_MAX_CALLS = 10
_MAX_STEPS = 200_000

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
    ast.Is: lambda one, other: one is other,
    ast.IsNot: lambda one, other: one is not other,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_BUILTINS: dict[str, Callable[..., Any]] = {
    **{each.__name__: each for each in (int, float, str, bool, len, max, min, abs, round, list, tuple, dict, set)},
    **{each.__name__: each for each in (sorted, sum, any, all)},
}
_TEXT_METHODS = frozenset(
    {"strip", "lstrip", "rstrip", "lower", "upper", "title", "split", "rsplit", "splitlines", "join", "replace"}
    | {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "isdigit", "capitalize"}
)
_PATH_METHODS = frozenset({"joinpath", "with_name", "with_suffix", "as_posix"})
_PATH_ATTRIBUTES = frozenset({"parent", "name", "stem", "suffix"})
_KNOWN_CONSTANTS = {
    "ssl.CERT_NONE": 0,
    "ssl.CERT_OPTIONAL": 1,
    "ssl.CERT_REQUIRED": 2,
    "ssl.VerifyMode.CERT_REQUIRED": 2,
}


class Expressions:
    """Computes expressions. `names` has the values of the names by now."""

    def __init__(self, file: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.names: dict[str, Any] = {"__file__": str(folder / Path(file).name), "__name__": "__config__"}
        self._modules: dict[str, str] = {}
        self._file = file
        self._folder = folder
        self._environ = environ
        self._steps = 0
        self._calls = 0  # of the file's own functions, one within the other

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        raise UnreadableError(Place(self._file, getattr(node, "lineno", 0)), message)

    def imports(self, node: ast.Import | ast.ImportFrom) -> None:
        """Learn the names of an import. Nothing is imported."""
        for alias in node.names:
            if isinstance(node, ast.Import):
                self._modules[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
            elif node.module and not node.level:
                self._modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; `Unknown` if it cannot be computed."""
        try:
            return self._value(node)
        except NotComputableError as error:
            return Unknown(node.lineno, str(error), isinstance(node, ast.Lambda))

    def concrete(self, node: ast.expr) -> Any:
        """The value of an expression, with variables of the environment as they are now. Raises NotComputableError."""
        return self._now(self._value(node))

    def _now(self, value: Any) -> Any:
        if not isinstance(value, Template):
            return value
        found = value.value(self._environ)
        return Decided(found) if found is not None else None

    def _value(self, node: ast.expr) -> Any:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise NotComputableError("the file computes too much")
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise NotComputableError("only constants and simple computations are read")
        try:
            return bounded(method(node))
        except NotComputableError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
            raise NotComputableError(f"it cannot be computed: {type(error).__name__}") from None

    # Values -----------------------------------------------------------------------------------------------------------

    def _constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, bytes):
            return node.value.decode()
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            found = self.names[node.id]
            if isinstance(found, Unknown):
                raise NotComputableError(found.reason)
            return found
        raise NotComputableError(f"{node.id} is not a value that the file computes")

    def _list(self, node: ast.List) -> list[Any]:
        return self._items(node.elts)

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._items(node.elts))

    def _set(self, node: ast.Set) -> list[Any]:
        return self._items(node.elts)

    def _items(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for each in nodes:
            if isinstance(each, ast.Starred):
                found += self._value(each.value)
                bounded(found)
            else:
                found.append(self._value(each))
        return found

    def _dict(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self._value(value)
            else:  # a value that cannot be computed leaves the others as they are
                found[self.concrete(key)] = self.value(value)
        return found

    def _joinedstr(self, node: ast.JoinedStr) -> Any:
        parts: list[Any] = []
        for each in node.values:
            if isinstance(each, ast.FormattedValue):
                value = self._value(each.value)
                if each.format_spec is not None or each.conversion not in (-1, ord("s")):
                    raise NotComputableError("the file formats a value")
                parts.append(value if isinstance(value, Template) else str(value))
            else:
                parts.append(self._value(each))
        return joined(parts)

    def _binop(self, node: ast.BinOp) -> Any:
        one, other = self._value(node.left), self._value(node.right)
        if isinstance(node.op, ast.Add) and isinstance(one, str | Template) and isinstance(other, str | Template):
            return Template.joined(one, other)
        if isinstance(node.op, ast.Mod) and isinstance(one, str):
            return filled(one, other if isinstance(other, tuple) else (other,))
        if isinstance(node.op, ast.Div) and isinstance(one, PurePath):
            return one / self._now(other)
        apply = _OPERATORS.get(type(node.op))
        if apply is None:
            raise NotComputableError("the file uses an operator that is not read")
        measured = (
            isinstance(one, Cores)
            or isinstance(other, Cores)
            or isinstance(one, Template)
            or isinstance(other, Template)
        )
        one, other = self._numeric(one), self._numeric(other)
        if isinstance(node.op, ast.Mult) and not (is_number(one) and is_number(other)):
            check_length(one, other)
        result = apply(one, other)
        return Cores(result) if measured and isinstance(result, int) else result

    def _numeric(self, value: Any) -> Any:
        """A value for an operator. A number out of the environment is what it is now."""
        value = self._now(value)
        if isinstance(value, Decided):
            return int(value) if value.strip().lstrip("-").isdigit() else float(value)
        return value

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        apply = _UNARY.get(type(node.op))
        if apply is None:
            raise NotComputableError("the file uses an operator that is not read")
        return apply(self.concrete(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        found: Any = None
        for number, each in enumerate(node.values):
            found = self._value(each)
            last = number == len(node.values) - 1
            if isinstance(node.op, ast.Or) and isinstance(found, Template) and not last:
                fallback = self._value(node.values[number + 1])
                single = found.parts[0] if len(found.parts) == 1 else None
                if (
                    number == len(node.values) - 2
                    and isinstance(single, Variable)
                    and not single.default
                    and isinstance(fallback, str | int)
                    and not isinstance(fallback, bool)
                ):
                    text = CoresText(fallback) if isinstance(fallback, Cores) else str(fallback)
                    return Template((Variable(single.name, text),))
            truth = bool(self._now(found))
            if truth is isinstance(node.op, ast.Or):
                return found
        return found

    def _compare(self, node: ast.Compare) -> bool:
        left = self.concrete(node.left)
        for kind, each in zip(node.ops, node.comparators, strict=True):
            right = self.concrete(each)
            if not _COMPARISONS[type(kind)](left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        chosen = self._value(node.body if self.concrete(node.test) else node.orelse)
        return Decided(chosen) if isinstance(chosen, str) and self.reads_environment(node.test) else chosen

    def reads_environment(self, node: ast.expr) -> bool:
        """Whether an expression depends on variables of the environment."""
        return any(
            isinstance(each, ast.expr) and isinstance(self.value(each), Template | Decided) for each in ast.walk(node)
        )

    def _subscript(self, node: ast.Subscript) -> Any:
        if self._dotted(node.value) == "os.environ":
            return Template((Variable(str(self.concrete(node.slice))),))
        owner = self._now(self._value(node.value))
        if isinstance(node.slice, ast.Slice):
            lower, upper, step = (
                None if part is None else self.concrete(part)
                for part in (node.slice.lower, node.slice.upper, node.slice.step)
            )
            return owner[slice(lower, upper, step)]
        found = owner[self.concrete(node.slice)]
        if isinstance(found, Unknown):
            raise NotComputableError(found.reason)
        return found

    def _attribute(self, node: ast.Attribute) -> Any:
        dotted = self._dotted(node)
        if dotted in _KNOWN_CONSTANTS:
            return _KNOWN_CONSTANTS[dotted]
        if dotted in ("os.sep", "os.path.sep"):
            return os.sep
        owner = self._value(node.value)
        if isinstance(owner, PurePath) and node.attr in _PATH_ATTRIBUTES:
            return getattr(owner, node.attr)
        if isinstance(owner, PurePath) and node.attr == "parents":
            return list(owner.parents)
        raise NotComputableError(f"{dotted or node.attr} is not known here")

    def _listcomp(self, node: ast.ListComp) -> list[Any]:
        return self._comprehension(node)

    def _generatorexp(self, node: ast.GeneratorExp) -> list[Any]:
        return self._comprehension(node)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        if len(node.generators) != 1 or not isinstance(node.generators[0].target, ast.Name):
            raise NotComputableError("only simple comprehensions are read")
        loop, name = node.generators[0], node.generators[0].target.id
        before, found = self.names.get(name), []
        for item in self._now(self._value(loop.iter)):
            self.names[name] = item
            if all(self.concrete(each) for each in loop.ifs):
                found.append(self._value(node.elt))
        if before is None:
            self.names.pop(name, None)
        else:
            self.names[name] = before
        return found

    # Calls ------------------------------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Any:
        dotted = self._dotted(node.func)
        arguments = self._items(node.args)
        keywords = {each.arg: self._value(each.value) for each in node.keywords if each.arg is not None}
        if any(each.arg is None for each in node.keywords):
            raise NotComputableError("only simple calls are read")
        if dotted is not None:
            return self._function(dotted, arguments, keywords)
        own = self.names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if isinstance(own, Unknown) and own.returns is not None and not arguments and not keywords:
            return self._returned(own.returns)
        if isinstance(node.func, ast.Attribute):
            return self._method(self._value(node.func.value), node.func.attr, arguments, keywords)
        raise NotComputableError("only simple calls are read")

    def _returned(self, expression: ast.expr) -> Any:
        """What a function of the file returns."""
        self._calls += 1
        if self._calls > _MAX_CALLS:
            raise NotComputableError("functions call each other too deeply")
        try:
            return self._value(expression)
        finally:
            self._calls -= 1

    def _function(self, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if name in ("os.environ.get", "os.getenv"):
            key, *rest = arguments
            default = rest[0] if rest else keywords.get("default")
            return self._variable(str(self._now(key)), default)
        if name in ("multiprocessing.cpu_count", "os.cpu_count", "os.process_cpu_count", "psutil.cpu_count"):
            return Cores(os.cpu_count() or 1)
        if name == "os.sched_getaffinity":
            return [Cores(each) for each in range(usable_cores())]
        if name == "os.getcwd" or name in ("pathlib.Path.cwd",):
            return str(self._folder) if name == "os.getcwd" else self._folder
        if name in ("pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath"):
            return Path(*map(self._now, arguments))
        if name.startswith("os.path."):
            return self._os_path(name.removeprefix("os.path."), [self._now(each) for each in arguments])
        if name in ("int", "str", "float") and len(arguments) == 1 and not keywords:
            return self._converted(name, arguments[0])
        if name in ("len", "max", "min", "sum"):
            values = [self._numeric(each) if name != "len" else self._now(each) for each in arguments]
            if name == "sum" and not all(is_number(each) for each in values[0]):
                raise NotComputableError("only numbers are added up")
            result = _BUILTINS[name](*values, **keywords)
            flat = [each for value in arguments for each in (value if isinstance(value, list) else [value])]
            return (
                Cores(result)
                if isinstance(result, int) and any(isinstance(each, Cores | Template) for each in flat)
                else result
            )
        if name in _BUILTINS:
            return _BUILTINS[name](*map(self._now, arguments), **keywords)
        raise NotComputableError(f"the call of {name} would have to run")

    def _variable(self, name: str, default: Any) -> Any:
        if default is None or isinstance(default, str):
            return Template((Variable(name, default),))
        if isinstance(default, Template):
            return Template((Variable(name, default.value(self._environ)),))
        if isinstance(default, bool):  # the text of the environment is another type
            return self._environ.get(name, default)
        if isinstance(default, int | float):
            text = CoresText(default) if isinstance(default, Cores) else str(default)
            return Template((Variable(name, text),))
        return self._environ.get(name, default)

    def _converted(self, name: str, value: Any) -> Any:
        if isinstance(value, Template):
            if name == "str" or value.value(self._environ) is None:
                return value
            _BUILTINS[name](value.value(self._environ))  # is it one?
            return value
        converted = _BUILTINS[name](value)
        return Cores(converted) if isinstance(value, Cores) and name == "int" else converted

    def _os_path(self, name: str, arguments: list[Any]) -> Any:
        if name in ("join", "dirname", "basename", "normpath", "expanduser"):
            return getattr(os.path, name)(*map(os.fspath, arguments))
        if name in ("abspath", "realpath"):  # without a look at the file system
            return os.path.normpath(os.path.join(self._folder, os.fspath(arguments[0])))
        raise NotComputableError(f"os.path.{name} would have to look at the file system")

    def _method(self, owner: Any, name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if isinstance(owner, Template) and name == "get":
            raise NotComputableError("the environment has no such method")
        given = arguments
        owner, arguments = self._now(owner), [self._now(each) for each in arguments]
        if isinstance(owner, str) and name in _TEXT_METHODS:
            if name == "replace":
                check_length(owner, len(str(arguments[1])))
            if name == "join":
                parts = [str(part) for part in arguments[0]]
                check_length(owner, len(parts))
                joined(parts)
            result = getattr(owner, name)(*arguments, **keywords)
            return Decided(result) if isinstance(owner, Decided) and isinstance(result, str) else result
        if isinstance(owner, str) and name == "format":
            return formatted(owner, given, keywords)
        if isinstance(owner, PurePath):
            if name in ("resolve", "absolute", "expanduser"):
                return Path(os.path.normpath(self._folder / owner))
            if name in _PATH_METHODS:
                return getattr(owner, name)(*arguments)
        if isinstance(owner, dict) and name in ("get", "items", "keys", "values"):
            found = getattr(owner, name)(*arguments)
            return found if name == "get" else list(found)
        raise NotComputableError(f"the call of {name} would have to run")

    def _dotted(self, node: ast.expr) -> str | None:
        """The full name of a module's attribute or of a builtin; None for everything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self.names:
            return None
        if node.id in self._modules:
            return ".".join([self._modules[node.id], *reversed(parts)])
        return node.id if not parts else None
