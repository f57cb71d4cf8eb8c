"""Where a manifest comes from: a file, a text, or data made in code."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.manifest.problems import Report, near_miss
from pywatt_host.manifest.yaml import document
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, from_data, problem_at

DEFAULT_NAME = "pywatt.yaml"
WORKSPACE_NAME = "wattson.yaml"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a manifest comes from: a file, a text, or data made in code.

    `name` is the name of the source in problems. `directory` is the folder that relative paths in the manifest are
    relative to. `script` is the Python file that made the data.
    """

    name: str
    directory: Path
    path: Path | None = None
    text: str | bytes | None = None
    data: Mapping[str, Any] | None = None
    script: Path | None = None

    @classmethod
    def file(cls, path: str | Path, *, default_name: str = DEFAULT_NAME) -> Source:
        """A file, or a folder that contains a file with the default name. `load` reads the file."""
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
        """The text of a manifest."""
        return cls(name, (directory or Path.cwd()).absolute(), text=text)

    @classmethod
    def of_data(
        cls, data: Mapping[str, Any], *, name: str, directory: Path | None = None, script: Path | None = None
    ) -> Source:
        """A manifest made in code, in the same forms as in a file, but without profiles.

        Its texts are not interpolated. A SecretTemplate may be used in every place where a file may contain
        `${secret:NAME}`.
        """
        return cls(name, (directory or Path.cwd()).absolute(), data=data, script=script)


def read_source(source: Source, default_name: str, report: Report, *, smallest: str = "app: main:app") -> Node | None:
    """Read the tree of a source. None after a fault that leaves no tree. `smallest` is the example in messages."""
    if source.data is not None:
        return from_data(source.data, Origin(source.name, "code"))
    if source.text is not None:
        data = source.text if isinstance(source.text, bytes) else source.text.encode("utf-8", "surrogatepass")
        return document.read(data, source.name, report, smallest=smallest)
    path = source.path or source.directory / default_name
    try:
        with path.open("rb") as file:
            # One byte more than allowed, so that a device or a large file is not read to its end.
            data = file.read(document.MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "the name is not valid"
        missing = isinstance(exc, FileNotFoundError)
        message = "the file does not exist" if missing else f"the file cannot be read: {reason.lower()}"
        hint = _other_names(path) if missing else ""
        report.add(problem_at(Origin(source.name, "code"), Mark(), (), "file", message, hint))
        return None
    return document.read(data, source.name, report, smallest=smallest)


def _other_names(path: Path) -> str:
    """A hint about a file that does not exist: the name, or the other thing, that was probably meant."""
    try:
        files = [each for each in path.parent.iterdir() if each.is_file()]
    except OSError:
        return "the folder does not exist either"
    names = [each.name for each in files if each.suffix in (".yaml", ".yml")]
    if path.name == DEFAULT_NAME and WORKSPACE_NAME in names:
        return f"there is a {WORKSPACE_NAME}, whose modules `pywatt-host up` runs"
    meant = near_miss(path.name, names)
    if meant is not None:
        return f'did you mean "{path.with_name(meant)}"?'
    if path.name == DEFAULT_NAME:
        return "`pywatt-host init` writes one; without a manifest, name the application, such as main:app"
    module = _module_of(path)
    if module is not None:
        return f'did you mean the application in a module, such as "{module}"?'
    return "give the path of the manifest, or of its folder"


def _module_of(path: Path) -> str | None:
    """`main:app` for `main`, if there is a module of this name; a name with dots is a module, or one with its
    attribute."""
    name = str(path)
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        return None
    found = Path(name.replace(".", "/"))
    if found.with_name(f"{found.name}.py").is_file() or (found / "__init__.py").is_file():
        return f"{name}:app"
    module, _, attribute = name.rpartition(".")
    if module and Path(module.replace(".", "/") + ".py").is_file():
        return f"{module}:{attribute}"
    return None
