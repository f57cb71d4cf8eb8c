"""Which frames of a stack are the user's own code, and not that of a library."""

from __future__ import annotations

import os
import sysconfig
from functools import lru_cache
from pathlib import Path

import pywatt_host

_LIBRARIES = tuple(
    {
        os.path.realpath(place) + os.sep
        for place in (
            sysconfig.get_path("stdlib"),
            sysconfig.get_path("platstdlib"),
            sysconfig.get_path("purelib"),
            sysconfig.get_path("platlib"),
            Path(pywatt_host.__file__).parent,
        )
    }
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@lru_cache(maxsize=4096)
def is_users_file(name: str) -> bool:
    """Whether a file of code is the user's own: not Python's, not of an installed package, and not ours."""
    if name.startswith("<") or not os.path.isabs(name) or any(part in name for part in _INSTALLED):
        return False
    return not os.path.realpath(name).startswith(_LIBRARIES)


def is_package_file(name: str) -> bool:
    """Whether a file of code is that of an installed package, and not ours."""
    ours = os.fspath(Path(pywatt_host.__file__).parent) + os.sep
    return any(part in name for part in _INSTALLED) and not name.startswith(ours)
