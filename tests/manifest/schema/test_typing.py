"""From pydantic's errors to problems: every pattern has an explanation, and no value of the environment is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import Section
from pywatt_host.manifest.model.workspace import Workspace  # noqa: F401 - its sections are checked too
from pywatt_host.manifest.values import Format


def annotated(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The metadata of every annotated type inside of an annotation."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from annotated(inner, (*metadata, *more))
        return
    yield metadata
    for argument in get_args(annotation):
        yield from annotated(argument)


def patterns(metadata: tuple[Any, ...]) -> list[Any]:
    constraints = [*metadata, *(each for field in metadata for each in getattr(field, "metadata", ()))]
    return [each.pattern for each in constraints if getattr(each, "pattern", None) is not None]


def sections(base: type[Section]) -> Iterator[type[Section]]:
    for each in base.__subclasses__():
        yield each
        yield from sections(each)


def test_every_pattern_of_the_model_has_a_format_that_explains_it() -> None:
    found = 0
    for section in sections(Section):
        if not section.__module__.startswith("pywatt_host."):
            continue
        for name, info in section.model_fields.items():
            for metadata in annotated(info.annotation, tuple(info.metadata)):
                if patterns(metadata):
                    found += 1
                    assert any(isinstance(each, Format) for each in metadata), f"{section.__name__}.{name}"
    assert found > 20


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app: '${X}'", "app: the value of `${X}` is not an import path (write module:attribute, such as"),
        ("app: m:a\nmodule: {id: '${X}'}", "module.id: the value of `${X}` is not a module id (use letters, digits"),
        ("app: m:a\nserver: {timeouts: {header: '${X}'}}", "the value of `${X}` is not a duration (write 500ms, 15s"),
        ("app: m:a\nserver: {limits: {body: '${X}'}}", "server.limits.body: the value of `${X}` is not a size"),
        ("app: m:a\nserver: {listen: ['${X}']}", "the value of `${X}` is not an address to listen on (write host:port"),
        ("app: m:a\nhealth: '${X}'", "health: the value of `${X}` is not a path prefix (write / or /api)"),
        ("app: m:a\nendpoints: [{path: '${X}'}]", "endpoints[0].path: the value of `${X}` is not a path template"),
        ("app: m:a\nendpoints: [{path: /, methods: '${X}'}]", "the value of `${X}` is not a method"),
        ("app: m:a\nendpoints: [{path: /, rate_limit: '${X}'}]", "the value of `${X}` is not a rate"),
        ("app: m:a\nserver: {trusted_proxies: ['${X}']}", "the value of `${X}` is not an address, a network or unix"),
        ("app: m:a\nchannels: {tcp: {connect: '${X}'}}", "the value of `${X}` is not an address (write host:port"),
    ],
)
def test_a_value_of_the_environment_is_never_shown(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text(text), environ={"X": "hunter two"})
    shown = str(caught.value.problems[0])
    assert problem in shown
    assert "hunter" not in shown


def test_an_entry_of_mounts_that_is_no_mapping_is_not_told_about_endpoints() -> None:
    with pytest.raises(ManifestError) as caught:
        load(Source.of_text("app: m:a\nmounts: [static]"), environ={})
    assert str(caught.value.problems[0]).startswith(
        'pywatt.yaml:2:10: mounts[0]: expected a mapping, not "static" (keys of the mapping: '
    )
