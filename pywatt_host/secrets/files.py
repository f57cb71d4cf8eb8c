"""Secrets in files: a folder with one file for each, as Kubernetes and Docker mount them, and one file with many."""

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
_MOST_FILES = 10_000  # that are looked at for changes


class DirectorySource:
    """One file for each secret, named as it is. Links are followed: Kubernetes swaps all files at once by one link."""

    watched = True

    def __init__(self, path: Path, shown: str) -> None:
        self.label = f"directory {shown}"
        self._path = path

    async def get(self, name: str) -> str | None:
        return await asyncio.to_thread(self._get, name)

    def _get(self, name: str) -> str | None:
        if name.startswith(".") or "/" in name or "\0" in name:
            raise SecretError(f"{name[:60]!r} is not the name of a file in {self.label}")
        text = read_text(self._path / name, f"{self.label}/{name}")
        return None if text is None else without_last_newline(text)

    def identity(self) -> object:
        """The folder, Kubernetes' `..data` link and every file."""
        try:
            with os.scandir(self._path) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError:
            return None
        return (
            stat_of(self._path / "..data"),
            tuple((name, stat_of(self._path / name)) for name in names[:_MOST_FILES]),
        )


class FileSource:
    """A mapping of names and values as YAML or JSON, which nobody but its owner may read. Every value is a text, as it
    is written: `0123` and `no` stay what they are."""

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


_SHAPE = "is not a mapping of names to single values"


def _mapping(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"has {name[:60]!r} twice")
        values[name] = value
    return values


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, duplicates and all."""


def _json_pairs(text: str) -> list[tuple[str, str]] | None:
    """None where it is no JSON: it may be YAML still, which takes braces as well."""
    try:
        found = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    words = {True: "true", False: "false", None: "null"}
    if any(isinstance(value, list) for _, value in found):
        raise ValueError(_SHAPE)
    return [(name, value if isinstance(value, str) else words[value]) for name, value in found]


def _yaml_pairs(text: str) -> list[tuple[str, str]]:
    """Events and no tree: whatever nests, or is to be followed, ends it at once. Raises YAMLError and ValueError."""
    secret_values: list[str] = []
    began, documents = False, 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.MappingStartEvent) and not began:
            began = True
        elif isinstance(event, yaml.ScalarEvent) and (began or not event.value):  # an empty file is an empty scalar
            secret_values.append(event.value)
        elif isinstance(event, yaml.NodeEvent) or documents > 1:
            raise ValueError(_SHAPE)
        documents += isinstance(event, yaml.DocumentStartEvent)
    return list(zip(secret_values[::2], secret_values[1::2], strict=True)) if began else []
