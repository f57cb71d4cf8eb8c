"""Secrets in files: a directory with one file per secret, as Kubernetes mounts them, or one file with many secrets."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pywatt_host.exceptions import SecretError
from pywatt_host.secrets.source import read_text, stat_of, without_last_newline

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_MAX_WATCHED_FILES = 10_000


class DirectorySource:
    """Reads one file per secret; the file's name is the secret's name.

    Symbolic links are followed, because Kubernetes replaces all files at once by changing one link.
    """

    watched = True

    def __init__(self, path: Path, shown: str) -> None:
        self.label = f"directory {shown}"
        self._path = path

    async def get(self, name: str) -> str | None:
        return await asyncio.to_thread(self._get, name)

    def _get(self, name: str) -> str | None:
        if name.startswith(".") or "/" in name or "\0" in name:
            raise SecretError(f"{name[:60]!r} is not a valid file name in {self.label}")
        text = read_text(self._path / name, f"{self.label}/{name}")
        return None if text is None else without_last_newline(text)

    def identity(self) -> object:
        """The state of every file in the directory, and of the `..data` link that Kubernetes makes."""
        try:
            with os.scandir(self._path) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError:
            return None
        return (
            stat_of(self._path / "..data"),
            tuple((name, stat_of(self._path / name)) for name in names[:_MAX_WATCHED_FILES]),
        )


class FileSource:
    """Reads a YAML or JSON file that maps names to values. Only the file's owner may have access to it.

    Every value is text, exactly as the file spells it: `0123` and `no` stay as they are.
    """

    watched = True

    def __init__(self, path: Path, shown: str) -> None:
        self.label = f"file {shown}"
        self._path = path

    async def get(self, name: str) -> str | None:
        return (await asyncio.to_thread(self._values)).get(name)

    def identity(self) -> object:
        return stat_of(self._path)

    def _values(self) -> dict[str, str]:
        text = read_text(self._path, self.label, private=True)
        if text is None:
            return {}
        try:
            pairs = _json_pairs(text) if text.lstrip().startswith("{") else None
            return _mapping(_yaml_pairs(text) if pairs is None else pairs)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark is not None else ""
            raise SecretError(f"{self.label} is not YAML or JSON{where}") from None
        except ValueError as error:
            raise SecretError(f"{self.label} {error}") from None


_WRONG_SHAPE = "is not a mapping of names to single values"


def _mapping(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"has {name[:60]!r} twice")
        values[name] = value
    return values


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, duplicates included."""


def _json_pairs(text: str) -> list[tuple[str, str]] | None:
    """Return the members, or None if the text is not JSON: it may still be YAML, which allows braces too.

    Raises ValueError if a value is not a single value.
    """
    try:
        found = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    words = {True: "true", False: "false", None: "null"}
    if any(isinstance(value, list) for _, value in found):
        raise ValueError(_WRONG_SHAPE)
    return [(name, value if isinstance(value, str) else words[value]) for name, value in found]


def _yaml_pairs(text: str) -> list[tuple[str, str]]:
    """Return the members of a flat mapping.

    The parser's events are read without building a tree, so that nested values and aliases are refused as soon as they
    appear. Raises YAMLError and ValueError.
    """
    scalars: list[str] = []
    began, documents = False, 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent) and not began:
            began = True
        elif isinstance(event, yaml.ScalarEvent) and (began or not event.value):  # an empty file is an empty scalar
            scalars.append(event.value)
        elif isinstance(event, yaml.NodeEvent) or documents > 1:
            raise ValueError(_WRONG_SHAPE)
        documents += isinstance(event, yaml.DocumentStartEvent)
    return list(zip(scalars[::2], scalars[1::2], strict=True)) if began else []
