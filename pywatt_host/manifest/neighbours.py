"""The words that other servers and formats use for our keys, and the keys that this version does not have."""

from __future__ import annotations

from typing import NamedTuple

from pywatt_host.manifest.problems import near_miss
from pywatt_host.manifest.shape import SectionShape, key_paths, manifest_shape

# Section (the name of its model) -> what others write there -> where it is written here.
_WORDS: dict[str, dict[str, str]] = {
    "Manifest": {
        # NGINX Unit
        "applications": "mounts",
        "apps": "mounts",
        "listeners": "server.listen",
        "routes": "endpoints",
        "application": "app",
        "callable": "app: module:callable",
        "access_log": "logging.access",
        "settings": "server.limits and server.timeouts",
        # uvicorn, gunicorn, hypercorn
        "host": "server.listen: HOST:PORT",
        "port": "server.listen: HOST:PORT",
        "bind": "server.listen",
        "uds": "server.listen: unix:PATH",
        "fd": "server.listen: fd:N",
        "root_path": "app.route_prefix",
        "log_level": "logging.level",
        "loglevel": "logging.level",
        "accesslog": "logging.access",
        "forwarded_allow_ips": "server.trusted_proxies",
        "chdir": "app.working_dir",
        "pythonpath": "app.working_dir",
        "wsgi_app": "app",
        # Compose, Kubernetes
        "name": "module.id",
        "ports": "server.listen",
        "environment": "app.env",
        "env": "app.env",
        "healthcheck": "health",
        "livenessProbe": "health.liveness",
        "readinessProbe": "health.readiness",
        "command": "app.import_path",
        "labels": "module.labels",
        "static": "mounts: [{route_prefix: /static, directory: ./static}]",
        "log": "logging",
        "prometheus": "metrics",
        "cors": "server.cors",
        "timeout": "server.timeouts.request",
        "threads": "app.threads",
        "worker_class": "app.interface",
    },
    "AppOptions": {
        "module": "import_path: module:attribute",
        "callable": "import_path: module:attribute",
        "target": "import_path",
        "import": "import_path",
        "import_string": "import_path",
        "uri": "route_prefix",
        "url": "route_prefix",
        "prefix": "route_prefix",
        "path": "route_prefix",
        "mount": "route_prefix",
        "root_path": "route_prefix",
        "app_dir": "working_dir",
        "chdir": "working_dir",
        "cwd": "working_dir",
        "home": "working_dir",
        "environment": "env",
        "kwargs": "args",
        "arguments": "args",
        "type": "interface",
        "protocol": "interface",
        "dir": "directory",
        "folder": "directory",
        "root": "directory",
        "static": "directory",
    },
    "DirectoryMount": {
        "uri": "route_prefix",
        "url": "route_prefix",
        "path": "route_prefix",
        "prefix": "route_prefix",
        "max_age": "cache",
        "index": "html",
        "import_path": "a mount of its own: it is an application or a directory",
    },
    "Server": {
        "host": "listen: HOST:PORT",
        "port": "listen: HOST:PORT",
        "bind": "listen",
        "address": "listen",
        "uds": "listen: unix:PATH",
        "timeout": "timeouts.request",
        "keepalive": "timeouts.keep_alive",
        "keep_alive": "timeouts.keep_alive",
        "graceful_timeout": "timeouts.shutdown",
        "max_body_size": "limits.body",
        "concurrency": "limits.concurrency",
        "limit_concurrency": "limits.concurrency",
        "backlog": "limits.backlog",
        "proxies": "trusted_proxies",
        "forwarded_allow_ips": "trusted_proxies",
        "log_level": "logging.level, beside server",
        "root_path": "app.route_prefix, beside server",
        "threads": "app.threads, beside server",
        "worker_class": "app.interface, beside server",
    },
    "Limits": {"max_body_size": "body", "body_size": "body", "headers": "header", "connections": "concurrency"},
    "Timeouts": {
        "graceful": "shutdown",
        "graceful_shutdown": "shutdown",
        "drain": "drain_delay",
        "idle": "keep_alive",
        "keepalive": "keep_alive",
        "response": "request",
        "headers": "header",
    },
    "EndpointOptions": {
        "method": "methods",
        "verbs": "methods",
        "route": "path",
        "url": "path",
        "uri": "path",
        "pattern": "path",
        "template": "path",
        "ratelimit": "rate_limit",
        "throttle": "rate_limit",
        "max_body_size": "body",
        "description": "summary",
    },
    "AutoEndpoints": {"endpoints": "rules", "paths": "rules", "source": "from", "overrides": "rules"},
    "Health": {
        "live": "liveness",
        "ready": "readiness",
        "period": "interval",
        "url": "path",
        "endpoint": "path",
        "start_interval": "interval",
        "failure_threshold": "retries",
    },
    "Metrics": {"endpoint": "path", "url": "path", "histogram_buckets": "buckets"},
    "Logging": {
        "file": "the standard error stream, which is where logs go",
        "redacted": "redact",
        "access_log": "access",
    },
    "Cors": {
        "origins": "allow_origins",
        "methods": "allow_methods",
        "headers": "allow_headers",
        "credentials": "allow_credentials",
    },
}

# Section -> keys that other versions of the format have.
_NOT_YET: dict[str, frozenset[str]] = {
    "Manifest": frozenset(
        {
            "auth",
            "secrets",
            "state",
            "clients",
            "tracing",
            "databases",
            "caches",
            "channels",
            "services",
            "resiliency",
            "workers",
            "reload",
            "tls",
            "ssl",
        }
    ),
    "Server": frozenset({"workers", "tls", "reload", "ssl"}),
    "EndpointOptions": frozenset({"auth"}),
    "AutoEndpoints": frozenset({"auth"}),
    "Metrics": frozenset({"auth"}),
}


class Unknown(NamedTuple):
    """What to say about a key that its section does not have; `meant` is the key there that it probably stands for."""

    code: str
    message: str
    hint: str
    meant: str | None = None


def unknown_key(key: str, shape: SectionShape) -> Unknown:
    """What to say about the key, which is none of the shape's."""
    owners = [cls.__name__ for cls in shape.model.__mro__]
    if any(key in _NOT_YET.get(owner, ()) for owner in owners):
        return Unknown("not-supported", f"`{key}` is not supported by this version", "remove it")
    for owner in owners:
        if key in _WORDS.get(owner, {}):
            word = _WORDS[owner][key]
            return Unknown("unknown-key", "unknown key", f"here that is {word}", word.partition(":")[0])
    meant = near_miss(key, shape.keys)
    if meant is not None:
        return Unknown("unknown-key", "unknown key", f'did you mean "{meant}"?', meant)
    elsewhere = [".".join(path) for path in key_paths(manifest_shape()) if path[-1] == key and len(path) < 4]
    if elsewhere:
        return Unknown("unknown-key", "unknown key", f"it belongs to {' or '.join(elsewhere[:3])}")
    return Unknown("unknown-key", "unknown key", f"known here: {', '.join(list(shape.keys)[:12])}")
