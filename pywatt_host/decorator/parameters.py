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

JWT, JWT_SECRET = "jwt", "JWT_SECRET"  # the scheme that needs no words, and the secret that it then has
PORT = 9000  # of the TCP channel, where tcp_config names none
_TCP = ("host", "port", "listen", "connect", "token", "tls", "required")
_IPC = ("path", "listen", "connect", "mode", "required")


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """One of `endpoints`: a path template and its methods. `WEBSOCKET` is a method, `["*"]` is all. What else there is
    has the names and forms of the manifest: `timeout="5s"`, `body="1MiB"`, `rate_limit="100/s"`."""

    path: str
    methods: Sequence[str] = ("GET",)
    auth: str | Mapping[str, Any] | None = None
    summary: str | None = None
    timeout: str | None = None
    body: str | int | None = None
    concurrency: int | None = None
    rate_limit: str | None = None

    def data(self) -> dict[str, Any]:
        """As an entry of the manifest's `endpoints`."""
        entry: dict[str, Any] = {"path": self.path, "methods": self.methods}
        if isinstance(self.methods, Iterable) and not isinstance(self.methods, str):
            entry["methods"] = [str(method).upper() if isinstance(method, str) else method for method in self.methods]
        for name in ("auth", "summary", "timeout", "body", "concurrency", "rate_limit"):
            if getattr(self, name) is not None:
                entry[name] = getattr(self, name)
        return entry


@dataclass
class Said:
    """What the arguments of one decorator amount to."""

    place: str
    data: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    manifest_file: Path | None = None
    implied: tuple[str, ...] = ()  # the path of what no argument says, and what is there all the same
    random_token: str | None = None  # made up, since the TCP channel can be reached from elsewhere and has none

    def fault(self, parameter: str, code: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.place, 0, 0, parameter, code, message, hint))

    def put(self, parameter: str, key: str, value: Any) -> None:
        """Set a key of the manifest, unless `manifest` has said it already."""
        here: Any = self.data
        *sections, last = key.split(".")
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                break
        if not isinstance(here, dict) or last in here:
            self.fault(parameter, "conflict", f"`{key}` is in `manifest` already", "say it in one of the two")
            return
        here[last] = value


def said(place: str, default_socket: str, **given: Any) -> Said:
    """From arguments to data; those that are None were left out. `default_socket` is where `enable_ipc` listens when
    nothing else is said. Raises ManifestError with every fault that shows without looking at the whole manifest."""
    found = Said(place)
    given = {name: value for name, value in given.items() if value is not None}
    _manifest(found, given.pop("manifest", None))
    for name, value in given.items():
        _READ[name](found, name, value)
    _implied_jwt(found)
    _enabled(found, given, "tcp", "channels.tcp", _tcp)
    _enabled(found, given, "ipc", "channels.ipc", lambda said, config: _ipc(said, config, default_socket))
    _enabled(found, given, "database", "databases.default", _database)
    _enabled(found, given, "cache", "caches.default", _cache)
    if found.problems:
        raise ManifestError(found.problems)
    return found


def _manifest(found: Said, value: Any) -> None:
    if isinstance(value, str | Path):
        found.manifest_file = Path(value)
    elif isinstance(value, Mapping):
        found.data = _plain(found, "manifest", value) or {}
        if "app" in found.data:
            found.fault("manifest", "conflict", "`app` is the decorated function itself", "leave it out")
    elif value is not None:
        found.fault("manifest", "type", "a mapping, in the form of a file, or the path of a file is wanted")


def _plain(found: Said, parameter: str, value: Any) -> Any:
    """A copy that a file could hold as well."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        found.fault(parameter, "type", f"this is nothing that a manifest can hold: {error}")
        return None


def _endpoints(found: Said, name: str, value: Any) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        found.fault(name, "type", "a list of AnnouncedEndpoint is wanted")
        return
    entries = []
    for number, each in enumerate(value):
        path = f"{name}[{number}]"
        entry = each.data() if isinstance(each, AnnouncedEndpoint) else each
        if not isinstance(entry, Mapping):
            found.fault(path, "type", f"an AnnouncedEndpoint is wanted, not {type(each).__name__}")
        else:
            entries.append(dict(entry))
    found.put(name, "endpoints", entries)


def _jwt_secret(found: Said, name: str, value: Any) -> None:
    """A literal: it may be short, as the first examples have it, which the start then warns of."""
    if not isinstance(value, str) or not value:
        found.fault(name, "type", "a text is wanted", "or declare auth in manifest=, with a secret of its own")
        return
    found.put(name, "auth.jwt", {"type": "jwt", "secret": value, "allow_weak_secret": True})


def _implied_jwt(found: Said) -> None:
    """Endpoints that ask for `jwt` where nothing says what that is: tokens signed with the secret JWT_SECRET."""
    endpoints, schemes = found.data.get("endpoints"), found.data.setdefault("auth", {})
    asked = [entry.get("auth") for entry in endpoints if isinstance(entry, dict)] if isinstance(endpoints, list) else []
    if isinstance(schemes, dict) and JWT not in schemes and any(_asks_for_jwt(each) for each in asked):
        schemes[JWT] = {"type": "jwt", "secret": SecretTemplate((SecretReference(JWT_SECRET),))}
        found.implied = ("auth", JWT)
    if schemes == {}:
        del found.data["auth"]


def _asks_for_jwt(auth: Any) -> bool:
    if isinstance(auth, Mapping):
        auth = auth.get("scheme")
    return auth == JWT or (isinstance(auth, Sequence) and not isinstance(auth, str) and JWT in auth)


def _secrets(found: Said, name: str, value: Any) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        found.fault(name, "type", "a list of names is wanted", 'secrets=["DATABASE_URL"]; sources go into manifest=')
        return
    if isinstance(found.data.get("secrets"), list):  # the short form of `keys`
        found.fault(name, "conflict", "`secrets.keys` is in `manifest` already", "say it in one of the two")
        return
    found.put(name, "secrets.keys", {each: {} for each in value})


def _framework(found: Said, name: str, value: Any) -> None:
    if value not in FRAMEWORKS:
        meant = near_miss(str(value), FRAMEWORKS)
        hint = f'did you mean "{meant}"?' if meant else f"one of {', '.join(FRAMEWORKS)}"
        found.fault(name, "choice", f'"{str(value)[:60]}" is no framework that is known here', hint)


def _state_builder(found: Said, name: str, value: Any) -> None:
    if not callable(value):
        found.fault(name, "type", "a function (init, secrets) is wanted")
        return
    found.put(name, "state", builder_path_of(value))


def builder_path_of(builder: Callable[..., Any]) -> str:
    """What stands for a state builder in `state`. Lambdas have no name, so that one may be the application as well."""
    path = import_path_of(builder)
    return f"{path}_state" if "<lambda>" in getattr(builder, "__qualname__", "") else path


def import_path_of(function: Callable[..., Any], module: str | None = None) -> str:
    """`module:attribute` of a function; of one that stands within another, what it would be if it did not. What no
    import path can hold is replaced."""
    module = module or getattr(function, "__module__", None) or "module"
    qualified = getattr(function, "__qualname__", None) or type(function).__qualname__
    name = ".".join(_identifier(part) for part in qualified.split(".") if part.isidentifier()) or "function"
    return f"{'.'.join(_identifier(part) for part in module.split('.'))}:{name}"


def _identifier(text: str) -> str:
    kept = re.sub("[^A-Za-z0-9_]", "_", text)
    return kept if kept.isidentifier() else f"_{kept}"


def _put(key: str) -> Callable[[Said, str, Any], None]:
    def put(found: Said, name: str, value: Any) -> None:
        plain = _plain(found, name, value)
        if plain is not None:
            found.put(name, key, plain)

    return put


def _passed(found: Said, name: str, value: Any) -> None:
    """Looked at with the others of its kind, see `_enabled`."""


# Parameter -> how it is read. The table in docs/decorator.md says the same for people.
_READ: dict[str, Callable[[Said, str, Any], None]] = {
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
    found: Said,
    given: Mapping[str, Any],
    kind: str,
    key: str,
    made: Callable[[Said, Mapping[str, Any]], dict[str, Any]],
) -> None:
    """`enable_KIND` and `KIND_config`, which become `key`."""
    enabled, config = given.get(f"enable_{kind}"), given.get(f"{kind}_config")
    if enabled is not None and not isinstance(enabled, bool):
        found.fault(f"enable_{kind}", "type", "True or False is wanted")
    elif config is not None and not isinstance(config, Mapping):
        found.fault(f"{kind}_config", "type", "a mapping is wanted")
    elif enabled:
        found.put(f"enable_{kind}", key, made(found, config or {}))
    elif config is not None and enabled is None:
        found.fault(f"{kind}_config", "conflict", f"it says nothing without enable_{kind}=True", "add it")


def _known(found: Said, parameter: str, config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    for name in config:
        if name not in names:
            meant = near_miss(str(name), names)
            hint = f'did you mean "{meant}"?' if meant else f"known here: {', '.join(names)}"
            found.fault(f"{parameter}.{name}", "unknown-key", "unknown key", hint)
    return _plain(found, parameter, {name: config[name] for name in names if name in config}) or {}


def _tcp(found: Said, config: Mapping[str, Any]) -> dict[str, Any]:
    known = _known(found, "tcp_config", config, _TCP)
    host, port = known.pop("host", None), known.pop("port", None)
    if host is not None or port is not None:
        if "listen" in known or "connect" in known:
            message = "host and port say where to listen; so does listen, and connect says to connect instead"
            found.fault("tcp_config", "conflict", message, "say it in one way")
        if isinstance(port, bool) or not isinstance(port, int | None):
            found.fault("tcp_config.port", "type", "an integer is wanted")
        if not isinstance(host, str | None):
            found.fault("tcp_config.host", "type", "a text is wanted")
    if "connect" not in known and "listen" not in known:
        host = "127.0.0.1" if host is None else str(host)
        known["listen"] = f"{f'[{host}]' if ':' in host else host}:{PORT if port is None else port}"
    address = str(known.get("listen", ""))
    if address and "token" not in known and not is_loopback(address.rpartition(":")[0].strip("[]")):
        tls = known.get("tls")
        if not (isinstance(tls, Mapping) and "client_ca" in tls):
            known["token"] = found.random_token = randomness.token_urlsafe(32)
    return known


def _database(found: Said, config: Mapping[str, Any]) -> dict[str, Any]:
    embedded = {"sqlite": "sqlite:///app.db", "": "sqlite:///app.db"}
    return _store(found, "database_config", config, DATABASES, embedded, "DATABASE_URL")


def _cache(found: Said, config: Mapping[str, Any]) -> dict[str, Any]:
    return _store(found, "cache_config", config, CACHES, {"memory": "memory://", "": "memory://"}, "CACHE_URL")


def _store(
    found: Said,
    parameter: str,
    config: Mapping[str, Any],
    types: Sequence[str],
    embedded: Mapping[str, str],
    secret: str,
) -> dict[str, Any]:
    """Keys of the manifest, and `type`, which `url` begins with. A url that is left out, or written as `...`, is that
    of the embedded kind, for the others what the secret has."""
    rest = {name: value for name, value in config.items() if name not in ("type", "url")}
    known = _plain(found, parameter, rest) or {}
    kind, url = config.get("type", ""), config.get("url", "...")
    if kind and kind not in types:
        meant = near_miss(str(kind), types)
        hint = f'did you mean "{meant}"?' if meant else f"one of {', '.join(types)}"
        found.fault(f"{parameter}.type", "choice", f'"{str(kind)[:60]}" is no kind of store that is known here', hint)
    if url in ("...", ...):
        url = embedded.get(kind) or SecretTemplate((SecretReference(secret),))
    elif kind and isinstance(url, str) and not _of_kind(url, kind):
        message = f"the type is {kind}, and the url begins with {url.partition(':')[0][:40]}:"
        found.fault(f"{parameter}.url", "conflict", message, "leave type out, or let it say the same")
    return {"url": url, **known}


def _of_kind(url: str, kind: str) -> bool:
    """Whether a URL is of a type, by its first word: rediss of redis, postgres of postgresql."""
    scheme = url.partition(":")[0].lower()
    aliases = {"postgres": "postgresql", "mariadb": "mysql", "rediss": "redis", "valkeys": "valkey"}
    same = {scheme, aliases.get(scheme, scheme), scheme.partition("+")[0]}
    return kind in same or (kind in ("redis", "valkey") and scheme in ("unix", "redis+unix", "redis", "valkey"))


def _ipc(found: Said, config: Mapping[str, Any], default_socket: str) -> dict[str, Any]:
    known = _known(found, "ipc_config", config, _IPC)
    path = known.pop("path", None)
    if path is not None and "listen" in known:
        found.fault("ipc_config", "conflict", "path and listen say the same", "say it in one way")
    if path is not None:
        known["listen"] = path
    if "connect" not in known:
        known.setdefault("listen", default_socket)
    return known
