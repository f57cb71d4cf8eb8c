"""A manifest for an existing application, with its routes as endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pywatt_host.app.route_report import RouteRow
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.names import METHODS
from pywatt_host.scaffold.templates import render, schema_address, schema_files, yaml_text

_MAX_SUMMARY = 80  # characters
_LISTED = "endpoints: # only these are served; other paths get 404, and the app does not see them"
_AUTO = "endpoints: auto # all routes of the app, without authentication; list paths here to serve only those"


@dataclass(frozen=True, slots=True)
class Adopted:
    """The files by name. `endpoints` is how many endpoints the manifest lists; 0 means `endpoints: auto`. `unsayable`
    is the reason why the manifest lists none although the application has routes. `warnings` are those of the
    manifest."""

    files: Mapping[str, str]
    endpoints: int
    unsayable: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Endpoint:
    path: str
    methods: set[str] = field(default_factory=set)
    summaries: list[str] = field(default_factory=list)

    def add(self, row: RouteRow) -> None:
        # `*` includes methods that a manifest cannot name.
        self.methods |= set(row.methods) if set(row.methods) <= set(METHODS) else {"*"}
        summary = _sentence(row.name)
        if summary and summary not in self.summaries:
            self.summaries.append(summary)

    def line(self) -> str:
        keys = [f"path: {yaml_text(self.path)}"]
        methods = self._written()
        if methods != ["GET"]:
            keys.append(f"methods: [{', '.join(yaml_text(method) for method in methods)}]")
        summary = "; ".join(self.summaries)
        if 0 < len(summary) <= _MAX_SUMMARY:
            keys.append(f"summary: {yaml_text(summary)}")
        return f"  - {{{', '.join(keys)}}} # no authentication"

    def _written(self) -> list[str]:
        """The methods to write: `*` includes all HTTP methods, and GET includes HEAD."""
        kept = self.methods & {"*", "WEBSOCKET"} if "*" in self.methods else self.methods
        return [method for method in METHODS if method in kept and not (method == "HEAD" and "GET" in kept)]


def adopt(
    import_path: str, working_dir: str, module_id: str, rows: Sequence[RouteRow], *, own_schema: bool = False
) -> Adopted:
    """A manifest that lists the application's routes, and a test. `working_dir` is relative to the
    folder of the manifest. The manifest has `endpoints: auto` if there are no rows, or if a manifest cannot express one
    of them."""
    endpoints = _endpoints(rows)
    listed = "\n".join([_LISTED, *(each.line() for each in endpoints)]) if endpoints else _AUTO
    unsayable = ""
    warnings: tuple[str, ...] = ()
    try:
        found = load(Source.of_text(f"app: {import_path}\n{listed}\n"), profile="", environ={})
        warnings = tuple(str(problem) for problem in found.warnings)
    except ManifestError as error:
        unsayable, endpoints, listed = error.problems[0].message, [], _AUTO
    app = f"app: {import_path} # module:attribute"
    if working_dir != ".":
        place = f"  working_dir: {yaml_text(working_dir)} # the folder of the Python module"
        app = f"app:\n  import_path: {import_path} # module:attribute\n{place}"
    files = {
        "pywatt.yaml": render(
            "common",
            "adopted.yaml",
            schema=schema_address(own_schema=own_schema),
            id=yaml_text(module_id),
            app=app,
            endpoints=listed,
        ),
        **schema_files(own_schema=own_schema),
        "test_pywatt.py": render("common", "adopted_test.py", paths=_paths(endpoints)),
    }
    return Adopted(files, len(endpoints), unsayable, warnings)


def _endpoints(rows: Iterable[RouteRow]) -> list[_Endpoint]:
    """One endpoint for each shape of path: two paths that differ only in the names of parameters match the same
    requests."""
    found: dict[str, _Endpoint] = {}
    for row in rows:
        shape = re.sub(r"\{\w+(:path)?\}", r"{\1}", row.path)
        found.setdefault(shape, _Endpoint(row.path)).add(row)
    return list(found.values())


def _paths(endpoints: Iterable[_Endpoint]) -> str:
    """The paths that the test requests; the root path if no path is known to answer GET."""
    found = [each.path for each in endpoints if "{" not in each.path and {"GET", "*"} & set(each.methods)]
    return "\n".join(f"    {json.dumps(path, ensure_ascii=False)}," for path in found or ["/"])


def _sentence(name: str) -> str:
    """The name of a handler as a summary: "Read item" for `users.read_item`."""
    words = re.split(r"[.:]", name)[-1].replace("_", " ").replace("-", " ").split()
    text = " ".join(words)
    return text[:1].upper() + text[1:] if re.fullmatch(r"[\w ]+", text) else ""
