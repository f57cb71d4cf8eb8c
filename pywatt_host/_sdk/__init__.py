"""PyWatt SDK for Python: the package `pywatt_host` under another name, with the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pywatt_host

if TYPE_CHECKING:
    from pywatt_host import *  # noqa: F403  # for type checkers
else:
    __all__ = pywatt_host.__all__

    def __getattr__(name: str) -> Any:
        return getattr(pywatt_host, name)
