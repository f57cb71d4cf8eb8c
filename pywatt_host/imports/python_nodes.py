"""Questions about the nodes of a Python configuration file."""

from __future__ import annotations

import ast

_NO_PARAMETERS = ast.dump(ast.parse("lambda: 0", mode="eval").body.args)  # type: ignore[attr-defined]  # a lambda
_NAMESPACES = frozenset({"globals", "locals", "vars"})


def is_namespace(node: ast.expr) -> bool:
    """Whether an expression is `globals()`, or another mapping of the names of the file."""
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        return is_module(node.value)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NAMESPACES


def is_module(node: ast.expr) -> bool:
    """Whether an expression is the module of the file: `sys.modules[__name__]`."""
    if not isinstance(node, ast.Subscript):
        return False
    of_modules = isinstance(node.value, ast.Attribute) and node.value.attr == "modules"
    return of_modules and isinstance(node.slice, ast.Name) and node.slice.id == "__name__"


def stored(node: ast.AST) -> list[tuple[str, int]]:
    """The names that code assigns, imports or defines anywhere, with their lines."""
    found: list[tuple[str, int]] = []
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            found.append((each.id, each.lineno))
        elif isinstance(each, ast.Import | ast.ImportFrom):
            names = [alias.asname or alias.name.partition(".")[0] for alias in each.names]
            found += [(name, each.lineno) for name in names if name != "*"]
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append((each.name, each.lineno))
    return found


def returned(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.expr | None:
    """The expression that a function without parameters returns, if it does nothing else."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or ast.dump(node.args) != _NO_PARAMETERS:
        return None
    body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    only = body[0] if len(body) == 1 else None
    return only.value if isinstance(only, ast.Return) else None


def loaded(target: ast.expr) -> ast.expr:
    """The target of an assignment as an expression."""
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    return target


def located(node: ast.expr, at: ast.expr) -> ast.expr:
    for each in ast.walk(node):
        if not hasattr(each, "lineno") and isinstance(each, ast.expr):
            ast.copy_location(each, at)
    return ast.copy_location(node, at)
