"""What every section of the manifest has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A closed, frozen mapping of the manifest: an unknown key is a fault, values are taken strictly."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, defer_build=True, populate_by_name=False, protected_namespaces=()
    )


@dataclass(frozen=True, slots=True)
class Short:
    """How a section may be written short, as one scalar.

    `text` names the key that a text stands for. `flag` names the key that a bool stands for; a text or a mapping then
    sets it to true as well, since writing the section at all switches it on.
    """

    text: str | None = None
    flag: str | None = None


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
