"""What of a document is unknown to its checks, because it is faulty or refers to a variable that is not set."""

from __future__ import annotations

from collections.abc import Iterable

from pywatt_host.manifest.problems import KeyPath
from pywatt_host.manifest.schema.typing import locate
from pywatt_host.manifest.yaml.node import Node


class LeftOut:
    """Tells the checks which values are not known, so that they do not report what follows from another fault.

    `tree` has the place of each value. `paths` are those of the faulty values that the document was made without.
    """

    def __init__(self, tree: Node, paths: Iterable[KeyPath] = ()) -> None:
        self._tree = tree
        self._paths = frozenset(paths)

    def holds(self, path: KeyPath) -> bool:
        """Whether the value at a path is unknown: it, or a value that it is part of, was left out."""
        if any(locate(self._tree, path[:length])[0].unset for length in range(1, len(path) + 1)):
            return True
        if not self._paths:
            return False
        real = self._in_file(path)
        return any(real[:length] in self._paths for length in range(1, len(real) + 1))

    def touches(self, path: KeyPath) -> bool:
        """Whether the value at a path, or a part of it, is unknown."""
        return self.holds(path) or bool(self.parts(path))

    def parts(self, path: KeyPath) -> list[KeyPath]:
        """The paths of the faulty parts of the value at a path, relative to it."""
        real = self._in_file(path) if self._paths else path
        return [each[len(real) :] for each in self._paths if len(each) > len(real) and each[: len(real)] == real]

    def names(self, path: KeyPath) -> list[str]:
        """The names in a mapping whose values are unknown."""
        return sorted({str(part[0]) for part in self.parts(path) if len(part) == 1})

    def _in_file(self, path: KeyPath) -> KeyPath:
        """The path with the positions that the entries of lists have in the file."""
        given = tuple(path)
        for length in range(len(given), 0, -1):
            _, _, real = locate(self._tree, given[:length])
            if len(real) == length:
                return (*real, *given[length:])
        return given
