"""PyWatt SDK for Python: another name for `pywatt_host`, with the same names in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pywatt_host

if TYPE_CHECKING:
    from pywatt_host import *  # noqa: F403  # the one line that says it for type checkers
else:
    __all__ = pywatt_host.__all__

    def __getattr__(name: str) -> Any:
        return getattr(pywatt_host, name)
