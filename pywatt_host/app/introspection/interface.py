"""Which interface a callable has, decided by its shape. The callable is never called."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Collection, Mapping
from inspect import Parameter, Signature
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from pywatt_host.app.introspection.route import is_a

Found: TypeAlias = Literal["asgi", "wsgi", "asgi2", "unknown"]

# Classes whose instances have a known interface, even where instrumentation replaces `__call__` by (*args, **kwargs).
_KNOWN: Mapping[tuple[str, str], Found] = MappingProxyType(
    {
        ("starlette", "Starlette"): "asgi",
        ("starlette", "Router"): "asgi",
        ("litestar", "Litestar"): "asgi",
        ("quart", "Quart"): "asgi",
        ("django", "ASGIHandler"): "asgi",
        ("flask", "Flask"): "wsgi",
        ("django", "WSGIHandler"): "wsgi",
    }
)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_STATE_TYPE = re.compile(r"\bAppState\b")
_STATE_NAMES = ("app_state", "state")
_ASGI_PARAMETERS, _WSGI_PARAMETERS = 3, 2


def interface_of(obj: Any) -> Found:
    """The interface of an object: `asgi` (3.0) takes scope, receive, send; `wsgi` (PEP 3333) takes environ,
    start_response; `asgi2` takes scope and returns a coroutine function of receive, send. Everything else is `unknown`,
    also an application without a readable signature."""
    if not callable(obj):
        return "unknown"
    for (package, name), interface in _KNOWN.items():
        if is_a(obj, package, name):
            return interface
    if getattr(obj, "_asgi_double_callable", False):  # asgiref's mark
        return "asgi2"
    signature = signature_of(obj)
    if inspect.isclass(obj):
        return _class_interface(obj, signature)
    if getattr(obj, "_asgi_single_callable", False):
        return "asgi"
    return _shape(signature, _is_async(obj))


def is_factory(obj: Any, factory: bool | None, args: Collection[str] = ()) -> bool:
    """Whether `obj` is a factory, to be called for the application. `args` are the names of the manifest's arguments.

    Where `factory` is None, a function or method is a factory when it does not have the shape of an application. One
    that may be either is an application, unless a parameter asks for the AppState or is in `args`. A callable with
    nothing but `*args` is not a factory, and neither is a class.
    """
    if factory is not None:
        return factory
    function = obj
    while isinstance(function, functools.partial):
        function = function.func
    signature = signature_of(obj)
    if not inspect.isroutine(function) or signature is None:
        return False
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is Parameter.VAR_POSITIONAL:
        return False
    if any(_asks_for_state(parameter) or parameter.name in args for parameter in parameters):
        return True
    return interface_of(obj) == "unknown"


def state_parameter(signature: Signature, args: Collection[str]) -> str | None:
    """The name of the factory's parameter for the AppState: a parameter named `app_state` or `state` or annotated
    `AppState`, else the first positional one without a default that is not in `args` and whose annotation may be that
    of an AppState."""
    free = [parameter for parameter in signature.parameters.values() if parameter.name not in args]
    for parameter in free:
        if _asks_for_state(parameter):
            return parameter.name
    for parameter in free:
        if parameter.kind in _POSITIONAL and parameter.default is Parameter.empty and not _is_of_values(parameter):
            return parameter.name
    return None


# Types of settings, which no AppState has.
_VALUE_TYPES = frozenset(
    (
        "int", "str", "float", "bool", "bytes", "complex", "list", "dict", "tuple", "set", "frozenset", "List", "Dict",
        "Tuple", "Set", "Sequence", "Path", "Decimal", "date", "datetime", "time", "timedelta", "UUID", "Literal",
        "None", "NoneType", "Optional", "Union",
    )
)  # fmt: skip


def _is_of_values(parameter: Parameter) -> bool:
    """Whether the annotation consists of types of plain values, such as `int | None`."""
    annotation = parameter.annotation
    if annotation is Parameter.empty:
        return False
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    names = re.findall(r"[^\W\d][\w.]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", text))
    return bool(names) and all(name.rpartition(".")[2] in _VALUE_TYPES for name in names)


def signature_of(obj: Any) -> Signature | None:
    """The signature; None where it cannot be read, as for some compiled callables."""
    try:
        return inspect.signature(obj)
    except (TypeError, ValueError):
        return None


def _asks_for_state(parameter: Parameter) -> bool:
    if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        return False
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "") + f" {annotation!r}"
    return parameter.name in _STATE_NAMES or _STATE_TYPE.search(text) is not None


def _shape(signature: Signature | None, asynchronous: bool) -> Found:
    """The interface by the names of the parameters, where they are those of the specification, else by their number."""
    if signature is None:
        return "asgi" if asynchronous else "unknown"
    positional = [parameter for parameter in signature.parameters.values() if parameter.kind in _POSITIONAL]
    names = [parameter.name.strip("_") for parameter in positional]
    if not asynchronous and names[:2] == ["environ", "start_response"]:
        return "wsgi"
    required = sum(
        parameter.default is Parameter.empty and parameter.kind is not Parameter.VAR_KEYWORD
        for parameter in signature.parameters.values()
        if parameter.kind is not Parameter.VAR_POSITIONAL
    )
    if required > sum(parameter.default is Parameter.empty for parameter in positional):  # one is keyword-only
        return "unknown"
    if required == _ASGI_PARAMETERS or (asynchronous and required <= _ASGI_PARAMETERS <= len(positional)):
        return "asgi"
    if required == _WSGI_PARAMETERS and not asynchronous:
        return "wsgi"
    return "asgi2" if required == 1 and names[0] == "scope" else "unknown"


def _class_interface(cls: type, signature: Signature | None) -> Found:
    """The interface of a class. A class is an application where making an instance is the call, as in an example of
    PEP 3333."""
    if signature is None:
        return "unknown"
    shape = _shape(signature, asynchronous=False)
    if shape == "wsgi":
        return "wsgi" if hasattr(cls, "__iter__") else "unknown"
    if shape == "asgi":
        return "asgi" if hasattr(cls, "__await__") else "unknown"
    call = vars(cls).get("__call__") or getattr(cls, "__call__", None)  # noqa: B004 - the class's, not type's
    if not inspect.isfunction(call) or len(signature.parameters) != 1:
        return "unknown"
    names = [name.strip("_") for name in inspect.signature(call).parameters][1:]
    return "asgi2" if names == ["receive", "send"] or shape == "asgi2" else "unknown"


def _is_async(obj: Any) -> bool:
    # Before Python 3.12, asgiref and asyncio mark what counts as a coroutine function with an attribute.
    return any(
        inspect.iscoroutinefunction(each) or getattr(each, "_is_coroutine", None) is not None
        for each in (obj, getattr(obj, "__call__", None))  # noqa: B004 - its code is asked, not whether it is callable
    )
