"""Which changes of files restart the host under `dev`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model import DirectoryMount

_IGNORED_FOLDERS = frozenset(
    ("__pycache__", "node_modules", "venv", "site-packages", "logs", "htmlcov")
)  # and every folder whose name begins with a dot
# Files that running programs, databases and editors write. Of files whose name begins with a dot, only `.env` counts.
_IGNORED_NAMES = (
    *("*.log", "*.log.*", "*.pid", "*.sock", "*.pyc", "*.pyo", "*.tmp", "*.md", "*.rst"),
    *("*.db", "*.db-*", "*.sqlite", "*.sqlite-*", "*.sqlite3", "*.sqlite3-*", "*.rdb", "*.aof"),
    *("*~", "*.swp", "*.swx", "*.bak", "*.orig", "#*#", "4913", "*.___jb_*"),
)
_TEMPLATES = frozenset((".html", ".htm", ".xhtml", ".jinja", ".jinja2", ".j2", ".mako"))
_STATIC = frozenset(
    (
        *(".css", ".scss", ".less", ".js", ".mjs", ".map", ".ts", ".tsx", ".jsx", ".vue", ".wasm", ".webmanifest"),
        *(".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".ico", ".mp3", ".mp4", ".webm", ".pdf"),
        *(".woff", ".woff2", ".ttf", ".otf", ".eot"),
    )
)


@dataclass(frozen=True, slots=True)
class WatchedFiles:
    """The files whose changes restart the host. All paths are absolute.

    `folders` are watched with everything below them; `files` count whatever their names are. Files below `static` are
    served as they are, so their changes need no restart. `ignored` has the user's patterns, for a name or for a path
    relative to the folder. With `templates`, changes of templates count too, since the framework keeps them in memory.
    """

    folders: tuple[Path, ...]
    files: frozenset[Path] = frozenset()
    static: tuple[Path, ...] = ()
    ignored: tuple[str, ...] = ()
    templates: bool = False

    def roots(self) -> tuple[Path, ...]:
        """The folders and files to watch. All of them exist, and none is below another."""
        existing = sorted(
            {path for path in (*self.folders, *self.files) if path.exists()}, key=lambda path: len(path.parts)
        )
        found: list[Path] = []
        for path in existing:
            if not any(path.is_relative_to(root) for root in found):
                found.append(path)
        return tuple(found)

    def restarts(self, path: Path) -> bool:
        """Whether a change of this file restarts the host."""
        if path in self.files:
            return True
        folders = [folder for folder in self.folders if path.is_relative_to(folder)]
        if not folders:
            return False
        inside = path.relative_to(max(folders, key=lambda folder: len(folder.parts)))
        if not inside.parts:
            return False
        *parents, name = inside.parts
        if any(part in _IGNORED_FOLDERS for part in inside.parts) or any(part.startswith(".") for part in parents):
            return False
        if name.startswith(".") and name != ".env" and not name.startswith(".env."):
            return False
        if any(fnmatch(name, pattern) for pattern in _IGNORED_NAMES):
            return False
        if any(fnmatch(name, pattern) or fnmatch(inside.as_posix(), pattern) for pattern in self.ignored):
            return False
        return path.suffix == ".py" or not self._needs_no_restart(path, parents)

    def _needs_no_restart(self, path: Path, parents: Iterable[str]) -> bool:
        if any(path.is_relative_to(folder) for folder in self.static) or "static" in parents:
            return True
        if path.suffix in _TEMPLATES or "templates" in parents:
            return not self.templates
        return path.suffix in _STATIC


def watched_files(
    manifest: Manifest, *, env_file: Path | None = None, ignored: tuple[str, ...] = (), templates: bool = False
) -> WatchedFiles:
    """The files that a manifest depends on: its folder, each application's working directory, the manifest itself,
    the schema of its `config`, and the dotenv file."""
    applications = [each for each in (manifest.app, *manifest.mounts) if each is not None]
    working = [manifest.resolve(each.working_dir) for each in applications if not isinstance(each, DirectoryMount)]
    static = [manifest.resolve(each.directory) for each in applications if isinstance(each, DirectoryMount)]
    schema = manifest.resolve(manifest.config_schema) if isinstance(manifest.config_schema, str) else None
    files = [path for path in (manifest.source, env_file, schema) if path is not None]
    return WatchedFiles(
        folders=tuple(dict.fromkeys(_real(path) for path in (manifest.directory, *working))),
        files=frozenset(_real(path) for path in files),
        static=tuple(_real(path) for path in static),
        ignored=ignored,
        templates=templates,
    )


def _real(path: Path) -> Path:
    """The path as changes are reported: absolute, without symbolic links in its folders. A file that is itself a link
    keeps its name."""
    return Path(os.path.realpath(path.parent)) / path.name if not path.is_dir() else Path(os.path.realpath(path))


def describe(paths: Iterable[Path], relative_to: Path) -> str:
    """Describe changed files: `main.py`, or `main.py and 2 more`. Python files come first; paths are relative to the
    folder if they are in it."""
    ordered = sorted(paths, key=lambda path: (path.suffix != ".py", path))
    first = ordered[0]
    shown = first.relative_to(relative_to) if first.is_relative_to(relative_to) else first
    return f"{shown}" + (f" and {len(ordered) - 1} more" if len(ordered) > 1 else "")
