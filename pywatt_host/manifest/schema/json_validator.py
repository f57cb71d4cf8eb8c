"""JSON Schema 2020-12 within bounds: no network, no pattern that blows up, and a limit on the work.

This is the only module that imports jsonschema, which takes long. Load it by name, where a manifest has a
`config_schema`, and in `validate`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it has no types
from referencing.exceptions import Unresolvable

from pywatt_host.manifest.schema.ecmascript import TextTooLongError, compiled
from pywatt_host.manifest.schema.json_formats import FORMATS

_MAX_STEPS = 150_000  # keywords that are compared with values: a few seconds
MAX_ERRORS = 200

META_SCHEMA: Mapping[str, Any] = Draft202012Validator.META_SCHEMA
_Check: TypeAlias = Callable[..., Iterator[ValidationError] | None]


class TooMuchWorkError(Exception):
    """A schema and a value that need too many steps, or that have no end."""


class UnknownReferenceError(Exception):
    """A reference that leads nowhere. `reference` is its text."""

    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self.reference = reference


def errors_of(schema: Any, value: Any, *, formats: bool = True) -> list[ValidationError]:
    """Compare a value with a schema. Return the errors, 200 at most.

    An error that is about a key has the attribute `key`. References lead into the schema itself or to the schema of
    schemas; nothing is fetched. Raises TooMuchWorkError and UnknownReferenceError.
    """
    steps = iter(range(_MAX_STEPS))
    checks = {**Draft202012Validator.VALIDATORS, **_OWN}
    counted = {name: _counted(check, steps) for name, check in checks.items()}
    bounded = extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]  # so are its stubs
    checker = FormatChecker(formats=())
    for name, test in FORMATS.items():
        checker.checks(name)(test)
    # The class of a part is chosen by its `$schema`, and would then be the one without bounds.
    plain = _without_dialect(schema)
    validator = bounded(plain, registry=REGISTRY, format_checker=checker if formats else None)
    try:
        return list(islice(validator.iter_errors(value), MAX_ERRORS))
    except (_OutOfStepsError, RecursionError):
        raise TooMuchWorkError from None
    except Unresolvable as exc:
        raise UnknownReferenceError(str(exc.ref)) from None


class _OutOfStepsError(Exception):
    """The schema needs more steps than allowed."""


def _counted(check: _Check, steps: Iterator[int]) -> _Check:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if next(steps, None) is None:
            raise _OutOfStepsError
        yield from check(validator, value, instance, schema) or ()

    return counted


def _without_dialect(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_dialect(item)
            for key, item in schema.items()
            if not (key == "$schema" and isinstance(item, str))
        }
    return [_without_dialect(item) for item in schema] if isinstance(schema, list) else schema


# Keywords whose errors are about keys, or that would run patterns of Python ------------------------------------------


def _about(key: str, message: str) -> ValidationError:
    error = ValidationError(message)
    error.key = key  # type: ignore[attr-defined]
    return error


def _required(validator: Any, required: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        yield from (_about(key, "missing") for key in required if key not in instance)


def _dependent(validator: Any, needs: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for key, others in needs.items():
            if key in instance:
                yield from (_about(other, key) for other in others if other not in instance)


def _matches(pattern: str, text: str) -> bool:
    try:
        return compiled(pattern)(text)
    except TextTooLongError:
        return False


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError("pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, below in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, below, path=key, schema_path=pattern)


def _additional(validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    patterns = schema.get("patternProperties", {})
    for key, value in instance.items():
        if key in schema.get("properties", {}) or any(_matches(pattern, key) for pattern in patterns):
            continue
        if below is False:
            yield _about(key, "unknown")
        else:
            yield from validator.descend(value, below, path=key)


def _unevaluated(validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    for error in Draft202012Validator.VALIDATORS["unevaluatedProperties"](validator, below, instance, schema) or ():
        named = [key for key in instance if repr(key) in error.message] if below is False else []
        yield from (_about(key, "unknown") for key in named)
        if not named:
            yield error


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not wanted or not validator.is_type(instance, "array"):
        return
    if len({json.dumps(_canonical(item), sort_keys=True) for item in instance}) < len(instance):
        yield ValidationError("twice")


def _canonical(value: Any) -> Any:
    """The value with every number as a float where both are equal, as JSON Schema compares them."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_OWN: dict[str, _Check] = {
    "required": _required,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "unevaluatedProperties": _unevaluated,
    "uniqueItems": _unique,
}
