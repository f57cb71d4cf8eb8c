"""One value that shows itself only to who asks for it by name: `expose_secret()`."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

_MASK = "***"


def _guarded(value: T) -> Callable[[], T]:
    """The value within a closure, where neither `vars`, `dataclasses` nor an encoder finds it."""
    return lambda: value


class Secret(Generic[T]):
    """A secret as it was at one moment; after a rotation, `get_secret` gives another one.

    Text forms show `***`. JSON, pickle, copies and everything that walks over attributes raise TypeError.
    """

    __slots__ = ("__reveal", "name")

    def __init__(self, name: str, value: T) -> None:
        self.name = name
        self.__reveal = _guarded(value)

    def expose_secret(self) -> T:
        """The value itself. Do not keep it longer than needed."""
        return self.__reveal()

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, {_MASK})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return format(_MASK, spec)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same value, compared in constant time for texts."""
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self.expose_secret(), other.expose_secret()
        if isinstance(mine, str) and isinstance(theirs, str):
            return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))
        return bool(mine == theirs)

    __hash__ = None  # type: ignore[assignment]  # a hash would tell about the value

    def __bool__(self) -> bool:
        """Whether there is anything in it: an empty text is false."""
        return bool(self.expose_secret())

    def __dir__(self) -> list[str]:
        return ["expose_secret", "name"]

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(f"the secret {self.name} is not to be stored or sent; call expose_secret() where it is needed")

    __reduce_ex__ = __reduce__ = __getstate__ = __copy__ = __deepcopy__ = __iter__ = _refuse

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # encoders that fall back to vars(object) are refused
        self._refuse()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In pydantic models: taken as it is; serialising refuses."""
        from pydantic_core import core_schema

        def refuse(value: Secret[Any]) -> NoReturn:
            value._refuse()

        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(refuse)
        )
