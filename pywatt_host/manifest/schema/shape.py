"""The shape of a document: which keys are sections, lists, free-form mappings or scalars.

It is derived once from the classes of the model. So the checks before typing, the overrides and the JSON schema always
agree with the types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BeforeValidator, Discriminator, Tag, WithJsonSchema

from pywatt_host.manifest.model import Manifest, Section, Short
from pywatt_host.manifest.model.base import Names, Placeholders
from pywatt_host.manifest.values import Format, SecretCapable, Sensitive, as_list


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar, or a value that may also be a mapping of scalars with these `keys`.

    `secret`: the value may contain `${secret:NAME}`. `sensitive`: a value in plain text is itself a secret.
    `placeholders`: names whose `${name}` the code that uses the value fills in. `format`: the form of its text.
    """

    keys: tuple[str, ...] = ()
    secret: bool = False
    sensitive: Sensitive | None = None
    placeholders: tuple[str, ...] = ()
    format: Format | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Anything that YAML can hold."""


@dataclass(frozen=True, slots=True)
class ListShape:
    """A list. `one`: a single value is short for a list with that entry."""

    item: Shape
    one: bool = False


@dataclass(frozen=True, slots=True)
class DictShape:
    """A mapping whose keys the user chooses, and the shape of these keys. `names`: a list of names is a short form."""

    value: Shape
    names: bool = False
    key: Leaf = Leaf()


@dataclass(frozen=True, slots=True)
class SectionShape:
    """A mapping with a fixed set of keys."""

    model: type[Section]
    keys: dict[str, Shape] = field(hash=False)
    short: Short | None = None

    @property
    def required(self) -> list[str]:
        """The keys that a mapping must have."""
        return [info.alias or name for name, info in self.model.model_fields.items() if info.is_required()]

    def example(self, key: str) -> Any:
        """An example value of a key; None if it has none."""
        for name, info in self.model.model_fields.items():
            if (info.alias or name) == key and info.examples:
                return info.examples[0]
        return None


@dataclass(frozen=True, slots=True)
class Choice:
    """Several shapes, of which `pick` chooses one by looking at the value."""

    pick: Callable[[Any], str]
    shapes: dict[str, Shape] = field(hash=False)
    short: Short | None = None

    def of(self, value: Any) -> Shape:
        """The shape that fits a value: a list, a mapping or a scalar."""
        return self.shapes[self.pick(value)]

    @property
    def scalar(self) -> Leaf | None:
        """The shape of a scalar; None if the value cannot be one."""
        return next((each for each in self.shapes.values() if isinstance(each, Leaf)), None)


Shape: TypeAlias = Leaf | Free | ListShape | DictShape | SectionShape | Choice


@cache
def manifest_shape() -> SectionShape:
    """The shape of a whole manifest, without `profiles`."""
    return shape_of(Manifest)


@cache
def shape_of(model: type[Section]) -> SectionShape:
    """The shape of a document whose root is this section."""
    return _section(model, ())


def _section(model: type[Section], metadata: tuple[Any, ...]) -> SectionShape:
    keys = {
        info.alias or name: _shape(info.annotation, tuple(info.metadata)) for name, info in model.model_fields.items()
    }
    return SectionShape(model, keys, _first(metadata, Short))


def _shape(annotation: Any, metadata: tuple[Any, ...]) -> Shape:
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = (*metadata, *more)
    if annotation is Any:
        return Free()
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _section(annotation, metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        one = any(isinstance(each, BeforeValidator) and each.func is as_list for each in metadata)
        return ListShape(_shape(arguments[0], ()), one)
    if origin is dict:
        return DictShape(_shape(arguments[1], ()), _first(metadata, Names) is not None, _key(arguments[0]))
    if origin in (Union, UnionType):
        discriminator = _first(metadata, Discriminator)
        if discriminator is not None:
            shapes = {_tag(each): _shape(each, ()) for each in arguments}
            return Choice(discriminator.discriminator, shapes, _first(metadata, Short))
        kinds = [each for each in arguments if each is not NoneType]
        if len(kinds) == 1:
            return _shape(kinds[0], metadata)
    schema = _first(metadata, WithJsonSchema)
    mappings = [each for each in (schema.json_schema or {}).get("anyOf", ()) if "properties" in each] if schema else []
    placeholders = _first(metadata, Placeholders)
    return Leaf(
        tuple(mappings[0]["properties"]) if mappings else (),
        _first(metadata, SecretCapable) is not None,
        _first(metadata, Sensitive),
        placeholders.names if placeholders is not None else (),
        _first(metadata, Format),
    )


def _key(annotation: Any) -> Leaf:
    shape = _shape(annotation, ())
    assert isinstance(shape, Leaf)
    return shape


def _first(metadata: tuple[Any, ...], kind: type) -> Any:
    return next((each for each in metadata if isinstance(each, kind)), None)


def _tag(annotation: Any) -> str:
    tags = [each.tag for each in get_args(annotation)[1:] if isinstance(each, Tag)]
    return str(tags[0])


def shape_at(root: Shape, path: Sequence[str | int]) -> Shape | None:
    """The shape of the value at a path; None if no value is allowed there. All below a free-form value is free-form."""
    shape: Shape | None = root
    for part in path:
        if isinstance(shape, Choice):
            shape = shape.of([]) if isinstance(part, int) else shape.of({str(part): None})
        if isinstance(shape, SectionShape):
            shape = shape.keys.get(str(part))
        elif isinstance(shape, ListShape):
            shape = shape.item
        elif isinstance(shape, DictShape):
            shape = shape.value
        elif not isinstance(shape, Free):
            return None
    return shape


def text_shape(shape: Shape | None) -> Leaf | None:
    """The shape of a text in this place: the text itself, or the key of the section that the text is short for."""
    if isinstance(shape, ListShape) and shape.one:
        shape = shape.item
    if isinstance(shape, Choice) and shape.short is None:
        return shape.scalar
    if isinstance(shape, SectionShape) and shape.short is not None and shape.short.text is not None:
        shape = shape.keys[shape.short.text]
    return shape if isinstance(shape, Leaf) else None


def secret_places(shape: Shape, path: str = "") -> Iterator[str]:
    """The paths of the keys whose values may contain `${secret:NAME}`."""
    if isinstance(shape, Leaf) and shape.secret:
        yield path
    elif isinstance(shape, Choice):
        for each in shape.shapes.values():
            yield from secret_places(each, path)
    elif isinstance(shape, SectionShape):
        for key, below in shape.keys.items():
            yield from secret_places(below, f"{path}.{key}" if path else key)
    elif isinstance(shape, ListShape):
        yield from secret_places(shape.item, f"{path}[]")
    elif isinstance(shape, DictShape):
        yield from secret_places(shape.value, f"{path}.*" if isinstance(shape.value, SectionShape) else path)


def key_paths(shape: Shape, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys of sections that are reached without a list."""
    if isinstance(shape, Choice):
        for each in shape.shapes.values():
            yield from key_paths(each, path)
    elif isinstance(shape, SectionShape):
        for key, below in shape.keys.items():
            yield (*path, key)
            yield from key_paths(below, (*path, key))
