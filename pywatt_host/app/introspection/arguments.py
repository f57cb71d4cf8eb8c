"""The manifest's arguments for a factory, checked against its signature and annotations."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from pywatt_host.app.introspection.interface import signature_of, state_parameter
from pywatt_host.manifest.values import Interpolated

logger = logging.getLogger(__name__)

_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class ArgumentFault(NamedTuple):
    """Why one argument does not fit: `path` leads to it below the manifest key of the arguments."""

    path: tuple[str | int, ...]
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return self.text + (f" ({self.hint})" if self.hint else "")


def _below(path: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


class ArgumentsError(Exception):
    """The arguments do not fit. The text has every fault and no value."""

    def __init__(self, faults: Sequence[ArgumentFault], key: str) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{key}{_below(each.path)} {each}" for each in faults))


def bind(
    factory: Callable[..., Any], args: Mapping[str, Any], state: Any, *, key: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments to call `factory` with: `args` converted to the annotated types, and `state`
    for the parameter that takes the AppState.

    A value must have the annotated type in its JSON form (a list for a tuple, text for a Path or a date); text from an
    interpolation is converted to the annotated type. An annotation that cannot be resolved or checked is ignored. `key`
    is the manifest key of `args`. Raises `ArgumentsError`.
    """
    signature = signature_of(factory)
    if signature is None:
        return (), {name: plain(value) for name, value in args.items()}
    parameters = {name: each for name, each in signature.parameters.items() if each.kind not in _VARIABLE}
    extra = next((each for each in signature.parameters.values() if each.kind is Parameter.VAR_KEYWORD), None)
    taker = state_parameter(signature, args)
    bound = signature.bind_partial()
    faults: list[ArgumentFault] = []
    for name, value in args.items():
        parameter = parameters.get(name, extra)
        if parameter is None:
            faults.append(_unknown(name, [each for each in parameters if each != taker]))
            continue
        try:
            converted = _converted(value, _annotation(factory, parameter))
        except ValidationError as error:
            faults += _mismatches(error, name, parameter)
            continue
        if name in parameters:
            bound.arguments[name] = converted
        else:
            bound.arguments.setdefault(parameter.name, {})[name] = converted
    if taker is not None:
        bound.arguments[taker] = state
    faults += [
        ArgumentFault((name,), "is missing: the factory requires it")
        for name, each in parameters.items()
        if each.default is Parameter.empty and name != taker and name not in args
    ]
    if faults:
        raise ArgumentsError(faults, key)
    return bound.args, bound.kwargs


def plain(value: Any) -> Any:
    """A value of the manifest as plain dict, list, str and other scalars, for the user's code."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Interpolated) else value


def _converted(value: Any, annotation: Any) -> Any:
    """Raises `ValidationError`."""
    ready = plain(value)
    if annotation is Parameter.empty:
        return ready
    try:
        adapter = TypeAdapter(annotation)
        strict = not _holds_interpolated(value)
        try:
            text = json.dumps(ready)
        except (TypeError, ValueError):  # an object from Python code, which has no JSON form
            return adapter.validate_python(ready, strict=strict)
        return adapter.validate_json(text, strict=strict)
    except (PydanticUserError, PydanticUndefinedAnnotation):  # pydantic cannot check this type
        return ready


def _holds_interpolated(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_interpolated, value.values()))
    return any(map(_holds_interpolated, value)) if isinstance(value, list | tuple) else isinstance(value, Interpolated)


def _annotation(factory: Any, parameter: Parameter) -> Any:
    """The annotation. Text (as with `from __future__ import annotations`) is resolved in the factory's module."""
    if parameter.annotation is Parameter.empty:
        return Parameter.empty
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return get_type_hints(holder, globalns=_globals(factory), include_extras=True)["it"]
    except Exception:  # named boundary: an annotation's text is the user's code; what it raises means "not checked"
        logger.debug("the annotation of %s cannot be resolved and is not checked", parameter.name, exc_info=True)
        return Parameter.empty


def _globals(factory: Any) -> dict[str, Any]:
    """The globals for the text of an annotation: those of the module with the innermost function."""
    while True:
        if isinstance(factory, functools.partial):
            factory = factory.func
        elif isinstance(factory, MethodType):
            factory = factory.__func__
        elif hasattr(factory, "__wrapped__"):
            factory = factory.__wrapped__
        else:
            break
    if hasattr(factory, "__globals__"):
        return dict(factory.__globals__)
    cls = factory if inspect.isclass(factory) else type(factory)
    return dict(vars(sys.modules[cls.__module__]))


def _unknown(name: str, known: list[str]) -> ArgumentFault:
    near = difflib.get_close_matches(name, known, 1)
    takes = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}" if known else "it takes none"
    return ArgumentFault((name,), "is not a parameter of the factory", takes)


def _mismatches(error: ValidationError, argument: str, parameter: Parameter) -> list[ArgumentFault]:
    wanted = parameter.annotation
    name = wanted if isinstance(wanted, str) else inspect.formatannotation(wanted)
    return [
        ArgumentFault((argument, *fault["loc"]), f"does not fit {name}: {fault['msg'][:1].lower()}{fault['msg'][1:]}")
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
