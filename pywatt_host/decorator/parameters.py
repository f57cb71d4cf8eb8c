"""The parameters of `@pywatt_module`, and the manifest keys that they become."""

from __future__ import annotations

import json
import re
import secrets as randomness
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywatt_host.app.decorated import FRAMEWORKS
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.model.stores import CACHES, DATABASES
from pywatt_host.manifest.problems import Problem, near_miss
from pywatt_host.manifest.values import SecretReference, SecretTemplate
from pywatt_host.manifest.values.addresses import is_loopback

JWT, JWT_SECRET = "jwt", "JWT_SECRET"  # the scheme that need not be declared, and the secret that it uses then
PORT = 9000  # the default port of the TCP channel
_TCP = ("host", "port", "listen", "connect", "token", "tls", "required")
_IPC = ("path", "listen", "connect", "mode", "required")


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """An endpoint of a module, for the argument `endpoints` of `@pywatt_module`.

    `path` is a path template, `methods` its methods in upper or lower case: `WEBSOCKET` is one, `["*"]` stands for all.
    The other fields have the names, forms and units of the manifest's `endpoints`: `auth` is the name of a scheme or a
    mapping with `scheme`, `scopes` and `claims`; `timeout` is a duration for the response to start, `body` the largest
    request body, `concurrency` how many requests run at the same time, `rate_limit` a rate for each client. A field
    that is None has the default of the manifest.

    >>> from pywatt_host import AnnouncedEndpoint
    >>> AnnouncedEndpoint("/users/{id}", methods=["GET", "PUT"], timeout="5s", body="1MiB", rate_limit="100/s").methods
    ['GET', 'PUT']
    """

    path: str
    methods: Sequence[str] = ("GET",)
    auth: str | Mapping[str, Any] | None = None
    summary: str | None = None
    timeout: str | None = None
    body: str | int | None = None
    concurrency: int | None = None
    rate_limit: str | None = None

    def data(self) -> dict[str, Any]:
        """The endpoint as an entry of the manifest's `endpoints`."""
        entry: dict[str, Any] = {"path": self.path, "methods": self.methods}
        if isinstance(self.methods, Iterable) and not isinstance(self.methods, str):
            entry["methods"] = [str(method).upper() if isinstance(method, str) else method for method in self.methods]
        for name in ("auth", "summary", "timeout", "body", "concurrency", "rate_limit"):
            if getattr(self, name) is not None:
                entry[name] = getattr(self, name)
        return entry


@dataclass
class DecoratorData:
    """The manifest's data that the arguments of one decorator amount to."""

    place: str
    data: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    manifest_file: Path | None = None
    implied: tuple[str, ...] = ()  # the key path of a part that no argument says
    random_token: str | None = None  # generated for a TCP channel that other machines reach and that has no token

    def fault(self, parameter: str, code: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.place, 0, 0, parameter, code, message, hint))

    def put(self, parameter: str, key: str, value: Any) -> None:
        """Set a key of the manifest, unless the argument `manifest` has it."""
        here: Any = self.data
        *sections, last = key.split(".")
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                break
        if not isinstance(here, dict) or last in here:
            self.fault(parameter, "conflict", f"`manifest` already has `{key}`", "leave one of the two out")
            return
        here[last] = value


def data_of(place: str, default_socket: str, **given: Any) -> DecoratorData:
    """Convert the arguments of a decorator to the data of a manifest.

    Arguments that are None are left out. `place` is where the decorator is, for errors. `default_socket` is the Unix
    socket where `enable_ipc` listens by default. Raises ManifestError with every fault that can be found without the
    whole manifest.
    """
    found = DecoratorData(place)
    given = {name: value for name, value in given.items() if value is not None}
    _manifest(found, given.pop("manifest", None))
    for name, value in given.items():
        _READ[name](found, name, value)
    _implied_jwt(found)
    _enabled(found, given, "tcp", "channels.tcp", _tcp)
    _enabled(found, given, "ipc", "channels.ipc", lambda found, config: _ipc(found, config, default_socket))
    _enabled(found, given, "database", "databases.default", _database)
    _enabled(found, given, "cache", "caches.default", _cache)
    if found.problems:
        raise ManifestError(found.problems)
    return found


def _manifest(found: DecoratorData, value: Any) -> None:
    if isinstance(value, str | Path):
        found.manifest_file = Path(value)
    elif isinstance(value, Mapping):
        found.data = _plain(found, "manifest", value) or {}
        if "app" in found.data:
            found.fault("manifest", "conflict", "`app` is the decorated function itself", "leave it out")
    elif value is not None:
        found.fault("manifest", "type", "expected a mapping in the form of a manifest file, or the path of a file")


def _plain(found: DecoratorData, parameter: str, value: Any) -> Any:
    """A copy of the value as a manifest file would have it."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        found.fault(parameter, "type", f"a manifest cannot have this value: {error}")
        return None


def _endpoints(found: DecoratorData, name: str, value: Any) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        found.fault(name, "type", "expected a list of AnnouncedEndpoint")
        return
    entries = []
    for number, each in enumerate(value):
        path = f"{name}[{number}]"
        entry = each.data() if isinstance(each, AnnouncedEndpoint) else each
        if not isinstance(entry, Mapping):
            found.fault(path, "type", f"expected an AnnouncedEndpoint, not {type(each).__name__}")
        else:
            entries.append(dict(entry))
    found.put(name, "endpoints", entries)


def _jwt_secret(found: DecoratorData, name: str, value: Any) -> None:
    """A literal secret. It may be short, as in the original SDK's examples; the start then logs a warning."""
    if not isinstance(value, str) or not value:
        found.fault(name, "type", "expected a string", "or declare auth in manifest=, with a declared secret")
        return
    found.put(name, "auth.jwt", {"type": "jwt", "secret": value, "allow_weak_secret": True})


def _implied_jwt(found: DecoratorData) -> None:
    """Declare the scheme `jwt`, with the secret JWT_SECRET, where endpoints need it and no argument declares it."""
    endpoints, schemes = found.data.get("endpoints"), found.data.setdefault("auth", {})
    auths = [entry.get("auth") for entry in endpoints if isinstance(entry, dict)] if isinstance(endpoints, list) else []
    if isinstance(schemes, dict) and JWT not in schemes and any(_needs_jwt(each) for each in auths):
        schemes[JWT] = {"type": "jwt", "secret": SecretTemplate((SecretReference(JWT_SECRET),))}
        found.implied = ("auth", JWT)
    if schemes == {}:
        del found.data["auth"]


def _needs_jwt(auth: Any) -> bool:
    if isinstance(auth, Mapping):
        auth = auth.get("scheme")
    return auth == JWT or (isinstance(auth, Sequence) and not isinstance(auth, str) and JWT in auth)


def _secrets(found: DecoratorData, name: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        found.fault(name, "type", "expected a list of names", 'secrets=["DATABASE_URL"]; sources go into manifest=')
        return
    if isinstance(found.data.get("secrets"), list):  # the short form of `keys`
        found.fault(name, "conflict", "`manifest` already has `secrets.keys`", "leave one of the two out")
        return
    found.put(name, "secrets.keys", {each: {} for each in value})


def _framework(found: DecoratorData, name: str, value: Any) -> None:
    if value not in FRAMEWORKS:
        meant = near_miss(str(value), FRAMEWORKS)
        hint = f'did you mean "{meant}"?' if meant else f"one of {', '.join(FRAMEWORKS)}"
        found.fault(name, "choice", f'"{str(value)[:60]}" is not a known framework', hint)


def _state_builder(found: DecoratorData, name: str, value: Any) -> None:
    if not callable(value):
        found.fault(name, "type", "expected a function (init, secrets)")
        return
    found.put(name, "state", builder_path_of(value))


def builder_path_of(builder: Callable[..., Any]) -> str:
    """The import path for a state builder in `state`. A lambda gets a suffix: it has no name of its own, and the
    application may be a lambda as well."""
    path = import_path_of(builder)
    return f"{path}_state" if "<lambda>" in getattr(builder, "__qualname__", "") else path


def import_path_of(function: Callable[..., Any], module: str | None = None) -> str:
    """The import path `module:attribute` of a function. For a function within another one it is what it would be
    outside of it. Characters that an import path cannot have are replaced."""
    module = module or getattr(function, "__module__", None) or "module"
    qualified = getattr(function, "__qualname__", None) or type(function).__qualname__
    name = ".".join(_identifier(part) for part in qualified.split(".") if part.isidentifier()) or "function"
    return f"{'.'.join(_identifier(part) for part in module.split('.'))}:{name}"


def _identifier(text: str) -> str:
    kept = re.sub("[^A-Za-z0-9_]", "_", text)
    return kept if kept.isidentifier() else f"_{kept}"


def _put(key: str) -> Callable[[DecoratorData, str, Any], None]:
    def put(found: DecoratorData, name: str, value: Any) -> None:
        plain = _plain(found, name, value)
        if plain is not None:
            found.put(name, key, plain)

    return put


def _passed(found: DecoratorData, name: str, value: Any) -> None:
    """Read together with the other arguments of its kind, see `_enabled`."""


# How each parameter is read. docs/decorator.md has the same table for users.
_READ: dict[str, Callable[[DecoratorData, str, Any], None]] = {
    "secrets": _secrets,
    "rotate": _put("secrets.rotate"),
    "endpoints": _endpoints,
    "health": _put("health"),
    "metrics": _put("metrics"),
    "framework": _framework,
    "state_builder": _state_builder,
    "version": _put("module.version"),
    "config": _put("config"),
    "enable_tcp": _passed,
    "tcp_config": _passed,
    "enable_ipc": _passed,
    "ipc_config": _passed,
    "jwt_secret": _jwt_secret,
    "enable_database": _passed,
    "database_config": _passed,
    "enable_cache": _passed,
    "cache_config": _passed,
}


def _enabled(
    found: DecoratorData,
    given: Mapping[str, Any],
    kind: str,
    key: str,
    made: Callable[[DecoratorData, Mapping[str, Any]], dict[str, Any]],
) -> None:
    """Read `enable_KIND` and `KIND_config`, and put the result at `key`."""
    enabled, config = given.get(f"enable_{kind}"), given.get(f"{kind}_config")
    if enabled is not None and not isinstance(enabled, bool):
        found.fault(f"enable_{kind}", "type", "expected True or False")
    elif config is not None and not isinstance(config, Mapping):
        found.fault(f"{kind}_config", "type", "expected a mapping")
    elif enabled:
        found.put(f"enable_{kind}", key, made(found, config or {}))
    elif config is not None and enabled is None:
        found.fault(f"{kind}_config", "conflict", f"it has no effect without enable_{kind}=True", "add that")


def _known(found: DecoratorData, parameter: str, config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in config:
        if name not in names:
            meant = near_miss(str(name), names)
            hint = f'did you mean "{meant}"?' if meant else f"known here: {', '.join(names)}"
            found.fault(f"{parameter}.{name}", "unknown-key", "unknown key", hint)
    return _plain(found, parameter, {name: config[name] for name in names if name in config}) or {}


def _tcp(found: DecoratorData, config: Mapping[str, Any]) -> dict[str, Any]:
    known = _known(found, "tcp_config", config, _TCP)
    host, port = known.pop("host", None), known.pop("port", None)
    if host is not None or port is not None:
        if "listen" in known or "connect" in known:
            message = "host and port cannot be given together with listen or connect"
            found.fault("tcp_config", "conflict", message, "leave one of them out")
        if isinstance(port, bool) or not isinstance(port, int | None):
            found.fault("tcp_config.port", "type", "expected an integer")
        if not isinstance(host, str | None):
            found.fault("tcp_config.host", "type", "expected a string")
    if "connect" not in known and "listen" not in known:
        host = "127.0.0.1" if host is None else str(host)
        known["listen"] = f"{f'[{host}]' if ':' in host else host}:{PORT if port is None else port}"
    address = str(known.get("listen", ""))
    if address and "token" not in known and not is_loopback(address.rpartition(":")[0].strip("[]")):
        tls = known.get("tls")
        if not (isinstance(tls, Mapping) and "client_ca" in tls):
            known["token"] = found.random_token = randomness.token_urlsafe(32)
    return known


def _database(found: DecoratorData, config: Mapping[str, Any]) -> dict[str, Any]:
    embedded = {"sqlite": "sqlite:///app.db", "": "sqlite:///app.db"}
    return _store(found, "database_config", config, DATABASES, embedded, "DATABASE_URL")


def _cache(found: DecoratorData, config: Mapping[str, Any]) -> dict[str, Any]:
    return _store(found, "cache_config", config, CACHES, {"memory": "memory://", "": "memory://"}, "CACHE_URL")


def _store(
    found: DecoratorData,
    parameter: str,
    config: Mapping[str, Any],
    types: Sequence[str],
    embedded: Mapping[str, str],
    secret: str,
) -> dict[str, Any]:
    """The keys of a store: those of the manifest and `type`, the kind of store.

    Without a `url`, or with `...`, the URL is that of an embedded store, or for other kinds the value of `secret`.
    """
    rest = {name: value for name, value in config.items() if name not in ("type", "url")}
    known = _plain(found, parameter, rest) or {}
    kind, url = config.get("type", ""), config.get("url", "...")
    if kind and kind not in types:
        meant = near_miss(str(kind), types)
        hint = f'did you mean "{meant}"?' if meant else f"one of {', '.join(types)}"
        found.fault(f"{parameter}.type", "choice", f'"{str(kind)[:60]}" is not a known kind of store', hint)
    if url in ("...", ...):
        url = embedded.get(kind) or SecretTemplate((SecretReference(secret),))
    elif kind and isinstance(url, str) and not _of_kind(url, kind):
        message = f"the type is {kind}, but the url begins with {url.partition(':')[0][:40]}:"
        found.fault(f"{parameter}.url", "conflict", message, "leave type out, or make it match the url")
    return {"url": url, **known}


def _of_kind(url: str, kind: str) -> bool:
    """Whether the scheme of a URL belongs to a kind of store: rediss to redis, postgres to postgresql."""
    scheme = url.partition(":")[0].lower()
    aliases = {"postgres": "postgresql", "mariadb": "mysql", "rediss": "redis", "valkeys": "valkey"}
    same = {scheme, aliases.get(scheme, scheme), scheme.partition("+")[0]}
    return kind in same or (kind in ("redis", "valkey") and scheme in ("unix", "redis+unix", "redis", "valkey"))


def _ipc(found: DecoratorData, config: Mapping[str, Any], default_socket: str) -> dict[str, Any]:
    known = _known(found, "ipc_config", config, _IPC)
    path = known.pop("path", None)
    if path is not None and "listen" in known:
        found.fault("ipc_config", "conflict", "path and listen mean the same", "leave one of them out")
    if path is not None:
        known["listen"] = path
    if "connect" not in known:
        known.setdefault("listen", default_socket)
    return known
