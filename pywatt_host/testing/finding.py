"""What a relative path in a test is relative to: the folder of the test, where it is there, else pytest's root."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pywatt_host.manifest.values import IMPORT_PATTERN


def base_of(target: str, places: Sequence[Path]) -> Path:
    """The first of the places that has the target, a path or `module:attribute`; the last where none has."""
    names = [target]
    if re.match(IMPORT_PATTERN, target):
        top = target.partition(":")[0].partition(".")[0]
        names += [f"{top}.py", top]
    return next((place for place in places if any((place / name).exists() for name in names)), places[-1])
