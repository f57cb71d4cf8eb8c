"""The types that options of our own derive from. To older versions of click, `ParamType` is not generic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import click

if TYPE_CHECKING:
    FloatType: TypeAlias = click.ParamType[float]
    PatternType: TypeAlias = click.ParamType[re.Pattern[str]]
else:
    FloatType = PatternType = click.ParamType
