"""The folder that a relative path in a test is relative to: the folder of the test if the path exists there, else
pytest's root folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pywatt_host.manifest.values import IMPORT_PATTERN


def base_folder(target: str, folders: Sequence[Path]) -> Path:
    """The first of the folders that has the target, which is a path or `module:attribute`. The last folder if none
    has it."""
    names = [target]
    if re.match(IMPORT_PATTERN, target):
        top = target.partition(":")[0].partition(".")[0]
        names += [f"{top}.py", top]
    return next((folder for folder in folders if any((folder / name).exists() for name in names)), folders[-1])
