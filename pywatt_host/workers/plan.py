"""What a reload does with each key of the manifest that has changed: `plan`.

Every key has a row in RULES, by itself or with the section that it is in. For a new key, add one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from pywatt_host.manifest import Manifest, dump
from pywatt_host.manifest.model.workers import ReloadMode
from pywatt_host.manifest.problems import KeyPath, display_path
from pywatt_host.manifest.schema.shape import Choice, DictShape, Free, ListShape, SectionShape, Shape, manifest_shape

Action: TypeAlias = Literal["rebuilt", "in_place", "refused"]


class Change(NamedTuple):
    """A key that has changed, and what a reload does with it.

    `rebuilt`: new workers are built with the new value. `in_place`: the supervisor takes the new value over.
    `refused`: the reload is refused, because only a restart changes this key.
    """

    path: str
    action: Action
    reason: str


class Rule(NamedTuple):
    """What a reload does with a key and with all keys below it that have no rule of their own."""

    key: str
    action: Action
    reason: str


_APPLICATION = "new workers load the application with it"
_WORKERS = "new workers are built with it"
_CHANNELS = "channels to the orchestrator and to peers are held by the supervisor; restart the host to change them"
_SECRETS = "the secrets are fetched anew before new workers start"

RULES = (
    Rule("version", "rebuilt", _WORKERS),
    Rule("module.id", "refused", "peers and the orchestrator know the module by its id; restart the host to change it"),
    Rule("module.version", "rebuilt", _WORKERS),
    Rule("module.description", "rebuilt", _WORKERS),
    Rule("module.labels", "rebuilt", _WORKERS),
    Rule("app", "rebuilt", _APPLICATION),
    Rule("mounts", "rebuilt", _APPLICATION),
    Rule("state", "rebuilt", _APPLICATION),
    Rule("config", "rebuilt", _APPLICATION),
    Rule("config_schema", "in_place", "config is compared with it whenever the manifest is read"),
    Rule("server.listen", "in_place", "listeners are added, kept and closed without losing a connection"),
    Rule("server.tls", "in_place", "new connections have it; the ones there are end with what they began with"),
    Rule("server.admin", "in_place", "the admin listener is added, moved or closed by the supervisor"),
    Rule("server.control", "refused", "the control socket is bound once; restart the host to move it"),
    Rule("server.workers.count", "in_place", "workers are added or drained"),
    Rule("server.workers.start", "rebuilt", "new workers start in this way"),
    Rule("server.workers.start_limit", "in_place", "the supervisor applies it to the workers that start now"),
    Rule("server.workers.ping_limit", "in_place", "the supervisor applies it to all workers"),
    Rule("server.workers.recycle", "in_place", "the supervisor applies it to all workers"),
    Rule("server.reload", "in_place", "the supervisor begins or ends to watch files"),
    Rule("server.paths", "rebuilt", _WORKERS),
    Rule("server.trusted_proxies", "rebuilt", _WORKERS),
    Rule("server.allowed_hosts", "rebuilt", _WORKERS),
    Rule("server.headers", "rebuilt", _WORKERS),
    Rule("server.compress", "rebuilt", _WORKERS),
    Rule("server.cors", "rebuilt", _WORKERS),
    Rule("server.limits", "rebuilt", _WORKERS),
    Rule("server.timeouts.header", "rebuilt", _WORKERS),
    Rule("server.timeouts.keep_alive", "rebuilt", _WORKERS),
    Rule("server.timeouts.request", "rebuilt", _WORKERS),
    Rule("server.timeouts.body", "rebuilt", _WORKERS),
    Rule("server.timeouts.write", "rebuilt", _WORKERS),
    Rule("server.timeouts.drain_delay", "in_place", "it counts when the host stops next"),
    Rule("server.timeouts.shutdown", "in_place", "it counts for the next workers that drain, and when the host stops"),
    Rule("secrets.sources", "in_place", _SECRETS),
    Rule("secrets.rotate", "in_place", _SECRETS),
    Rule("secrets.interval", "in_place", _SECRETS),
    Rule("secrets.keys", "in_place", _SECRETS),
    Rule("endpoints", "rebuilt", _WORKERS),
    Rule("auth", "rebuilt", _WORKERS),
    Rule("clients", "rebuilt", _WORKERS),
    Rule("databases", "rebuilt", "new workers open new connections; the old ones are closed with the old workers"),
    Rule("caches", "rebuilt", "new workers open new connections; the old ones are closed with the old workers"),
    Rule("health", "rebuilt", _WORKERS),
    Rule("metrics.enabled", "rebuilt", _WORKERS),
    Rule("metrics.path", "rebuilt", _WORKERS),
    Rule("metrics.buckets", "rebuilt", _WORKERS),
    Rule("metrics.labels", "in_place", "the supervisor adds the labels to every series"),
    Rule("metrics.auth", "rebuilt", _WORKERS),
    Rule("channels", "refused", _CHANNELS),
    Rule("channels.http", "rebuilt", _WORKERS),
    Rule("channels.nats", "rebuilt", "new workers connect with it; the old connections end with the old workers"),
    Rule("services", "rebuilt", "new workers register services and connect to modules with it"),
    Rule("resiliency", "rebuilt", _WORKERS),
    Rule("tracing", "rebuilt", "new workers trace with it, and the supervisor sends their spans with it"),
    Rule("logging.level", "in_place", "the supervisor and its workers log at the new level"),
    Rule("logging.format", "in_place", "the supervisor and its workers log in the new format"),
    Rule("logging.access", "rebuilt", _WORKERS),
    Rule("logging.loggers", "rebuilt", _WORKERS),
    Rule("logging.redact", "rebuilt", _WORKERS),
)
_BY_KEY = {tuple(rule.key.split(".")): rule for rule in RULES}

_NO_RELOAD = "this host does not reload: server.reload is off; restart it, with server.reload: signal to reload later"
_UNKNOWN = "the host and this command have different versions, and only one of them knows the key; restart the host"
_LEAVES = "the host would not reload any more; restart it for that"
_LEAVES_BY_COUNT = "with one worker and no server.reload the host would not reload any more; set server.reload: signal"


@dataclass(frozen=True, slots=True)
class Described:
    """What `plan` compares of a manifest: its document (that of a running host has *** for secrets in plain text), the
    id of the module, and what makes the host reload."""

    document: Mapping[str, Any]
    module_id: str
    reload: ReloadMode

    @classmethod
    def of(cls, manifest: Manifest, *, masked: bool = False) -> Described:
        return cls(dump(manifest, masked=masked), manifest.module_id, manifest.server.reload_mode)

    @classmethod
    def running(cls, answer: Mapping[str, Any]) -> Described:
        """Read the answer of a host to `GET /manifest` (`runtime.manifest_answer`). Raises ValueError where it
        is something else."""
        document, module_id, reload = (answer.get(name) for name in ("manifest", "module_id", "reload"))
        if not isinstance(document, dict) or not isinstance(module_id, str) or reload not in ("off", "signal", "watch"):
            raise ValueError("this is not the manifest of a running host")
        return cls(document, module_id, reload)


def plan(old: Manifest, new: Manifest) -> list[Change]:
    """List the keys that differ, in the order of the schema, with what a reload from `old` to `new` does with each."""
    return compare(Described.of(old), Described.of(new))


def compare(old: Described, new: Described) -> list[Change]:
    """As `plan`, for manifests of which only the documents are known."""
    return [
        Change(display_path(path), *_decided(path, old, new))
        for path in _differences(old.document, new.document, manifest_shape(), ())
        if path != ("module", "id") or old.module_id != new.module_id  # written or not, the folder gives the same id
    ]


def rule_for(path: KeyPath) -> Rule:
    """The rule of a key: its own, or that of the nearest section that it is in. Raises KeyError where there is none."""
    names = tuple(part for part in path if isinstance(part, str))
    for length in range(len(names), 0, -1):
        if names[:length] in _BY_KEY:
            return _BY_KEY[names[:length]]
    raise KeyError(display_path(path))


def _decided(path: KeyPath, old: Described, new: Described) -> tuple[Action, str]:
    if old.reload == "off":
        return "refused", _NO_RELOAD
    try:
        rule = rule_for(path)
    except KeyError:  # a host of another version runs
        return "refused", _UNKNOWN
    if new.reload == "off" and rule.key == "server.reload":
        return "refused", _LEAVES
    if new.reload == "off" and rule.key == "server.workers.count" and "reload" not in new.document.get("server", {}):
        return "refused", _LEAVES_BY_COUNT
    return rule.action, rule.reason


def _differences(old: Any, new: Any, shape: Shape, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of the deepest values that differ. Lists of different length differ as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in _keys(old, new, shape):
            below = (*path, key)
            if (key in old and key in new) or _is_divided(below):
                yield from _differences(old.get(key, {}), new.get(key, {}), _below(shape, key), below)
            else:
                yield below
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, _item(shape), (*path, number))
    elif type(old) is not type(new) or old != new:
        yield path


def _is_divided(path: KeyPath) -> bool:
    """Whether the keys of a section have rules of their own. A host of another version may not have the section."""
    return any(len(key) > len(path) and key[: len(path)] == path for key in _BY_KEY)


def _keys(old: Mapping[str, Any], new: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    """The keys of both, in the order of the schema, or where it has none, of the old document and then the new one."""
    shape = _chosen(shape, old)
    listed = list(shape.keys) if isinstance(shape, SectionShape) else []
    for key in dict.fromkeys([*listed, *old, *new]):
        if key in old or key in new:
            yield key


def _chosen(shape: Shape, value: Any) -> Shape:
    return shape.of(value) if isinstance(shape, Choice) else shape


def _below(shape: Shape, key: str) -> Shape:
    shape = _chosen(shape, {key: None})
    if isinstance(shape, SectionShape):
        return shape.keys.get(key, Free())
    return shape.value if isinstance(shape, DictShape) else Free()


def _item(shape: Shape) -> Shape:
    shape = _chosen(shape, [])
    return shape.item if isinstance(shape, ListShape) else Free()
