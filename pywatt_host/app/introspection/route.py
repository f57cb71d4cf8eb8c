"""One row of an application's own route table, and recognising the classes of frameworks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

ANY = ("*",)


@dataclass(frozen=True, slots=True)
class Route:
    """A path that the application answers, in the form of an endpoint of the manifest.

    `path` is `/users/{id}` or `/files/{rest:path}`. It matches every path that the framework's own pattern matches, and
    sometimes more: a template has no constraints such as "digits only". `methods` is sorted and upper-case. It has the
    methods that the application declares, without the HEAD and OPTIONS that a framework adds by itself; `WEBSOCKET` for
    a WebSocket, `*` for every method. `name` is the framework's name of the handler, where it has one. With `options`,
    the framework answers OPTIONS by itself. With `slashes`, it redirects the path with, or without, a slash at its end
    to this one, if no other route has that path.
    """

    path: str
    methods: tuple[str, ...]
    name: str = ""
    options: bool = False
    slashes: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Why an application answers paths that are in none of its rows: certainly, or perhaps."""

    text: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The rows of an application and of those that it contains, and why there are or may be further ones."""

    routes: list[Route]
    notes: tuple[Note, ...] = ()


# The routes of an application inside another one; None where they cannot be read.
RoutesOf: TypeAlias = Callable[[Any], list[Route] | None]


def methods_of(methods: Iterable[str] | None) -> tuple[str, ...]:
    """The methods sorted and in upper case; without any, `*`."""
    return tuple(sorted(method.upper() for method in methods)) if methods else ANY


def is_a(value: Any, package: str, *names: str) -> bool:
    """Whether the class of `value`, or one of its base classes, is one of `names` from `package`.

    Classes are compared by name, so that no framework is imported for it.
    """
    return is_a_class(type(value), package, *names)


def is_a_class(cls: Any, package: str, *names: str) -> bool:
    """The same for a class; False for what is none."""
    bases = cls.__mro__ if isinstance(cls, type) else ()
    return any(base.__name__ in names and base.__module__.partition(".")[0] == package for base in bases)
