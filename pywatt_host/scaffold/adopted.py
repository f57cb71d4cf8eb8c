"""A manifest for an existing application, with its routes as endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pywatt_host.app.route_report import RouteRow, sample_path
from pywatt_host.exceptions import ManifestError
from pywatt_host.http.endpoints import Table
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.names import METHODS
from pywatt_host.manifest.values.paths import other_spelling
from pywatt_host.scaffold.templates import render, schema_address, schema_files, yaml_text

_MAX_SUMMARY = 80  # characters
_LISTED = "endpoints: # only these are served; other paths get 404, and the app does not see them"
_REDIRECTED = "  # The app redirects these to the paths above."
_AUTO = "endpoints: auto # all paths of the app, without authentication"
_RULES = """endpoints:
  from: auto # all paths of the app, without authentication; `auth: NAME` here is for all of them
  rules: # what is known of them; `auth: NAME` in a rule is for its path"""
_MOST_RULES = 100


@dataclass(frozen=True, slots=True)
class Adopted:
    """The files by name. `endpoints` is how many endpoints the manifest lists; 0 means `endpoints: auto`. `unsayable`
    is the reason why the manifest lists none although the application has routes. `warnings` are those of the
    manifest. `requests` are the paths, each with its methods, that the host has to let through."""

    files: Mapping[str, str]
    endpoints: int
    unsayable: str
    warnings: tuple[str, ...]
    requests: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(slots=True)
class _Endpoint:
    path: str
    methods: set[str] = field(default_factory=set)
    summaries: list[str] = field(default_factory=list)
    redirected: bool = False  # the framework redirects the other spelling of the path, with or without a slash, to it

    def add(self, row: RouteRow) -> None:
        # `*` includes methods that a manifest cannot name.
        self.methods |= set(row.methods) if set(row.methods) <= set(METHODS) else {"*"}
        self.methods |= {"OPTIONS"} if row.options else set()
        self.redirected |= row.slashes
        summary = _sentence(row.name)
        if summary and summary not in self.summaries:
            self.summaries.append(summary)

    def line(self) -> str:
        return f"  - {self._mapping()} # no authentication"

    def rule(self) -> str:
        """The same as a rule, which is for all methods of the path."""
        return f"    - {self._mapping(all_methods=True)}"

    def _mapping(self, *, all_methods: bool = False) -> str:
        keys = [f"path: {yaml_text(self.path)}"]
        methods = self._written()
        if methods != ["GET"] and not all_methods:
            keys.append(f"methods: [{', '.join(yaml_text(method) for method in methods)}]")
        summary = "; ".join(self.summaries)
        if 0 < len(summary) <= _MAX_SUMMARY:
            keys.append(f"summary: {yaml_text(summary)}")
        return f"{{{', '.join(keys)}}}"

    def _written(self) -> list[str]:
        """The methods to write: `*` includes all methods, and GET includes HEAD."""
        kept = {"*"} if "*" in self.methods else self.methods
        return [method for method in METHODS if method in kept and not (method == "HEAD" and "GET" in kept)]


def adopt(
    import_path: str,
    working_dir: str,
    module_id: str,
    rows: Sequence[RouteRow],
    *,
    closed: bool,
    own_schema: bool = False,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> Adopted:
    """A manifest that lists the application's routes, and a test. `working_dir` is relative to the
    folder of the manifest. Without `closed`, the application may have further paths, and the manifest has
    `endpoints: auto` with its routes as rules; it has no list or rules if there are no rows, or if a manifest cannot
    express one of them. `args` are those of the factory."""
    endpoints = _endpoints(row for row in rows if row.state != "partial")
    known = endpoints
    if closed and endpoints:
        redirected = _redirected(endpoints)
        lines = [_LISTED, *(each.line() for each in endpoints)]
        listed = "\n".join([*lines, *([_REDIRECTED] if redirected else []), *(each.line() for each in redirected)])
        known = endpoints + redirected
    else:
        listed = "\n".join([_RULES, *(each.rule() for each in endpoints)])
        listed = listed if 0 < len(endpoints) <= _MOST_RULES else _AUTO
        endpoints = []
    unsayable = ""
    warnings: tuple[str, ...] = ()
    try:
        found = load(Source.of_text(f"app: {import_path}\n{listed}\n"), profile="", environ={})
        warnings = tuple(str(problem) for problem in found.warnings)
    except ManifestError as error:
        unsayable, endpoints, listed = error.problems[0].message if closed else "", [], _AUTO
    app = f"app: {import_path} # module:attribute"
    more = [f"  working_dir: {yaml_text(working_dir)} # the folder of the Python module"] if working_dir != "." else []
    more += [f"  args: {json.dumps(dict(args), ensure_ascii=False)} # of the factory"] if args else []
    if more:
        app = "\n".join(["app:", f"  import_path: {import_path} # module:attribute", *more])
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
    requests = tuple((each.path, tuple(sorted(each.methods))) for each in known)
    return Adopted(files, len(endpoints), unsayable, warnings, requests)


def _redirected(endpoints: Sequence[_Endpoint]) -> list[_Endpoint]:
    """The other spellings, with or without a slash at the end, that the framework redirects to the endpoints."""
    table: Table[None] = Table()
    for each in endpoints:
        table.add(each.path, ("*",), None)
    found = []
    for each in endpoints:
        other = other_spelling(each.path) if each.redirected else None
        if other is not None and table.match(sample_path(other)) is None:
            found.append(_Endpoint(other, each.methods - {"WEBSOCKET"}))
    return [each for each in found if each.methods]


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
