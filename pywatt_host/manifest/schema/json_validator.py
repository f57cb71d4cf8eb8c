"""JSON Schema 2020-12 within bounds: no network, no pattern that blows up, and a limit on the work.

This is the only module that imports jsonschema, which takes long. Load it by name, where a manifest has a
`config_schema`, and in `validate`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it has no types
from referencing.exceptions import Unresolvable

from pywatt_host.manifest.schema.ecmascript import Pattern, TextTooLongError, compiled
from pywatt_host.manifest.schema.json_formats import FORMATS

_MAX_STEPS = 150_000  # keywords that are compared with values: a few seconds
_MAX_SECONDS = 20.0
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
    schemas; nothing is fetched. Raises TooMuchWorkError, UnknownReferenceError and PatternError.
    """
    budget = _Budget()
    checks = {**Draft202012Validator.VALIDATORS, **_Keywords(budget).all()}
    counted = {name: _counted(check, budget) for name, check in checks.items()}
    bounded = extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]  # so are its stubs
    checker = FormatChecker(formats=())
    for name, test in FORMATS.items():
        checker.checks(name)(test)
    # The class of a part is chosen by its `$schema`, and would then be the one without bounds.
    plain = _without_dialect(schema)
    validator = bounded(plain, registry=REGISTRY, format_checker=checker if formats else None)
    try:
        return list(islice(validator.iter_errors(value), MAX_ERRORS))
    except RecursionError:
        raise TooMuchWorkError from None
    except Unresolvable as exc:
        raise UnknownReferenceError(str(exc.ref)) from None


class _Budget:
    """The work that is left: steps of about the same length, and seconds for what the steps do not count."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS
        self._end = time.monotonic() + _MAX_SECONDS

    def spend(self, steps: int) -> None:
        """Take steps that are about to be made. Raises TooMuchWorkError."""
        self._left -= steps
        if self._left < 0 or time.monotonic() > self._end:
            raise TooMuchWorkError


def _counted(check: _Check, budget: _Budget) -> _Check:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        budget.spend(1 + sum(len(each) for each in (value, instance) if isinstance(each, list | dict)) // 20)
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


# Keywords whose errors are about keys, that would run patterns of Python, or that take too long ---------------------


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


class _Keywords:
    """The keywords with patterns. The library would run the patterns with `re`, without a limit."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._patterns: dict[str, Pattern] = {}

    def all(self) -> dict[str, _Check]:
        """The keywords that take the place of the library's."""
        return {
            **_OWN,
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional,
            "unevaluatedProperties": self._unevaluated,
        }

    def _search(self, pattern: str, text: str) -> bool:
        """Whether the pattern matches. Raises TextTooLongError, TooMuchWorkError and PatternError."""
        found = self._patterns.get(pattern)
        if found is None:
            found = self._patterns[pattern] = compiled(pattern)
            self._budget.spend(1 + found.size // 100)
        self._budget.spend(found.steps(text))
        return found(text)

    def _matches(self, pattern: str, key: str) -> bool:
        """Whether the pattern matches a key. Raises TooMuchWorkError and PatternError."""
        try:
            return self._search(pattern, key)
        except TextTooLongError:
            raise TooMuchWorkError from None

    def _pattern(self, validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "string"):
            return
        try:
            if not self._search(pattern, instance):
                yield ValidationError("pattern")
        except TextTooLongError:
            error = ValidationError("too long")
            error.too_long = True  # type: ignore[attr-defined]
            yield error

    def _pattern_properties(
        self, validator: Any, patterns: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if validator.is_type(instance, "object"):
            for pattern, below in patterns.items():
                for key, value in instance.items():
                    if self._matches(pattern, key):
                        yield from validator.descend(value, below, path=key, schema_path=pattern)

    def _additional(self, validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "object"):
            return
        for key in self._not_named(instance, schema):
            if below is False:
                yield _about(key, "unknown")
            else:
                yield from validator.descend(instance[key], below, path=key)

    def _not_named(self, instance: dict[str, Any], schema: Any) -> Iterator[str]:
        """The keys that neither `properties` nor `patternProperties` of this schema is about."""
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for key in instance:
            if key not in named and not any(self._matches(pattern, key) for pattern in patterns):
                yield key

    def _unevaluated(self, validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "object"):
            return
        own = {name: value for name, value in schema.items() if name != "unevaluatedProperties"}
        evaluated = self._evaluated(validator, instance, own)
        for key in instance:
            if key in evaluated:
                continue
            if below is False:
                yield _about(key, "unknown")
            else:
                yield from validator.descend(instance[key], below, path=key)

    def _evaluated(self, validator: Any, instance: dict[str, Any], schema: Any) -> set[str]:
        """The keys that a schema says something about, in itself or in the schemas that apply in the same place."""
        self._budget.spend(1 + len(instance) // 20)
        if not isinstance(schema, dict):
            return set()
        if "additionalProperties" in schema or "unevaluatedProperties" in schema:
            return set(instance)
        named = schema.get("properties", {})
        found = {key for key in instance if key in named}
        for pattern in schema.get("patternProperties", {}):
            found.update(key for key in instance if self._matches(pattern, key))
        for reference in ("$ref", "$dynamicRef"):
            if reference in schema:
                target = validator._resolver.lookup(schema[reference])
                there = validator.evolve(schema=target.contents, _resolver=target.resolver)
                found |= self._evaluated(there, instance, target.contents)
        for below in self._applied(validator, instance, schema):
            found |= self._evaluated(validator, instance, below)
        return found

    def _applied(self, validator: Any, instance: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
        """The schemas in a schema that hold for the same value."""

        def holds(below: Any) -> bool:
            return next(iter(validator.descend(instance, below)), None) is None

        yield from (below for key, below in schema.get("dependentSchemas", {}).items() if key in instance)
        for keyword in ("allOf", "anyOf", "oneOf"):
            yield from (below for below in schema.get(keyword, ()) if holds(below))
        if "if" not in schema:
            return
        if holds(schema["if"]):
            yield schema["if"]
            yield schema.get("then", True)
        else:
            yield schema.get("else", True)


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
    "uniqueItems": _unique,
}
