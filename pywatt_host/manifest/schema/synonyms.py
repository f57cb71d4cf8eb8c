"""Keys that other servers and formats use in place of ours, and keys that this version does not support."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.app import AppMount, AppOptions, DirectoryMount
from pywatt_host.manifest.model.auth import AuthScheme, Client, Requirement
from pywatt_host.manifest.model.base import Section
from pywatt_host.manifest.model.channels import ChannelLimits, Channels, ChannelTls, IpcChannel, TcpChannel
from pywatt_host.manifest.model.endpoints import AutoEndpoints, EndpointOptions
from pywatt_host.manifest.model.operations import Health, Logging, Metrics
from pywatt_host.manifest.model.resiliency import CircuitBreaker, Policies, Resiliency, RetryPolicy, Target, Targets
from pywatt_host.manifest.model.secrets import SecretKey, Secrets, SecretSource, Vault
from pywatt_host.manifest.model.server import Admin, Compress, Cors, Limits, Server, Timeouts, WebSocketLimits
from pywatt_host.manifest.model.stores import Cache, Database
from pywatt_host.manifest.model.tls import ListenOptions, ServerTls
from pywatt_host.manifest.model.workers import Recycle, Workers
from pywatt_host.manifest.model.workspace import Gateway, Workspace, WorkspaceModule, WorkspaceSecrets
from pywatt_host.manifest.problems import cut_list, near_miss
from pywatt_host.manifest.schema.shape import SectionShape, key_paths

# Section -> key of another server or format -> what replaces it. A replacement without backticks is YAML as a whole.
SYNONYMS: dict[type[Section], dict[str, str]] = {
    Manifest: {
        # NGINX Unit
        "applications": "mounts",
        "apps": "mounts",
        "listeners": "server.listen",
        "routes": "endpoints",
        "application": "app",
        "callable": "app: module:callable",
        "access_log": "logging.access",
        "settings": "`server.limits` and `server.timeouts`",
        # uvicorn, gunicorn, hypercorn
        "host": "server.listen: HOST:PORT",
        "port": "server.listen: HOST:PORT",
        "bind": "server.listen",
        "uds": "server.listen: unix:PATH",
        "fd": "server.listen: fd:N",
        "tls": "server.tls",
        "ssl": "server.tls",
        "https": "server.tls",
        "certfile": "server.tls.cert",
        "keyfile": "server.tls.key",
        "ssl_certfile": "server.tls.cert",
        "ssl_keyfile": "server.tls.key",
        "ssl_ca_certs": "server.tls.client_ca",
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
        "jwt": "auth: {jwt: {secret: ...}}",
        "authentication": "auth",
        "security": "auth",
        "oauth": "`auth` for requests to this module, or `clients` for requests of this module",
        "prometheus": "metrics",
        "traces": "tracing",
        "trace": "tracing",
        "otel": "tracing",
        "opentelemetry": "tracing",
        "telemetry": "tracing",
        "cors": "server.cors",
        "timeout": "server.timeouts.request",
        "threads": "app.threads",
        "worker_class": "app.interface",
        "workers": "server.workers",
        "worker": "server.workers",
        "processes": "server.workers",
        "reload": "server.reload",
        "autoreload": "server.reload: watch",
        "max_requests": "server.workers.recycle.requests",
        # secrets and channels
        "secret": "secrets",
        "vault": "secrets.sources: [{vault: {address, path}}]",
        "dotenv": "secrets.sources: [{dotenv: .env}]",
        "env_file": "secrets.sources: [{dotenv: .env}]",
        "rotate": "secrets.rotate",
        "channel": "channels",
        "stdio": "channels.stdio",
        "ipc": "channels.ipc",
        "tcp": "channels.tcp",
        "orchestrator": "channels.stdio",
    },
    Workspace: {
        "app": "`modules: {ID: {manifest: pywatt.yaml}}`, with `app` in that file",
        "server": "`gateway`, or `server` in the manifest of a module",
        "services": "modules",
        "apps": "modules",
        "applications": "modules",
        "processes": "modules",
        "module": "modules",
        "listen": "gateway.listen",
        "port": "gateway.listen: HOST:PORT",
        "http": "gateway",
        "proxy": "gateway",
        "env_file": "secrets.sources: [{dotenv: .env}]",
        "dotenv": "secrets.sources: [{dotenv: .env}]",
        "vault": "secrets.sources: [{vault: {address, path}}]",
    },
    WorkspaceModule: {
        "image": "command",
        "build": "manifest",
        "path": "manifest",
        "file": "manifest",
        "app": "`manifest`, with `app` in that file",
        "cmd": "command",
        "entrypoint": "command",
        "args": "command",
        "environment": "env",
        "after": "depends_on",
        "requires": "depends_on",
        "needs": "depends_on",
        "scale": "replicas",
        "instances": "replicas",
        "workers": "replicas",
        "cwd": "working_dir",
        "dir": "working_dir",
        "directory": "working_dir",
        "transport": "channel",
        "restart_policy": "restart",
    },
    Gateway: {
        "address": "listen",
        "bind": "listen",
        "host": "listen: HOST:PORT",
        "port": "listen: HOST:PORT",
        "hosts": "allowed_hosts",
        "trusted_hosts": "allowed_hosts",
        "ssl": "tls",
        "https": "tls",
        "cert": "tls.cert",
        "certificate": "tls.cert",
        "certfile": "tls.cert",
        "keyfile": "tls.key",
    },
    Compress: {
        "minimum_size": "min_size",
        "min_length": "min_size",
        "minimum": "min_size",
        "mime_types": "types",
        "media_types": "types",
        "compresslevel": "level",
        "compression_level": "level",
        "quality": "level",
    },
    Secrets: {
        "names": "keys",
        "declare": "keys",
        "from": "sources",
        "source": "sources",
        "providers": "sources",
        "rotation": "rotate",
        "poll": "interval",
        "refresh": "interval",
        "refresh_interval": "interval",
    },
    WorkspaceSecrets: {"rotate": "`secrets.rotate` in the manifests of the modules", "source": "sources"},
    SecretSource: {
        "type": "kind",
        "environment": "kind: env",
        "env_file": "dotenv",
        "dir": "directory",
        "folder": "directory",
        "path": "`file` or `directory`",
        "exec": "command",
        "run": "command",
        "hashicorp": "vault",
        "openbao": "vault",
    },
    Vault: {"url": "address", "addr": "address", "mount": "path: MOUNT/PATH", "mount_point": "path: MOUNT/PATH"},
    SecretKey: {"optional": "required: false", "desc": "description", "value": "`default`, with `required: false`"},
    Channels: {"unix": "ipc", "socket": "ipc", "stdin": "stdio", "stdout": "stdio"},
    IpcChannel: {"path": "`listen` or `connect`", "socket": "`listen` or `connect`", "permissions": "mode"},
    TcpChannel: {
        "address": "`listen` or `connect`",
        "bind": "listen",
        "port": "listen: HOST:PORT",
        "host": "listen: HOST:PORT",
        "auth_token": "token",
        "secret": "token",
        "ssl": "tls",
    },
    ChannelTls: {"certificate": "cert", "certfile": "cert", "keyfile": "key", "cafile": "ca", "ca_certs": "ca"},
    ChannelLimits: {"max_frame": "frame", "message": "frame", "size": "frame", "heartbeats": "heartbeat_missed"},
    AppOptions: {
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
    DirectoryMount: {
        "uri": "route_prefix",
        "url": "route_prefix",
        "path": "route_prefix",
        "prefix": "route_prefix",
        "max_age": "cache",
        "index": "html",
        "dotfiles": "hidden",
        "import_path": "a separate mount for the application",
    },
    Server: {
        "host": "listen: HOST:PORT",
        "port": "listen: HOST:PORT",
        "bind": "listen",
        "address": "listen",
        "uds": "listen: unix:PATH",
        "ssl": "tls",
        "https": "tls",
        "certificate": "tls.cert",
        "certfile": "tls.cert",
        "keyfile": "tls.key",
        "ssl_certfile": "tls.cert",
        "ssl_keyfile": "tls.key",
        "ssl_ca_certs": "tls.client_ca",
        "redirect": "tls.redirect",
        "timeout": "timeouts.request",
        "keepalive": "timeouts.keep_alive",
        "keep_alive": "timeouts.keep_alive",
        "graceful_timeout": "timeouts.shutdown",
        "max_body_size": "limits.body",
        "concurrency": "limits.concurrency",
        "limit_concurrency": "limits.concurrency",
        "backlog": "limits.backlog",
        "connections": "limits.connections",
        "max_connections": "limits.connections",
        "worker_connections": "limits.connections",
        "ws_max_size": "limits.websocket.message",
        "ws_per_message_deflate": "limits.websocket.compression",
        "proxies": "trusted_proxies",
        "hosts": "allowed_hosts",
        "hostnames": "allowed_hosts",
        "server_name": "allowed_hosts",
        "trusted_hosts": "allowed_hosts",
        "gzip": "compress",
        "compression": "compress",
        "header": "`headers`, or `limits.header` for the size of a request head",
        "response_headers": "headers",
        "add_header": "headers",
        "forwarded_allow_ips": "trusted_proxies",
        "log_level": "`logging.level`, outside of server",
        "root_path": "`app.route_prefix`, outside of server",
        "threads": "`app.threads`, outside of server",
        "worker_class": "`app.interface`, outside of server",
        "worker": "workers",
        "processes": "workers",
        "workers_count": "workers",
        "max_requests": "workers.recycle.requests",
        "limit_max_requests": "workers.recycle.requests",
        "max_requests_jitter": "workers.recycle.jitter: 10%",
        "workers_lifetime": "workers.recycle.age",
        "workers_max_rss": "workers.recycle.memory",
        "timeout_worker_healthcheck": "workers.ping_limit",
        "recycle": "workers.recycle",
        "preload_app": "workers.start: fork",
        "auto_reload": "reload: watch",
        "autoreload": "reload: watch",
        "watch": "reload: watch",
    },
    Admin: {
        "address": "listen",
        "bind": "listen",
        "port": "listen: HOST:PORT",
        "host": "listen: HOST:PORT",
        "ssl": "tls",
    },
    ServerTls: {
        "certificate": "cert",
        "certfile": "cert",
        "ssl_certfile": "cert",
        "certificate_chain": "cert",
        "chain": "cert",
        "private_key": "key",
        "keyfile": "key",
        "ssl_keyfile": "key",
        "ca": "client_ca",
        "ca_certs": "client_ca",
        "cafile": "client_ca",
        "ssl_ca_certs": "client_ca",
        "client_certificate": "client_cert",
        "cert_reqs": "client_cert",
        "verify": "client_cert",
        "minimum_version": "min_version",
        "version": "min_version",
        "ssl_version": "min_version",
        "protocols": "min_version",
        "http": "redirect",
    },
    ListenOptions: {
        "listen": "address",
        "bind": "address",
        "port": "address: HOST:PORT",
        "host": "address: HOST:PORT",
        "ssl": "tls",
    },
    Workers: {
        "number": "count",
        "processes": "count",
        "workers": "count",
        "max": "count",
        "method": "start",
        "start_method": "start",
        "preload": "start: fork",
        "startup_timeout": "start_limit",
        "start_timeout": "start_limit",
        "ping": "ping_limit",
        "ping_timeout": "ping_limit",
        "timeout": "ping_limit",
        "healthcheck_timeout": "ping_limit",
        "max_requests": "recycle.requests",
        "requests": "recycle.requests",
        "age": "recycle.age",
        "lifetime": "recycle.age",
        "memory": "recycle.memory",
        "max_rss": "recycle.memory",
        "jitter": "recycle.jitter",
    },
    Recycle: {
        "max_requests": "requests",
        "max_requests_jitter": "jitter: 10%",
        "lifetime": "age",
        "max_age": "age",
        "rss": "memory",
        "max_rss": "memory",
        "max_memory": "memory",
    },
    Limits: {
        "max_body_size": "body",
        "body_size": "body",
        "headers": "header",
        "max_connections": "connections",
        "worker_connections": "connections",
        "per_client": "connections_per_client",
        "max_connections_per_client": "connections_per_client",
        "ws": "websocket",
        "websockets": "websocket",
        "ws_max_size": "websocket.message",
    },
    WebSocketLimits: {
        "max_size": "message",
        "size": "message",
        "max_message": "message",
        "deflate": "compression",
        "per_message_deflate": "compression",
        "permessage_deflate": "compression",
        "concurrency": "connections",
    },
    Timeouts: {
        "graceful": "shutdown",
        "graceful_shutdown": "shutdown",
        "drain": "drain_delay",
        "idle": "keep_alive",
        "keepalive": "keep_alive",
        "response": "request",
        "headers": "header",
        "read": "body",
        "client_body": "body",
        "send": "write",
    },
    EndpointOptions: {
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
    AutoEndpoints: {"endpoints": "rules", "paths": "rules", "source": "from", "overrides": "rules"},
    AuthScheme: {
        "kind": "type",
        "scheme": "type",
        "iss": "issuer",
        "aud": "audience",
        "audiences": "audience",
        "algorithm": "algorithms",
        "alg": "algorithms",
        "jwks_uri": "jwks_url",
        "jwks": "jwks_url",
        "jwt_secret": "secret",
        "cert": "public_key",
        "certificate": "public_key",
        "clock_skew": "leeway",
        "key": "`secret`, `public_key` or `keys`",
        "passwords": "users",
        "htpasswd": "users",
        "subject": "subjects",
        "names": "subjects",
        "cn": 'subjects: ["CN=..."]',
        "san": 'subjects: ["DNS:..."]',
        "sans": 'subjects: ["DNS:..."]',
        "client_ca": "server.tls.client_ca",
        "ca": "server.tls.client_ca",
    },
    Requirement: {"roles": "claims: {role: ...}", "role": "claims: {role: ...}", "schemes": "scheme"},
    Client: {"url": "base_url", "origin": "base_url", "token_uri": "token_url", "scope": "scopes", "id": "client_id"},
    Database: dict.fromkeys(
        ("host", "hostname", "port", "user", "username", "password", "name", "database", "dbname", "engine", "driver"),
        "`url`, such as postgresql://users@127.0.0.1:5432/users",
    )
    | {"dsn": "url", "pool_size": "pool.max", "max_connections": "pool.max", "schema": "init"},
    Cache: dict.fromkeys(("host", "port", "db", "password", "backend"), "`url`, such as redis://127.0.0.1:6379/0")
    | {"location": "url", "timeout_seconds": "ttl", "prefix": "namespace", "key_prefix": "namespace"},
    Health: {
        "live": "liveness",
        "ready": "readiness",
        "period": "interval",
        "url": "path",
        "endpoint": "path",
        "start_interval": "interval",
        "failure_threshold": "retries",
        "show_details": "details",
        "verbose": "details",
    },
    Metrics: {"endpoint": "path", "url": "path", "histogram_buckets": "buckets"},
    Logging: {
        "file": "standard error, where the logs always go",
        "redacted": "redact",
        "access_log": "access",
    },
    Resiliency: {
        "timeouts": "policies.timeouts",
        "retries": "policies.retries",
        "circuit_breakers": "policies.circuit_breakers",
        "breakers": "policies.circuit_breakers",
        "modules": "targets.modules",
        "clients": "targets.clients",
    },
    Policies: {"circuitBreakers": "circuit_breakers", "breakers": "circuit_breakers", "retry": "retries"},
    RetryPolicy: {
        "maxRetries": "max_retries",
        "attempts": "`max_retries`, which does not count the first attempt",
        "max_attempts": "`max_retries`, which does not count the first attempt",
        "maxInterval": "max_interval",
        "initial_interval": "duration",
        "backoff": "policy: exponential",
    },
    CircuitBreaker: {
        "maxRequests": "max_requests",
        "trip": "consecutive_failures: 5",
        "failures": "consecutive_failures",
        "threshold": "consecutive_failures",
        "failure_threshold": "consecutive_failures",
    },
    Target: {"circuitBreaker": "circuit_breaker", "breaker": "circuit_breaker", "retries": "retry"},
    Targets: {"apps": "modules", "components": "modules", "services": "modules"},
    Cors: {
        "origins": "allow_origins",
        "methods": "allow_methods",
        "headers": "allow_headers",
        "credentials": "allow_credentials",
    },
}


class Unknown(NamedTuple):
    """The problem with a key that its section does not have. `meant` is the key that it probably stands for."""

    code: str
    message: str
    hint: str
    meant: str | None = None


def unknown_key(key: str, shape: SectionShape, root: SectionShape) -> Unknown:
    """Describe the problem with a key that a section does not have. `root` is the shape of the whole document."""
    for section, synonyms in SYNONYMS.items():
        if issubclass(shape.model, section) and key in synonyms:
            replacement = synonyms[key]
            shown = replacement if "`" in replacement or " " in replacement.partition(":")[0] else f"`{replacement}`"
            meant = re.search(r"[\w.]+", replacement)
            return Unknown("unknown-key", "unknown key", f"use {shown}", meant[0] if meant else None)
    near = near_miss(key, shape.keys)
    if near is not None and SequenceMatcher(None, key.lower(), near).ratio() > _SURE:
        return Unknown("unknown-key", "unknown key", f'did you mean "{near}"?', near)
    if issubclass(shape.model, AppMount):
        folder = near_miss(key, [name for name in DirectoryMount.model_fields if name not in shape.keys])
        if folder is not None:
            return Unknown("unknown-key", "unknown key", f'did you mean "{folder}"?', folder)
    if issubclass(shape.model, Manifest) and key.lower() != "profiles" and near_miss(key, ["profiles"]):
        return Unknown("unknown-key", "unknown key", 'did you mean "profiles"?', "profiles")
    outside = SYNONYMS.get(root.model, {}).get(key, "")
    if shape.model is not root.model and re.fullmatch(r"[a-z_.]+", outside) and outside.count("."):
        return Unknown("unknown-key", "unknown key", f"use `{outside}`, outside of this section")
    elsewhere = [".".join(path) for path in key_paths(root) if path[-1] == key and len(path) < 4]
    if near is not None and not elsewhere:
        return Unknown("unknown-key", "unknown key", f'did you mean "{near}"?', near)
    if key in _USUAL and _USUAL[key] in elsewhere:
        elsewhere = [_USUAL[key]]
    if elsewhere:
        *others, last = [f'"{path}"' for path in elsewhere[:3]]
        either = f"{', '.join(others)} or {last}" if others else last
        outside = "" if shape.model is root.model else ", outside of this section"
        return Unknown("unknown-key", "unknown key", f"did you mean {either}{outside}?")
    names = list(shape.keys)
    if issubclass(shape.model, Manifest):
        names.append("profiles")
    if issubclass(shape.model, Secrets):
        return Unknown("unknown-key", "unknown key", f"known keys: {cut_list(names)}; write a secret below `keys`")
    return Unknown("unknown-key", "unknown key", f"known keys: {cut_list(names)}")


_SURE = 0.85  # similarity from which on a key is a misspelled key of its section, whatever other sections have

# Keys that several sections have, and the section that is most often meant.
_USUAL = {"listen": "server.listen", "level": "logging.level", "timeout": "server.timeouts.request"}
