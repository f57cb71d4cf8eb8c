"""`config_schema`: the JSON Schema that the author of a module has written for `config`, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pywatt_host.manifest.problems import KeyPath, Problem, Report, near_miss
from pywatt_host.manifest.schema import json_validator
from pywatt_host.manifest.schema.ecmascript import compiled
from pywatt_host.manifest.schema.ecmascript_parser import PatternError
from pywatt_host.manifest.schema.json_faults import Fault, faults_of, leaves
from pywatt_host.manifest.schema.json_parts import KEYWORDS, parts, pointed
from pywatt_host.manifest.schema.json_validator import TooMuchWorkError, UnknownReferenceError, errors_of
from pywatt_host.manifest.schema.typing import locate
from pywatt_host.manifest.source import Source
from pywatt_host.manifest.values import Interpolated
from pywatt_host.manifest.yaml import document
from pywatt_host.manifest.yaml.node import Node, resolve

KEY = "config_schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_CONFIG = "config"  # the code of a fault of `config`, and its key
_SCHEMA = "config-schema"  # the code of a fault of the schema itself
_SUFFIXES = (".json", ".yaml", ".yml")
_MAX_ROUNDS = 4
_MAX_PATTERNS = 200_000  # the size of all patterns of a schema
_MAX_ELSEWHERE = 500  # schemas that only references lead to
_REFUSED = 5_000  # what a refused pattern counts as


def check_config(tree: Node, source: Source, report: Report, faulted: set[KeyPath]) -> None:
    """Compare `config` in the tree of a manifest with its `config_schema`, and report the faults of both.

    The path of `config_schema` is added to `faulted` if its value is neither a schema nor a name. A value from a
    variable or an override takes the type that the schema asks for, in the tree.
    """
    written = tree.value.get(KEY)
    if written is None or written.unset:
        return
    if not isinstance(written.value, dict | str):
        faulted.add((KEY,))
        message = f"{written.shown()} is neither a schema nor the name of its file"
        report.add(written.problem((KEY,), _SCHEMA, message, "write a mapping, or a path such as config.schema.json"))
        return
    schema = _read(written, source, report)
    if schema is None:
        return
    checks = _Checks(tree, schema, report)
    if checks.schema_is_valid():
        checks.config()


class _Schema:
    """A schema, and the tree that knows where its parts are. `prefix` is the path of the tree in its file."""

    def __init__(self, data: dict[str, Any], node: Node, prefix: KeyPath) -> None:
        self.data = data
        self.node = node
        self.prefix = prefix


def _read(written: Node, source: Source, report: Report) -> _Schema | None:
    """The schema in the manifest, or in the file that it names. None after a fault."""
    if isinstance(written.value, dict):
        data: dict[str, Any] = written.plain()
        return _Schema(data, written, (KEY,))

    def fault(message: str, hint: str = "") -> None:
        report.add(written.problem((KEY,), _SCHEMA, message, hint))

    name = str(written.value)
    path = source.directory / name
    shown = str(Path(source.name).parent / name) if source.path is not None else name
    try:
        if not path.is_file():
            fault(f"file not found: {written.shown()}", "the path is relative to the manifest's folder")
            return None
        with path.open("rb") as file:
            raw = file.read(document.MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "the name is not valid"
        fault(f"the file of the schema cannot be read: {reason.lower()}")
        return None
    try:
        parsed = json.loads(raw)
        # YAML allows no tab before a value. In JSON, a tab is a space between values, and never part of one.
        raw = raw.replace(b"\t", b" ")
    except (ValueError, RecursionError):
        parsed = None
    own = Report()
    node = document.read(raw, shown, own, smallest="type: object", kind="schema")
    for problem in own.problems:
        if path.suffix.lower() not in _SUFFIXES:
            # It is probably another file, such as one with secrets, which messages about its syntax would quote.
            message, hint = "this file has no JSON Schema in it", "name a file with a schema, in JSON or YAML"
            problem = Problem(problem.file, problem.line, problem.column, "", _SCHEMA, message, hint)
        report.add(problem if node is not None else replace(problem, source_line=""))
    if node is None or own.problems:
        return None
    return _Schema(parsed if isinstance(parsed, dict) else node.plain(), node, ())


class _Checks:
    """Checks one schema, and one `config` with it."""

    def __init__(self, tree: Node, schema: _Schema, report: Report) -> None:
        self._tree = tree
        self._schema = schema
        self._report = report
        self._schema_is_faulty = False

    # The schema itself ----------------------------------------------------------------------------------------------

    def schema_is_valid(self) -> bool:
        """Report what is wrong with the schema. Whether nothing is."""
        schema = self._schema
        dialect = schema.data.get("$schema", DIALECT)
        if str(dialect).rstrip("#") != DIALECT:
            message = f"{schema.node.value['$schema'].shown()} is not the JSON Schema of draft 2020-12"
            self._at_schema(Fault(("$schema",), message, f"write {DIALECT}, and adapt the schema to it"))
            return False
        try:
            self._check_parts()
        except TooMuchWorkError:
            self._at_schema(Fault((), "the schema is too large or nested too deep", "make it smaller"))
        return not self._schema_is_faulty

    def _check_parts(self) -> None:
        """Check the schema, each schema in it, and those elsewhere in the document that references lead to. Raises
        TooMuchWorkError."""
        schema = self._schema
        whole = list(parts(schema.data, ()))
        identified = {str(part.get("$id", "")) for _, part in whole} - {""}
        seen = {path for path, _ in whole}
        waiting: list[tuple[KeyPath, Any]] = [((), schema.data)]
        checked: set[KeyPath] = set()
        patterns = elsewhere = 0
        while waiting:
            path, data = waiting.pop()
            errors = errors_of(json_validator.META_SCHEMA, data, formats=False)
            for fault in faults_of(errors, lambda below, path=path: locate(schema.node, (*path, *below))[0]):  # type: ignore[misc]
                self._at_schema(replace(fault, path=(*path, *fault.path)))
            for place, part in parts(data, path):
                if place in checked:
                    continue
                checked.add(place)
                seen.add(place)
                patterns += self._patterns(place, part)
                if patterns > _MAX_PATTERNS:
                    raise TooMuchWorkError
                self._references(place, part, identified)
                self._unknown(place, part)
                for target, there in self._targets(part):
                    if target not in seen:
                        seen.add(target)
                        waiting.append((target, there))
                        elsewhere += 1
            if elsewhere > _MAX_ELSEWHERE:
                raise TooMuchWorkError

    def _patterns(self, path: KeyPath, part: dict[str, Any]) -> int:
        """Check the patterns of one schema. Their size."""
        total = 0
        keys = part.get("patternProperties")
        patterns = [((*path, "pattern"), part.get("pattern"), False)]
        patterns += (
            [((*path, "patternProperties", each), each, True) for each in keys] if isinstance(keys, dict) else []
        )
        for place, pattern, is_key in patterns:
            if not isinstance(pattern, str):
                continue
            try:
                total += compiled(pattern).size
            except PatternError as error:
                total += _REFUSED
                self._refuse(place, error, is_key=is_key)
        return total

    def _refuse(self, place: KeyPath, error: PatternError, *, is_key: bool) -> None:
        if error.at is None:
            message, hint = error.message, "write a simpler pattern"
        else:
            message = f"{error.message} (character {error.at + 1})"
            hint = "write it as ECMA-262 has it, the form that editors read"
        self._at_schema(Fault(place, message, hint, is_key=is_key))

    def _references(self, path: KeyPath, part: dict[str, Any], identified: set[str]) -> None:
        for key in ("$ref", "$dynamicRef"):
            reference = part.get(key)
            if isinstance(reference, str) and not self._leads_somewhere(reference, identified):
                outside = "" if reference.startswith("#") else ", and nothing is fetched"
                message = f'"{reference[:80]}" is not a part of the schema{outside}'
                self._at_schema(Fault((*path, key), message, "refer to a part of the same schema: #/$defs/NAME"))

    def _unknown(self, path: KeyPath, part: dict[str, Any]) -> None:
        for key in part:
            meant = None if key in KEYWORDS or key.startswith("x-") else near_miss(key, KEYWORDS)
            if meant is not None:
                message = f"`{key}` is not a keyword of JSON Schema, so it has no effect"
                self._at_schema(Fault((*path, key), message, f'did you mean "{meant}"?', is_key=True), warning=True)

    def _targets(self, part: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """The schemas that the references of one schema lead to by their place, with their paths."""
        for key in ("$ref", "$dynamicRef"):
            reference = part.get(key)
            if isinstance(reference, str) and reference.startswith("#/"):
                path, found = pointed(self._schema.data, unquote(reference[1:]))
                if isinstance(found, dict):
                    yield path, found

    def _leads_somewhere(self, reference: str, identified: set[str]) -> bool:
        address, _, fragment = reference.partition("#")
        if address:
            return address in identified or address == DIALECT
        if fragment and not fragment.startswith("/"):
            names = (part.get(key) for _, part in parts(self._schema.data, ()) for key in ("$anchor", "$dynamicAnchor"))
            return fragment in names
        found = pointed(self._schema.data, unquote(fragment))[1]
        # In a part with an address of its own, the validator knows.
        return isinstance(found, dict | bool) or (found is None and bool(identified))

    def _at_schema(self, fault: Fault, *, warning: bool = False) -> None:
        schema = self._schema
        self._schema_is_faulty = self._schema_is_faulty or not warning
        node, _, real = locate(schema.node, fault.path)
        mark = None
        if fault.is_key and real == fault.path:
            parent, _, _ = locate(schema.node, fault.path[:-1])
            mark, node = (parent.keys or {}).get(str(fault.path[-1])), parent
        path = (*schema.prefix, *fault.path)
        severity = "warning" if warning else "error"
        self._report.add(node.problem(path, _SCHEMA, fault.message, fault.hint, severity=severity, mark=mark))  # type: ignore[arg-type]

    # config ---------------------------------------------------------------------------------------------------------

    def config(self) -> None:
        """Report the faults of `config`, once its values from variables have the types that the schema asks for."""
        _spell(self._tree.value.get(_CONFIG), self._schema.data)
        try:
            errors = self._compared()
        except TooMuchWorkError:
            message = "comparing config with the schema has no end, or takes too long"
            self._at_schema(Fault((), message, "check for a $ref that leads back to itself"))
            return
        except PatternError as error:
            self._refuse((), error, is_key=False)
            return
        except UnknownReferenceError as error:
            message = f'"{error.reference[:80]}" is not a part of the schema'
            self._at_schema(Fault((), message, "refer to a part of the same schema: #/$defs/NAME"))
            return
        for fault in faults_of(errors, self._node_at):
            self._add(fault)

    def _compared(self) -> list[Any]:
        tried: set[KeyPath] = set()
        errors: list[Any] = []
        for _ in range(_MAX_ROUNDS):
            node = self._tree.value.get(_CONFIG)
            errors = errors_of(self._schema.data, node.plain() if node is not None else {})
            places = {tuple(each.absolute_path) for error in errors for each in leaves(error) if _is_of_type(each)}
            changed = [path for path in places - tried if self._take_other_type(path)]
            tried |= places
            if not changed:
                break
        return errors

    def _take_other_type(self, path: KeyPath) -> bool:
        """Give a value from a variable or an override its other type: what YAML makes of the text, or the text."""
        node = self._node_at(path)
        if node is None or not path or isinstance(node.value, dict | list):
            return False
        value = node.value
        if node.template is not None and isinstance(value, Interpolated):
            other = _of_yaml(value)
        elif node.origin.override and node.text is not None and not isinstance(value, str):
            other = node.text
        else:
            return False
        if other is None or (type(other) is type(value) and other == value) or isinstance(other, Interpolated):
            return False
        parent, _, _ = locate(self._tree, (_CONFIG, *path[:-1]))
        copy = Node(other, node.mark, node.origin, text=node.text, template=node.template)
        parent.value[path[-1]] = copy
        return True

    def _node_at(self, path: KeyPath) -> Node | None:
        if _CONFIG not in self._tree.value:
            return None
        node, _, real = locate(self._tree, (_CONFIG, *path))
        return node if len(real) == len(path) + 1 else None

    def _add(self, fault: Fault) -> None:
        path: KeyPath = (_CONFIG, *fault.path)
        node, _, real = locate(self._tree, path)
        if _has_unset(node):
            return  # what the variable has would decide
        mark = None
        if fault.is_key and real == path:
            parent, _, _ = locate(self._tree, path[:-1])
            mark = (parent.keys or {}).get(str(path[-1]))
        if not real:  # there is no `config`
            mark = (self._tree.keys or {}).get(KEY)
        self._report.add(node.problem(path, _CONFIG, fault.message, fault.hint, mark=mark))


def _spell(node: Node | None, schema: Any) -> None:
    """Give a key from an environment variable the spelling that the schema has: names of variables are upper case."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if node is None or not isinstance(node.value, dict) or not isinstance(properties, dict):
        return
    for key in [key for key, item in node.value.items() if item.origin.kind == "environment" and key not in properties]:
        alike = [name for name in properties if name.lower() == key.lower() and name not in node.value]
        if len(alike) == 1:
            node.value[alike[0]] = node.value.pop(key)
    for key, item in node.value.items():
        _spell(item, properties.get(key))


def _is_of_type(error: Any) -> bool:
    return error.validator in ("type", "enum", "const")


def _of_yaml(text: str) -> Any:
    try:
        return resolve(str(text))
    except ValueError:  # a number that JSON cannot represent
        return None


def _has_unset(node: Node) -> bool:
    if isinstance(node.value, dict):
        return any(_has_unset(item) for item in node.value.values())
    if isinstance(node.value, list):
        return any(_has_unset(item) for item in node.value)
    return node.unset
