"""What all sections of the manifest have in common."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PrivateAttr
from pydantic_core.core_schema import CoreSchema, no_info_plain_validator_function

from pywatt_host.manifest.problems import KeyPath

_DISABLE_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of a section: the section is of this kind if its `key` has the `value` or matches the `pattern`. Without
    both, it is enough that the key is there. The keys in `without` do not apply to this kind, and those in `required`
    must be there."""

    key: str
    value: str | None = None
    pattern: str | None = None
    without: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.value or self.key


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of a section, of which the first that fits counts. A section that is of no kind must have the keys in
    `required`, and none of those in `without`.

    The published schema describes each kind on its own, so that an editor suggests only the keys of the kind that is
    meant. `named`: where the first kind's key is omitted, the name of the section in its mapping takes its place.
    """

    kinds: tuple[Kind, ...]
    required: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    named: bool = False


class Section(BaseModel):
    """A frozen mapping of the manifest. An unknown key is an error, and values are not converted to another type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, defer_build=True, populate_by_name=False, protected_namespaces=()
    )
    kinds: ClassVar[Kinds | None] = None
    together: ClassVar[tuple[tuple[str, str], ...]] = ()  # pairs of keys of which the first needs the second


class Document(Section):
    """A section that is a whole file: a manifest or a workspace."""

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _source: Path | None = PrivateAttr(default=None)
    _overridden: frozenset[KeyPath] = PrivateAttr(default=frozenset())

    @property
    def directory(self) -> Path:
        """The absolute path of the folder that every relative path in the document is relative to."""
        return self._directory

    @property
    def source(self) -> Path | None:
        """The file that the document was read from; None if it was made in code."""
        return self._source

    @property
    def overridden(self) -> frozenset[KeyPath]:
        """Paths of the values that a profile, an environment variable, `--set` or the orchestrator has set."""
        return self._overridden

    def located(self, directory: Path, source: Path | None, overridden: Collection[KeyPath] = ()) -> Self:
        """Return a copy of the document that knows where it was read from. `directory` is absolute."""
        copy = self.model_copy()
        copy._directory = directory
        copy._source = source
        copy._overridden = frozenset(overridden)
        return copy

    def resolve(self, path: str) -> Path:
        """Make a path of the document absolute."""
        return self._directory / path


@dataclass(frozen=True, slots=True)
class Short:
    """The short forms of a section.

    `text` names the key that a string sets; with `integer`, an integer sets it too. `flag` names the key that a bool
    sets; a string or a mapping then sets it to true as well, because writing the section at all switches it on. `names`
    names the key, a mapping by name, that a list of names sets. `items` names the key, a list, that a list sets.
    """

    text: str | None = None
    flag: str | None = None
    names: str | None = None
    items: str | None = None
    integer: bool = False


class Names:
    """Marks a mapping of sections that may be written as a list of names. Each named section then has its defaults."""


class Placeholders:
    """Marks strings in which `${name}`, for these names, is not an environment variable. The code that uses the string
    fills it in."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Deferred:
    """Marks a rarely used section. Its validator is built only for a document that contains the section.

    Most documents do not contain it, and building a validator takes longer than everything else that is done with a
    small document.
    """

    def __get_pydantic_core_schema__(self, source: type[Section], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any) -> Section:
            if isinstance(value, source):
                return value
            complete(source)
            return source.model_validate(value)

        return no_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object"}  # the schema writer asks the section itself


def complete(model: type[Section]) -> None:
    """Build the validator of a section, unless it exists already.

    Before pydantic builds the first validator, it searches every installed distribution for plugins of its own. No
    plugin concerns a manifest, and the search takes longer than the building, so plugins are disabled here.
    """
    if model.__pydantic_complete__:
        return
    before = os.environ.get(_DISABLE_PLUGINS)
    os.environ[_DISABLE_PLUGINS] = "__all__"
    try:
        model.model_rebuild()
    finally:
        if before is None:
            del os.environ[_DISABLE_PLUGINS]
        else:
            os.environ[_DISABLE_PLUGINS] = before


def key(default: Any, description: str, *examples: Any, **more: Any) -> Any:
    """Declare a key of a section: its default, its description, and example values that editors show."""
    if isinstance(default, type) and issubclass(default, Section):
        # The defaults of a section are valid. Validating them would build one more validator for each section at start.
        default = default.model_construct
    if callable(default):
        return Field(default_factory=default, description=description, examples=list(examples) or None, **more)
    return Field(default, description=description, examples=list(examples) or None, **more)


def required(description: str, *examples: Any, **more: Any) -> Any:
    """Declare a key of a section that has no default."""
    return Field(..., description=description, examples=list(examples) or None, **more)
