"""A manifest around an application that exists: its routes as endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pywatt_host.app.route_report import RouteRow
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.names import METHODS
from pywatt_host.scaffold.templates import render, schema_text, yaml_text

_LONGEST_SUMMARY = 80
_LISTED = "endpoints: # these and nothing else: any other path is 404 before the app"
_AUTO = "endpoints: auto # the app's own routes, open to everyone; a list of paths would be these and nothing else"


@dataclass(frozen=True, slots=True)
class Adopted:
    """File name to text; how many endpoints the manifest lists (0: `endpoints: auto`), and why it lists none although
    there are routes; what is to be known of the manifest beforehand."""

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
        # A method that no manifest can name is among all of them.
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
        if 0 < len(summary) <= _LONGEST_SUMMARY:
            keys.append(f"summary: {yaml_text(summary)}")
        return f"  - {{{', '.join(keys)}}} # open to everyone"

    def _written(self) -> list[str]:
        """Without those that others bring along: all of HTTP is in `*`, HEAD comes with GET."""
        kept = self.methods & {"*", "WEBSOCKET"} if "*" in self.methods else self.methods
        return [method for method in METHODS if method in kept and not (method == "HEAD" and "GET" in kept)]


def adopt(import_path: str, working_dir: str, module_id: str, rows: Sequence[RouteRow]) -> Adopted:
    """A manifest that lists the application's routes, with schema and test. `working_dir` is relative to the folder of
    the manifest. Without rows, or where no manifest can say one of them, it leaves the routes to the application."""
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
        place = f"  working_dir: {yaml_text(working_dir)} # the folder that has the module"
        app = f"app:\n  import_path: {import_path} # module:attribute\n{place}"
    files = {
        "pywatt.yaml": render("common", "adopted.yaml", id=yaml_text(module_id), app=app, endpoints=listed),
        "pywatt.schema.json": schema_text(),
        "test_pywatt.py": render("common", "adopted_test.py", paths=_paths(endpoints)),
    }
    return Adopted(files, len(endpoints), unsayable, warnings)


def _endpoints(rows: Iterable[RouteRow]) -> list[_Endpoint]:
    """One for each shape of path: templates that differ in the names of their parameters fit the same requests."""
    found: dict[str, _Endpoint] = {}
    for row in rows:
        shape = re.sub(r"\{\w+(:path)?\}", r"{\1}", row.path)
        found.setdefault(shape, _Endpoint(row.path)).add(row)
    return list(found.values())


def _paths(endpoints: Iterable[_Endpoint]) -> str:
    """What the test asks for; the root where nothing else is known to answer to GET."""
    found = [each.path for each in endpoints if "{" not in each.path and {"GET", "*"} & set(each.methods)]
    return "\n".join(f"    {json.dumps(path, ensure_ascii=False)}," for path in found or ["/"])


def _sentence(name: str) -> str:
    """The name of a handler as a summary: `users.read_item` is "Read item"."""
    words = re.split(r"[.:]", name)[-1].replace("_", " ").replace("-", " ").split()
    text = " ".join(words)
    return text[:1].upper() + text[1:] if re.fullmatch(r"[\w ]+", text) else ""
