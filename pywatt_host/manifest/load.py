"""Loads a manifest: reads, interpolates, normalizes, merges layers, types and checks it. Reports all faults at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.checks.manifest import ManifestChecks
from pywatt_host.manifest.layers.interpolation import Variables, interpolate
from pywatt_host.manifest.layers.overrides import Overrides, merge
from pywatt_host.manifest.layers.profiles import active_profile, without_profiles
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.operations import Level
from pywatt_host.manifest.problems import KeyPath, Problem, Report, display_path
from pywatt_host.manifest.schema.dump import dump
from pywatt_host.manifest.schema.normalize import Normalizer, written_secrets
from pywatt_host.manifest.schema.shape import manifest_shape
from pywatt_host.manifest.schema.typing import locate, validate
from pywatt_host.manifest.source import DEFAULT_NAME, Source, read_source
from pywatt_host.manifest.values import TCP_ADDRESS
from pywatt_host.manifest.yaml.node import INIT, Mark, Node, Origin, from_data, problem_at

OVERRIDE_PREFIX = "PYWATT__"


@dataclass(frozen=True, slots=True)
class InitLayer:
    """The values of the orchestrator's init message. They override the file and its profile.

    `listen` is `host:port` or the path of a Unix socket. `env` overrides the environment for `${VAR}`; `PYWATT__`
    variables in it are ignored. An unknown `log_level` is ignored too. `has_token` says whether the message has an
    `auth_token`.
    """

    listen: str | None = None
    module_id: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    log_level: str | None = None
    has_token: bool = False

    def data(self) -> dict[str, Any]:
        """The values in the form of a manifest."""
        said: dict[str, Any] = {}
        if self.listen is not None:
            plain = TCP_ADDRESS.fullmatch(self.listen) or self.listen.startswith("unix:")
            said["server"] = {"listen": self.listen if plain else f"unix:{self.listen}"}
        if self.module_id is not None:
            said["module"] = {"id": self.module_id}
        if self.log_level is not None and self.log_level.lower() in get_args(Level):
            said["logging"] = {"level": self.log_level.lower()}
        return said


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest, its warnings, and the tree that knows where each value came from.

    `unset` has the names of the required variables that are not set, which `allow_unset` accepts.
    """

    manifest: Manifest
    warnings: tuple[Problem, ...]
    document: Node
    unset: frozenset[str] = frozenset()

    def origin(self, path: str | KeyPath) -> str:
        """`pywatt.yaml:3:5`, `profile dev (pywatt.yaml:40:3)`, `PYWATT__SERVER__LISTEN`, `--set` or `default`.

        `path` is a text with dots, or a tuple of its parts, which is required if a key contains a dot.
        """
        parts = parsed_path(path)
        node, _, real = locate(self.document, parts)
        missing = len(real) < len(parts) and isinstance(node.value, dict | list)
        return "default" if missing or (not parts) else node.origin.label(node.mark)

    def node_at(self, path: str | KeyPath) -> tuple[Node, KeyPath]:
        """The node at a path, or the deepest node on the way to it, and its path as the user wrote it.

        `path` has the same forms as for `origin`.
        """
        node, written, _ = locate(self.document, parsed_path(path))
        return node, written

    def origins(self) -> Iterator[tuple[str, Any, str]]:
        """Path, value (a secret as ***) and origin of every value in effect."""
        for path, value in _leaves(dump(self.manifest, masked=True), ()):
            yield display_path(path), value, self.origin(path)


def load_manifest(
    path: str | Path = DEFAULT_NAME,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
) -> Manifest:
    """Load the manifest in a file, or in the pywatt.yaml of a folder.

    `profile` has priority over PYWATT_PROFILE. `overrides` are `a.b=c` as after `--set`. `environ` (default: that of
    the process) has priority over `env_file`. Raises ManifestError with every fault.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pywatt_host import load_manifest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "pywatt.yaml").write_text("app: main:app")
    ...     manifest = load_manifest(folder, overrides=["server.timeouts.request=30s"], environ={})
    >>> manifest.app.import_path, manifest.server.timeouts.request
    ('main:app', 30.0)
    """
    source = Source.file(path)
    return load(source, profile=profile, overrides=overrides, environ=environ, env_file=env_file).manifest


def load(
    source: Source,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    allow_unset: bool = False,
    init: InitLayer | None = None,
) -> Loaded:
    """Load a manifest with its warnings and origins. Raises ManifestError with all faults.

    With `allow_unset`, a variable that is not set is a warning. A string keeps the text `${NAME}`; a key with any other
    type counts as omitted.
    """
    examined = examine(
        source,
        profile=profile,
        overrides=overrides,
        environ=environ,
        env_file=env_file,
        allow_unset=allow_unset,
        init=init,
    )
    if examined.faulty or examined.loaded is None:
        raise ManifestError(examined.problems)
    return examined.loaded


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a manifest, which may be faulty: all problems, and the manifest without the faulty values.

    `loaded` is None if nothing of it can be read. `left_out` has the places of the faulty values.
    """

    problems: tuple[Problem, ...]
    loaded: Loaded | None
    left_out: LeftOut

    @property
    def faulty(self) -> bool:
        """Whether there is an error, and not only warnings."""
        return any(problem.severity == "error" for problem in self.problems)


def examine(
    source: Source,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    allow_unset: bool = False,
    init: InitLayer | None = None,
) -> Examined:
    """Read a manifest as far as it can be read. The parameters are those of `load`. Never raises for its faults.

    The manifest in the result is for further checks, and not for serving: it lacks what is faulty.
    """
    report = Report()
    tree: Node | None = None
    manifest: Manifest | None = None
    left_out: frozenset[KeyPath] = frozenset()
    variables = environment(environ, env_file, report)
    unset: set[str] = set()
    overriding = {name: value for name, value in variables.items() if name.startswith(OVERRIDE_PREFIX)}
    if init is not None and init.env:
        variables = {**variables, **init.env}
    written = read_source(source, DEFAULT_NAME, report)
    if written is not None:
        report.secrets = frozenset(written_secrets(written, manifest_shape()))
        lookup = Variables(variables, str(source.directory), allow_unset, unset)
        name = profile if profile is not None else variables.get("PYWATT_PROFILE", "")
        tree, faulted = _effective(source, written, name, init, overriding, overrides, lookup, report)
        if "config_schema" in tree.value:
            import_module("pywatt_host.manifest.schema.config_schema").check_config(tree, source, report, faulted)
        manifest, left_out = validate(tree, Manifest, manifest_shape(), faulted, report)
    if tree is None or manifest is None:
        return Examined(tuple(report.ordered(cut=True)), None, LeftOut(Node({}, Mark(), Origin(source.name))))
    manifest = manifest.located(source.directory, source.absolute_path, frozenset(_overridden(tree, ())))
    unknown = LeftOut(tree, left_out)
    token_offered = init is not None and init.has_token
    ManifestChecks(manifest, tree, report, unknown, token_offered=token_offered).check()
    problems = tuple(report.ordered(cut=True))
    return Examined(problems, Loaded(manifest, problems, tree, frozenset(unset)), unknown)


def _effective(
    source: Source,
    written: Node,
    profile: str,
    init: InitLayer | None,
    overriding: Mapping[str, str],
    overrides: Sequence[str],
    variables: Variables,
    report: Report,
) -> tuple[Node, set[KeyPath]]:
    """The tree with all layers merged, and the paths that were reported and left out."""
    shape = manifest_shape()
    root, profiles = without_profiles(written, report)
    if source.data is None:
        root = interpolate(root, shape, variables, report)
    base = Normalizer(report, shape)
    tree = base.normalize(root, shape) or Node({}, root.mark, root.origin, keys={})
    faulted = base.faulted
    layer = active_profile(profiles, profile, variables, report, faulted)
    if layer is not None:
        tree = merge(tree, layer)
    if init is not None:
        layer = base.normalize(from_data(init.data(), Origin(INIT, "code")), shape)
        tree = tree if layer is None else merge(tree, layer)
    reader = Overrides(tree, report)
    if overriding:
        from pywatt_host.manifest.layers.environment import read_overrides  # slow to import

        layer = reader.environment(read_overrides(overriding))
        tree = tree if layer is None else merge(tree, layer)
    layer = reader.settings(overrides)
    tree = tree if layer is None else merge(tree, layer)
    return tree, faulted | reader.faulted


def _overridden(node: Node, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(node.value, dict):
        for name, item in node.value.items():
            yield from _overridden(item, (*path, name))
    elif node.left_out:
        return
    elif node.origin.override or node.origin.profile or node.origin.name == INIT:
        yield path


def environment(environ: Mapping[str, str] | None, env_file: Path | None, report: Report) -> Mapping[str, str]:
    """The variables of a dotenv file, overridden by the environment (None: that of the process)."""
    environ = os.environ if environ is None else environ
    if env_file is None:
        return environ
    from pywatt_host.manifest.layers.environment import read_dotenv  # slow to import

    try:
        return {**read_dotenv(env_file), **environ}
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "it is not valid UTF-8"
        origin = Origin(str(env_file), "code")
        report.add(problem_at(origin, Mark(), (), "file", f"the env file cannot be read: {reason}"))
        return environ


def parsed_path(path: str | KeyPath) -> KeyPath:
    """The parts of a path such as `endpoints[1].auth`."""
    if not isinstance(path, str):
        return path
    parts: list[str | int] = []
    for part in path.replace("[", ".[").split("."):
        if part.startswith("[") and part[1:-1].isdigit():
            parts.append(int(part[1:-1]))
        elif part:
            parts.append(part)
    return tuple(parts)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path, value
