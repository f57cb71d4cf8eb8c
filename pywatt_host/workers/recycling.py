"""TEMPORARY"""

from typing import Any


class Usage:
    def __init__(self, *a: Any) -> None: ...


class Recycling:
    def due(self, s: Any, u: Any) -> Any:
        return None
