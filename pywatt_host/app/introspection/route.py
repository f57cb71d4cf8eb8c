"""One row of an application's own routing table, and how a framework's classes are told by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ANY = ("*",)


@dataclass(frozen=True, slots=True)
class Route:
    """A path that the application answers, as an endpoint of the manifest would say it.

    `path` is `/users/{id}` or `/files/{rest:path}` and matches every path that the framework's own pattern matches,
    sometimes more (a constraint such as "digits only" cannot be said). `methods` is sorted and upper-case: what the
    application declares, without the HEAD and OPTIONS that a framework adds by itself; `WEBSOCKET` for a web socket,
    `*` where everything is taken. `name` is the framework's name of the handler, if it has one.
    """

    path: str
    methods: tuple[str, ...]
    name: str = ""


def methods_of(methods: Iterable[str] | None) -> tuple[str, ...]:
    """Sorted and upper-case; none at all means every method."""
    return tuple(sorted(method.upper() for method in methods)) if methods else ANY


def is_a(value: Any, package: str, *names: str) -> bool:
    """Whether the class of `value`, or one it descends from, is one of `names` and from `package`.

    By name, so that no framework is imported to ask about it.
    """
    return any(cls.__name__ in names and cls.__module__.partition(".")[0] == package for cls in type(value).__mro__)
