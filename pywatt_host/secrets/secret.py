"""The value of a secret, which only `expose_secret()` shows."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

_MASK = "***"


def _guarded(value: T) -> Callable[[], T]:
    """Hide the value in a closure, where `vars`, `dataclasses` and encoders do not find it."""
    return lambda: value


class Secret(Generic[T]):
    """The value of a secret, protected against being shown or sent by accident.

    `str`, `repr` and `format` show `***`. JSON encoders, pickle, copies and everything that iterates over attributes
    raise TypeError. Two secrets are equal if their values are equal; texts are compared in constant time. A Secret has
    no hash. It is true unless its value is empty.

    A Secret never changes. After a rotation, `get_secret` returns a new one.

    Parameters:
        name: the name of the secret, shown by `repr`
        value: the value: a str, or for other types an int, float, bool, dict or list

    >>> secret = Secret("DATABASE_PASSWORD", "correct horse")
    >>> print(secret, repr(secret), f"password={secret}")
    *** Secret('DATABASE_PASSWORD', ***) password=***
    >>> secret.expose_secret()
    'correct horse'
    >>> secret == Secret("OTHER", "correct horse")
    True
    >>> import json
    >>> json.dumps({"password": secret})
    Traceback (most recent call last):
    ...
    TypeError: Object of type Secret is not JSON serializable
    """

    __slots__ = ("__reveal", "name")

    def __init__(self, name: str, value: T) -> None:
        self.name = name
        self.__reveal = _guarded(value)

    def expose_secret(self) -> T:
        """Return the value itself. Do not keep it longer than you need it.

        >>> Secret("PORT", 5432).expose_secret()
        5432
        """
        return self.__reveal()

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, {_MASK})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return format(_MASK, spec)

    def __eq__(self, other: object) -> bool:
        """Whether both secrets have the same value. Texts are compared in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self.expose_secret(), other.expose_secret()
        if isinstance(mine, str) and isinstance(theirs, str):
            return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))
        return bool(mine == theirs)

    __hash__ = None  # type: ignore[assignment]  # a hash would reveal something about the value

    def __bool__(self) -> bool:
        """Whether the value is true; an empty text is false."""
        return bool(self.expose_secret())

    def __dir__(self) -> list[str]:
        return ["expose_secret", "name"]

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(f"Secret {self.name} cannot be stored or sent. Call expose_secret() where you need its value.")

    __reduce_ex__ = __reduce__ = __getstate__ = __copy__ = __deepcopy__ = __iter__ = _refuse

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # refuses encoders that fall back to vars(object)
        self._refuse()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In pydantic models, validation accepts a Secret unchanged, and serialization raises TypeError."""
        from pydantic_core import core_schema

        def refuse(value: Secret[Any]) -> NoReturn:
            value._refuse()

        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(refuse)
        )
