"""Keys of other servers and formats: each hint names a key that exists."""

from __future__ import annotations

import re

import pytest

from pywatt_host.manifest.model import DirectoryMount, Section
from pywatt_host.manifest.model.app import AppOptions
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.schema.shape import (
    Choice,
    DictShape,
    ListShape,
    SectionShape,
    Shape,
    manifest_shape,
    shape_at,
    shape_of,
)
from pywatt_host.manifest.schema.synonyms import SYNONYMS, unknown_key

ROOTS = (manifest_shape(), shape_of(Workspace))


def sections(shape: Shape) -> list[SectionShape]:
    if isinstance(shape, SectionShape):
        return [shape, *(found for below in shape.keys.values() for found in sections(below))]
    if isinstance(shape, Choice):
        return [found for below in shape.shapes.values() for found in sections(below)]
    if isinstance(shape, ListShape):
        return sections(shape.item)
    return sections(shape.value) if isinstance(shape, DictShape) else []


def shapes_of(section: type[Section]) -> list[SectionShape]:
    return [shape for root in ROOTS for shape in sections(root) if issubclass(shape.model, section)]


@pytest.mark.parametrize("section", list(SYNONYMS), ids=lambda section: section.__name__)
def test_every_synonym_is_an_unknown_key_and_its_hint_names_keys_that_exist(section: type[Section]) -> None:
    shapes = shapes_of(section)
    assert shapes
    # An application under `mounts` may be meant as a folder, and the other way round.
    places = [*shapes, *ROOTS, *(shapes_of(DirectoryMount) if section is AppOptions else [])]
    for key in SYNONYMS[section]:
        unknown = unknown_key(key, shapes[0], ROOTS[0])
        assert key not in shapes[0].keys
        assert (unknown.code, unknown.message) == ("unknown-key", "unknown key")
        for snippet in re.findall(r"`([^`]+)`", unknown.hint):
            path = snippet.partition(":")[0].split(".")
            assert any(shape_at(place, path) is not None for place in places), unknown.hint
