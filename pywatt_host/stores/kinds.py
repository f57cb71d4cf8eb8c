"""Chooses the backend for the URL of a store. A backend is imported only if the manifest declares a store of its
kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pywatt_host.exceptions import StoreError
from pywatt_host.manifest.model import Cache as CacheOptions
from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.manifest.model.stores import ORCHESTRATOR
from pywatt_host.stores.caches.backend import CacheBackend
from pywatt_host.stores.databases.backend import Backend
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.proxy.remote import Remote
from pywatt_host.stores.url import StoreUrl

_DEV_SUFFIX = "+dev"  # of the scheme of a URL that asks for a private server
_MAX_CACHE_CONNECTIONS = 50  # to one server
_DEFAULT_MAX_ENTRIES = 10_000  # of a cache in memory
_DEFAULT_MAX_BYTES = 64 * 1024**2  # of a cache in memory


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What stores need from the host.

    `directory` is the base of relative paths. `remote` reaches the orchestrator's stores; it is None if there is no
    orchestrator. `dev` returns the URL of a private server, for a kind of server and a name; it is None outside of the
    commands `dev` and `up`.
    """

    directory: Path
    module_id: str
    remote: Remote | None = None
    dev: Callable[[str, str], Awaitable[str]] | None = None


async def database_pool(store: str, text: str, options: DatabaseOptions, context: StoreContext) -> ConnectionPool:
    """Make the pool for the URL `text`, without connecting. Raises StoreError (`arguments`)."""
    min_size, max_size = options.pool.min, options.pool.max
    if text.startswith(f"{ORCHESTRATOR}:"):
        name = text.partition(":")[2]
        remote = _remote(store, context)
        backend: Backend = _load(store, "proxy.proxied", "").ProxiedDatabase(
            store, name, remote, options.statement_timeout
        )
        return ConnectionPool(store, text, backend, min_size=min_size, max_size=max_size)
    text, url = await _url(store, text, context)
    if url.scheme == "sqlite":
        backend = _load(store, "databases.sqlite", "").SqliteBackend(
            store, url, context.directory, options.pool.timeout
        )
        if getattr(backend, "in_memory", False):
            min_size = max_size = 1  # each connection would be a database of its own
    elif url.scheme in ("postgresql", "postgres"):
        backend = _load(store, "databases.postgresql", "postgresql").PostgresqlBackend(
            store, url, text, max_size=max_size, statement_timeout=options.statement_timeout
        )
    elif url.scheme in ("mysql", "mariadb"):
        backend = _load(store, "databases.mysql", "mysql").MysqlBackend(
            store, url, max_size=max_size, statement_timeout=options.statement_timeout
        )
    else:
        _unknown(store, url)
    return ConnectionPool(store, str(url), backend, min_size=min_size, max_size=max_size)


async def cache_backend(store: str, text: str, options: CacheOptions, context: StoreContext) -> CacheBackend:
    """Make the backend for the URL `text`, without connecting. Raises StoreError (`arguments`)."""
    backend: CacheBackend
    if text.startswith(f"{ORCHESTRATOR}:"):
        name = text.partition(":")[2]
        backend = _load(store, "proxy.proxied", "").ProxiedCache(store, name, _remote(store, context), options.timeout)
        return backend
    _, url = await _url(store, text, context)
    if url.scheme == "memory":
        backend = _load(store, "caches.memory", "").MemoryBackend(
            store, options.max_entries or _DEFAULT_MAX_ENTRIES, options.max_bytes or _DEFAULT_MAX_BYTES
        )
    elif url.scheme in ("redis", "rediss", "valkey", "valkeys", "unix", "redis+unix"):
        backend = _load(store, "caches.redis", "redis").RedisBackend(
            store, url, timeout=options.timeout, max_connections=_MAX_CACHE_CONNECTIONS
        )
    elif url.scheme == "memcached":
        backend = _load(store, "caches.memcached", "memcached").MemcachedBackend(
            store, url, max_connections=_MAX_CACHE_CONNECTIONS
        )
    else:
        _unknown(store, url)
    return backend


async def _url(store: str, text: str, context: StoreContext) -> tuple[str, StoreUrl]:
    """Return the URL, or the URL of the private server that it asks for."""
    url = StoreUrl.parse(text, store)
    if not url.scheme.endswith(_DEV_SUFFIX):
        return text, url
    if context.dev is None:
        message = f"url: {url.scheme}:// asks for a private server, which only `pywatt-host dev` and `up` start"
        raise StoreError(store, "arguments", f"{message}; set the URL of a real server")
    key = store.partition(".")[2]
    name = url.host or url.path or (context.module_id if key == "default" else f"{context.module_id}-{key}")
    text = await context.dev(url.scheme.removesuffix(_DEV_SUFFIX), name)
    return text, StoreUrl.parse(text, store)


def _remote(store: str, context: StoreContext) -> Remote:
    if context.remote is None:
        message = "url: orchestrator:NAME is a store of the orchestrator, and this host has no orchestrator"
        raise StoreError(store, "arguments", f"{message}; run the module under one, or set the URL of a real store")
    return context.remote


def _load(store: str, name: str, extra: str) -> ModuleType | Any:
    try:
        return import_module(f"pywatt_host.stores.{name}")
    except ModuleNotFoundError as error:
        if not extra:
            raise
        message = f"the package {error.name} is not installed: pip install 'pywatt-host[{extra}]'"
        raise StoreError(store, "arguments", message) from None


def _unknown(store: str, url: StoreUrl) -> NoReturn:
    raise StoreError(store, "arguments", f"url: {url.scheme}:// is not a known kind of store")
