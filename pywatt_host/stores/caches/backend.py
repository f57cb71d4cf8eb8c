"""The interface of the kinds of cache: values as bytes, by key."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pywatt_host.exceptions import StoreError

P = ParamSpec("P")
T = TypeVar("T")


class CacheBackend(Protocol):
    """Stores bytes by key, on one server or in the memory of this process.

    `shared` is true if other processes see the values. A time to live is in seconds; None means for ever. Every method
    raises StoreError, and no other exception of a driver. A call that is cancelled leaves nothing behind.
    """

    kind: str
    shared: bool

    async def open(self) -> None:
        """Connect. Raises StoreError if that fails; it may then be called again."""

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set(self, key: str, value: bytes, ttl: float | None) -> None: ...

    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None: ...

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        """Set the value only if the key does not exist; return whether it was set."""

    async def delete(self, keys: Sequence[str]) -> int: ...

    async def exists(self, key: str) -> bool: ...

    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        """Add to the number atomically. A key that does not exist counts as 0; only then `ttl` is set."""

    async def release(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value."""

    async def clear(self, prefix: str) -> None:
        """Delete every key that begins with `prefix`."""

    def sizes(self) -> Mapping[str, float]:
        """Return what the gauges show, by name."""


class _DriverBackend(Protocol):
    def error(self, error: BaseException) -> StoreError:
        """Return the StoreError for an exception of the driver."""


B = TypeVar("B", bound=_DriverBackend)


def translating(
    *driver_errors: type[BaseException],
) -> Callable[
    [Callable[Concatenate[B, P], Coroutine[Any, Any, T]]], Callable[Concatenate[B, P], Coroutine[Any, Any, T]]
]:
    """Decorate a method of a backend so that exceptions of its driver become StoreError."""

    def decorate(
        method: Callable[Concatenate[B, P], Coroutine[Any, Any, T]],
    ) -> Callable[Concatenate[B, P], Coroutine[Any, Any, T]]:
        @wraps(method)
        async def run(self: B, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await method(self, *args, **kwargs)
            except driver_errors as error:
                raise self.error(error) from error

        return run  # type: ignore[return-value]  # mypy takes what `wraps` returns for a type of its own

    return decorate
