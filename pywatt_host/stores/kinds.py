"""Which backend a URL stands for: a row for each scheme, imported when it is declared."""

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
from pywatt_host.stores.caches.cache import CacheBackend
from pywatt_host.stores.databases.backend import Backend
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.proxy.remote import Remote
from pywatt_host.stores.url import StoreUrl

_DEV = "+dev"
_MOST = 50  # connections to the server of a cache
_MOST_ENTRIES, _MOST_BYTES = 10_000, 64 * 1024**2  # of a cache in memory


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What stores need of the host. `remote`: the orchestrator's stores; None where there is no orchestrator. `dev`:
    the URL of a private server of a kind, for a name; None outside of `dev` and `up`."""

    directory: Path
    module_id: str
    remote: Remote | None = None
    dev: Callable[[str, str], Awaitable[str]] | None = None


async def database_pool(store: str, text: str, options: DatabaseOptions, around: StoreContext) -> ConnectionPool:
    """The pool of a URL, connected to nothing yet. Raises StoreError (`arguments`)."""
    least, most = options.pool.min, options.pool.max
    if text.startswith(f"{ORCHESTRATOR}:"):
        name = text.partition(":")[2]
        remote = _remote(store, around)
        backend: Backend = _load(store, "proxy.proxied", "").ProxiedDatabase(
            store, name, remote, options.statement_timeout
        )
        return ConnectionPool(store, text, backend, least=least, most=most)
    text, url = await _url(store, text, around)
    if url.scheme == "sqlite":
        backend = _load(store, "databases.sqlite", "").SqliteBackend(store, url, around.directory, options.pool.timeout)
        if getattr(backend, "in_memory", False):
            least = most = 1  # each connection would be a database of its own
    elif url.scheme in ("postgresql", "postgres"):
        backend = _load(store, "databases.postgresql", "postgresql").PostgresqlBackend(
            store, url, text, most=most, statement_timeout=options.statement_timeout
        )
    elif url.scheme in ("mysql", "mariadb"):
        backend = _load(store, "databases.mysql", "mysql").MysqlBackend(
            store, url, most=most, statement_timeout=options.statement_timeout
        )
    else:
        _unknown(store, url)
    return ConnectionPool(store, str(url), backend, least=least, most=most)


async def cache_backend(store: str, text: str, options: CacheOptions, around: StoreContext) -> CacheBackend:
    """The backend of a URL, not open yet. Raises StoreError (`arguments`)."""
    backend: CacheBackend
    if text.startswith(f"{ORCHESTRATOR}:"):
        name = text.partition(":")[2]
        backend = _load(store, "proxy.proxied", "").ProxiedCache(store, name, _remote(store, around), options.timeout)
        return backend
    _, url = await _url(store, text, around)
    if url.scheme == "memory":
        backend = _load(store, "caches.memory", "").MemoryBackend(
            store, options.max_entries or _MOST_ENTRIES, options.max_bytes or _MOST_BYTES
        )
    elif url.scheme in ("redis", "rediss", "valkey", "valkeys", "unix", "redis+unix"):
        backend = _load(store, "caches.redis", "redis").RedisBackend(store, url, timeout=options.timeout, most=_MOST)
    elif url.scheme == "memcached":
        backend = _load(store, "caches.memcached", "memcached").MemcachedBackend(store, url, most=_MOST)
    else:
        _unknown(store, url)
    return backend


async def _url(store: str, text: str, around: StoreContext) -> tuple[str, StoreUrl]:
    """The URL itself, or that of a private server which it asks for."""
    url = StoreUrl.parse(text, store)
    if not url.scheme.endswith(_DEV):
        return text, url
    if around.dev is None:
        message = f"{url.scheme}:// is a private server for development, under `pywatt-host dev` and `up`"
        raise StoreError(store, "arguments", f"{message}; here give the URL of a real one")
    key = store.partition(".")[2]
    name = url.host or url.path or (around.module_id if key == "default" else f"{around.module_id}-{key}")
    text = await around.dev(url.scheme.removesuffix(_DEV), name)
    return text, StoreUrl.parse(text, store)


def _remote(store: str, around: StoreContext) -> Remote:
    if around.remote is None:
        message = "url: orchestrator:NAME is a store of the orchestrator, and there is none here"
        raise StoreError(store, "arguments", f"{message}; run the module under one, or give the URL of a real store")
    return around.remote


def _load(store: str, name: str, extra: str) -> ModuleType | Any:
    try:
        return import_module(f"pywatt_host.stores.{name}")
    except ModuleNotFoundError as error:
        if not extra:
            raise
        message = f"the package {error.name} is not installed: pip install 'pywatt-host[{extra}]'"
        raise StoreError(store, "arguments", message) from None


def _unknown(store: str, url: StoreUrl) -> NoReturn:
    raise StoreError(store, "arguments", f"url: {url.scheme}:// is no kind of store that is known here")
