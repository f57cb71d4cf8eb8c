"""Manifest text to Manifest: read, interpolate, expand, overlay, type, cross-check; every fault of it at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.checks.manifest import CrossReferences
from pywatt_host.manifest.layers.interpolation import Variables, interpolate
from pywatt_host.manifest.layers.overrides import Overrides, merge
from pywatt_host.manifest.layers.profiles import active_profile, without_profiles
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.operations import Level
from pywatt_host.manifest.problems import Problem, Report, display_path, near_miss
from pywatt_host.manifest.schema.dump import dump
from pywatt_host.manifest.schema.normalize import Expansion, written_secrets
from pywatt_host.manifest.schema.shape import manifest_shape
from pywatt_host.manifest.schema.typing import locate, validate
from pywatt_host.manifest.values import TCP_ADDRESS
from pywatt_host.manifest.yaml import document
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, from_data, problem_at
from pywatt_host.manifest.yaml.node import Path as KeyPath

DEFAULT_NAME = "pywatt.yaml"
OVERRIDE_PREFIX = "PYWATT__"
INIT = "init"  # what the origin of an orchestrator's values is called


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


@dataclass(frozen=True, slots=True)
class InitLayer:
    """What the orchestrator's init says of the manifest; it wins over the file and its profile.

    `listen` is `host:port` or the path of a Unix socket. `env` is laid over the environment for `${VAR}`; `PYWATT__`
    overrides in it do not count. A `log_level` that is none of ours does not count either.
    """

    listen: str | None = None
    module_id: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    log_level: str | None = None

    def data(self) -> dict[str, Any]:
        """What it says, as a manifest would."""
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
    """A manifest, what to warn about, and where each of its values came from."""

    manifest: Manifest
    warnings: tuple[Problem, ...]
    document: Node

    def origin(self, path: str | KeyPath) -> str:
        """`pywatt.yaml:3:5`, `profile dev (pywatt.yaml:40:3)`, `PYWATT__SERVER__LISTEN`, `--set` or `default`.

        `path` is written with dots, or given part by part, as it must be where a key holds a dot.
        """
        parts = _parts(path) if isinstance(path, str) else path
        node, _, real = locate(self.document, parts)
        missing = len(real) < len(parts) and isinstance(node.value, dict | list)
        return "default" if missing or (not parts) else node.origin.label(node.mark)

    def origins(self) -> Iterator[tuple[str, Any, str]]:
        """Path, value as the manifest would write it (a secret as ***), and origin, of every value in effect."""
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
    """The manifest with its warnings and origins. Raises ManifestError with every fault found.

    With `allow_unset`, a variable that is not set is a warning: its text stays where a text is wanted, elsewhere its
    key counts as left out.
    """
    report = Report()
    tree: Node | None = None
    manifest: Manifest | None = None
    variables = environment(environ, env_file, report)
    overriding = {name: value for name, value in variables.items() if name.startswith(OVERRIDE_PREFIX)}
    if init is not None and init.env:
        variables = {**variables, **init.env}
    written = read_source(source, DEFAULT_NAME, report)
    if written is not None:
        report.secrets = frozenset(written_secrets(written, manifest_shape()))
        lookup = Variables(variables, str(source.directory), allow_unset)
        name = profile if profile is not None else variables.get("PYWATT_PROFILE", "")
        tree, faulted = _effective(source, written, name, init, overriding, overrides, lookup, report)
        manifest = validate(tree, Manifest, manifest_shape(), faulted, report)
    if manifest is not None and tree is not None:
        manifest._directory = source.directory
        manifest._source = Path(os.path.abspath(source.path)) if source.path is not None else None
        manifest._overridden = frozenset(_overridden(tree, ()))
        CrossReferences(manifest, tree, report).check()
    errors = report.errors()
    if errors or manifest is None or tree is None:
        raise ManifestError(errors)
    return Loaded(manifest, tuple(report.ordered()), tree)


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
    """The tree with everything laid over it, and the paths in it that were reported and left out."""
    shape = manifest_shape()
    root, profiles = without_profiles(written, report)
    if source.data is None:
        root = interpolate(root, shape, variables, report)
    base = Expansion(report, shape)
    tree = base.expand(root, shape) or Node({}, root.mark, root.origin, keys={})
    faulted = base.faulted
    layer = active_profile(profiles, profile, variables, report, faulted)
    if layer is not None:
        tree = merge(tree, layer)
    if init is not None:
        layer = base.expand(from_data(init.data(), Origin(INIT, "code")), shape)
        tree = tree if layer is None else merge(tree, layer)
    reader = Overrides(tree, report)
    if overriding:
        from pywatt_host.manifest.layers.environment import read_overrides  # slow to import, see there

        layer = reader.environment(read_overrides(overriding))
        tree = tree if layer is None else merge(tree, layer)
    layer = reader.settings(overrides)
    tree = tree if layer is None else merge(tree, layer)
    return tree, faulted | reader.faulted


def _overridden(node: Node, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(node.value, dict):
        for name, item in node.value.items():
            yield from _overridden(item, (*path, name))
    elif node.origin.override or node.origin.profile or node.origin.name == INIT:
        yield path


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


def environment(environ: Mapping[str, str] | None, env_file: Path | None, report: Report) -> Mapping[str, str]:
    """The environment (None: that of the process) over the variables of a dotenv file."""
    environ = os.environ if environ is None else environ
    if env_file is None:
        return environ
    from pywatt_host.manifest.layers.environment import read_dotenv  # slow to import, see there

    try:
        return {**read_dotenv(env_file), **environ}
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror or "").lower() if isinstance(exc, OSError) else "it is not UTF-8"
        origin = Origin(str(env_file), "code")
        report.add(problem_at(origin, Mark(), (), "file", f"the env file cannot be read: {reason}"))
        return environ


def _parts(path: str) -> KeyPath:
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
