"""Where a manifest comes from: a file, a text, or data made in code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.manifest.problems import Report, near_miss
from pywatt_host.manifest.yaml import document
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, from_data, problem_at

DEFAULT_NAME = "pywatt.yaml"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a manifest comes from: a file, a text, or data made in code.

    `name` is what problems call it. `directory` is what relative paths in it are relative to. `script` is the Python
    file that has made the data.
    """

    name: str
    directory: Path
    path: Path | None = None
    text: str | bytes | None = None
    data: Mapping[str, Any] | None = None
    script: Path | None = None

    @classmethod
    def file(cls, path: str | Path, *, default_name: str = DEFAULT_NAME) -> Source:
        """A file, or a folder with one of the default name in it. It is read by `load`."""
        path = Path(path)
        if os.path.isdir(path):  # unlike Path.is_dir, it takes any name
            path = path / default_name
        return cls(str(path), Path(os.path.abspath(path)).parent, path=path)

    @property
    def absolute_path(self) -> Path | None:
        """The absolute path of the file; None if there is no file."""
        return Path(os.path.abspath(self.path)) if self.path is not None else None

    @classmethod
    def of_text(cls, text: str | bytes, *, name: str = DEFAULT_NAME, directory: Path | None = None) -> Source:
        """A manifest that is in memory."""
        return cls(name, (directory or Path.cwd()).absolute(), text=text)

    @classmethod
    def of_data(
        cls, data: Mapping[str, Any], *, name: str, directory: Path | None = None, script: Path | None = None
    ) -> Source:
        """A manifest made in code, in the forms of the file, without profiles. It is never interpolated, but a
        SecretTemplate may stand where `${secret:NAME}` may."""
        return cls(name, (directory or Path.cwd()).absolute(), data=data, script=script)


def read_source(source: Source, default_name: str, report: Report, *, smallest: str = "app: main:app") -> Node | None:
    """The tree of what the source holds; None after a fault that leaves none. `smallest` is one to show for it."""
    if source.data is not None:
        return from_data(source.data, Origin(source.name, "code"))
    if source.text is not None:
        octets = source.text if isinstance(source.text, bytes) else source.text.encode("utf-8", "surrogatepass")
        return document.read(octets, source.name, report, smallest=smallest)
    path = source.path or source.directory / default_name
    try:
        with path.open("rb") as file:
            # One octet more than allowed, so that a device or a log is not read to its end.
            octets = file.read(document.MAX_OCTETS + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "is not the name of a file"
        missing = isinstance(exc, FileNotFoundError)
        message = "there is no such file" if missing else f"cannot be read: {reason.lower()}"
        hint = _other_names(path) if missing else ""
        report.add(problem_at(Origin(source.name, "code"), Mark(), (), "file", message, hint))
        return None
    return document.read(octets, source.name, report, smallest=smallest)


def _other_names(path: Path) -> str:
    """A file beside the missing one that was probably meant."""
    try:
        names = [each.name for each in path.parent.iterdir() if each.suffix in (".yaml", ".yml") and each.is_file()]
    except OSError:
        return "its folder does not exist either"
    meant = near_miss(path.name, names)
    return f'did you mean "{path.with_name(meant)}"?' if meant else "name the manifest, or its folder"
