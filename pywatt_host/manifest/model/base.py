"""What every section of the manifest has in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_plain_validator_function

_DISABLE_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


class Section(BaseModel):
    """A closed, frozen mapping of the manifest: an unknown key is a fault, values are taken strictly."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, defer_build=True, populate_by_name=False, protected_namespaces=()
    )


@dataclass(frozen=True, slots=True)
class Short:
    """How a section may be written short.

    `text` names the key that a text stands for. `flag` names the key that a bool stands for; a text or a mapping then
    sets it to true as well, since writing the section at all switches it on. `names` names the key, a mapping by name,
    whose names a list gives. `items` names the key, a list, that a list stands for.
    """

    text: str | None = None
    flag: str | None = None
    names: str | None = None
    items: str | None = None


class Names:
    """Marks a mapping of sections for which a list of their names may stand, each with nothing said about it."""


class Placeholders:
    """Marks texts in which `${name}`, for these names, is no variable of the environment: who uses the text fills it
    in."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Deferred:
    """Marks a rare section, whose validator is built only where a document has it: most have not, and building takes
    longer than all else that is done with a small one."""

    def __get_pydantic_core_schema__(self, source: type[Section], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any) -> Section:
            if isinstance(value, source):
                return value
            complete(source)
            return source.model_validate(value)

        return no_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object"}  # the writer of the schema asks the section itself


def complete(model: type[Section]) -> None:
    """Build the validator of a section, if that has not been done.

    pydantic looks through every installed distribution for plugins of its own before it builds the first one. None of
    them has business with a manifest, and the search costs more than the building.
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
    """A key of a section: its default, what it is for, and values to show in editors."""
    if isinstance(default, type) and issubclass(default, Section):
        # Its defaults are right, and validating them would build a validator of its own for every section at start.
        default = default.model_construct
    if callable(default):
        return Field(default_factory=default, description=description, examples=list(examples) or None, **more)
    return Field(default, description=description, examples=list(examples) or None, **more)


def required(description: str, *examples: Any, **more: Any) -> Any:
    """A key that has no default."""
    return Field(..., description=description, examples=list(examples) or None, **more)
