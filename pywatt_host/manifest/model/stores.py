"""`databases` and `caches`: where the module stores its data."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Deferred, Kind, Kinds, Section, Short, key, required
from pywatt_host.manifest.problems import near_miss
from pywatt_host.manifest.values import (
    Bool,
    DurationOrOff,
    Format,
    Int,
    PositiveDuration,
    SecretCapable,
    SecretTemplate,
    SensitiveUrl,
    Size,
)
from pywatt_host.manifest.values.scalars import fault, text_of

STORE_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,62}$"
ORCHESTRATOR = "orchestrator"
DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mariadb", ORCHESTRATOR, "postgresql+dev")
CACHES = (
    "memory", "redis", "rediss", "valkey", "valkeys", "unix", "redis+unix", "memcached", ORCHESTRATOR, "redis+dev",
)  # fmt: skip
MEMORY_KEYS = frozenset(("max_entries", "max_bytes"))  # keys of a cache that only memory:// has
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PROXIED = re.compile(r"orchestrator:[A-Za-z][A-Za-z0-9_-]{0,62}\Z")


# Schemes of other libraries and tools -> ours.
_SCHEMES_OF_OTHERS = {
    **dict.fromkeys(("psql", "pg", "pgsql", "postgis", "psycopg", "psycopg2", "asyncpg", "timescaledb"), "postgresql"),
    **dict.fromkeys(("sqlite3", "file", "aiosqlite", "pysqlite"), "sqlite"),
    **dict.fromkeys(("mysql2", "pymysql", "aiomysql"), "mysql"),
    **dict.fromkeys(("memcache", "pymemcache", "bmemcached"), "memcached"),
    **dict.fromkeys(("locmem", "mem", "dict", "inmemory", "in-memory"), "memory"),
}
# Drivers that URLs of SQLAlchemy and of others name after a plus sign.
_DRIVERS = frozenset(
    (
        "asyncpg", "psycopg", "psycopg2", "psycopg_async", "psycopg2cffi", "pg8000", "psycopg3", "aiopg", "pygresql",
        "pymysql", "aiomysql", "asyncmy", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql", "pyodbc",
        "aiosqlite", "pysqlite", "pysqlite_numeric", "sqlcipher", "aioredis", "hiredis", "tcp", "pool",
    )
)  # fmt: skip


def scheme_of(url: str | SecretTemplate) -> str | None:
    """The scheme of a store's URL; None if the scheme is part of a secret."""
    text = url if isinstance(url, str) else url.parts[0]
    match = _SCHEME.match(text) if isinstance(text, str) else None
    return match[1].lower() if match is not None else None


def _store_url(schemes: Sequence[str], example: str) -> Callable[[Any], str | SecretTemplate]:
    def checked(given: Any) -> str | SecretTemplate:
        value: str | SecretTemplate = given if isinstance(given, SecretTemplate) else text_of(given, "a URL", example)
        scheme = scheme_of(value)
        if scheme is None:
            if isinstance(value, str):
                raise fault("url", "expected a URL with its scheme, such as {example}", example=example)
            return value
        if scheme not in schemes:
            library, _, driver = scheme.partition("+")
            meant = _SCHEMES_OF_OTHERS.get(scheme) or near_miss(scheme, schemes)
            hint = f'did you mean "{meant}"?' if meant else f"known: {', '.join(schemes)}"
            library = _SCHEMES_OF_OTHERS.get(library, library)
            if driver in _DRIVERS and library in schemes:
                hint = f"write {library}://, without the driver, which the host chooses"
            raise fault("url", '"{scheme}" is not a known kind of store ({hint})', scheme=scheme, hint=hint)
        if scheme == ORCHESTRATOR and not (isinstance(value, str) and _PROXIED.match(value)):
            raise fault("url", "expected orchestrator:NAME, such as orchestrator:shared")
        if scheme != ORCHESTRATOR and isinstance(value, str) and "://" not in value:
            raise fault("url", "two slashes must follow the scheme: {scheme}://", scheme=scheme)
        return value

    return checked


_AS_TEXT = PlainSerializer(str, when_used="json")
_TEXT = WithJsonSchema({"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9+.-]*:"})
DatabaseUrl: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_store_url(DATABASES, "sqlite:///app.db")),
    _AS_TEXT,
    _TEXT,
    SecretCapable(),
    SensitiveUrl(),
]
CacheUrl: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_store_url(CACHES, "memory://")),
    _AS_TEXT,
    _TEXT,
    SecretCapable(),
    SensitiveUrl(),
]


class Pool(Section):
    """The connections of a database that are kept open."""

    min: Int = key(1, "Number of connections that are opened at the start.", 2, ge=0, le=1000)
    max: Int = key(
        10, "Maximum number of connections at a time. A caller that needs one more waits.", 20, ge=1, le=1000
    )
    timeout: PositiveDuration = key(
        10.0, "How long a caller waits for a free connection and, on SQLite, for another transaction that writes.", "5s"
    )

    @model_validator(mode="after")
    def _bounds(self) -> Pool:
        if self.min > self.max:
            raise PydanticCustomError("conflict", "min is greater than max (lower min, or raise max)", {})
        return self


class Database(Section):
    """One database: app_state.databases[NAME]. The one called `default` is app_state.db as well."""

    url: DatabaseUrl = required(
        "URL of the database: sqlite:///FILE (relative to the manifest), postgresql://, mysql://,"
        " orchestrator:NAME, or postgresql+dev:// for a private server under `dev` and `up`.",
        "sqlite:///app.db",
        "${secret:DATABASE_URL}",
    )
    pool: Pool = key(Pool, "The connections that are kept open.", {"max": 20})
    statement_timeout: DurationOrOff = key(
        30.0,
        "How long a statement may take. The limit is also set on the server, if the server supports it. `off`: no"
        " limit.",
        "5s",
    )
    init: str | None = key(
        None,
        "SQL script that is applied once in the lifetime of the database, relative to the manifest.",
        "schema.sql",
        min_length=1,
    )
    optional: Bool = key(
        False,
        "Whether the host starts without the database if it cannot be reached. The module is then degraded instead"
        " of not ready.",
        True,
    )


class Cache(Section):
    """One cache: app_state.caches[NAME]. The one called `default` is app_state.cache as well."""

    # Only a text that names another scheme is of the other kind: a secret may have the whole URL.
    kinds = Kinds(
        (Kind("url", pattern=r"^(?![Mm][Ee][Mm][Oo][Rr][Yy]:)[A-Za-z][A-Za-z0-9+.-]*:", without=MEMORY_KEYS),)
    )

    url: CacheUrl = required(
        "URL of the cache: memory://, redis://, rediss:// (TLS), unix:///SOCKET, valkey://, memcached://,"
        " orchestrator:NAME, or redis+dev:// for a private server under `dev` and `up`.",
        "memory://",
        "redis://127.0.0.1:6379/0",
    )
    ttl: DurationOrOff = key(
        None, "How long an entry lives if the call does not say. `off`: as long as there is room.", "60s"
    )
    namespace: Annotated[str, Field(max_length=100)] | None = key(
        None,
        "Prefix of the keys on a server that other modules share. If omitted, the module's id. An empty string"
        " means no prefix.",
        "users",
    )
    on_error: Literal["raise", "miss"] = key(
        "raise",
        "What happens if the cache cannot be reached. `raise`: the call raises an error. `miss`: the call answers"
        " as if the cache were empty.",
        "miss",
    )
    timeout: PositiveDuration = key(1.0, "How long one operation may take.", "250ms")
    max_entries: Annotated[Int, Field(ge=1)] | None = key(
        None,
        "memory: maximum number of entries. The least recently used entry is removed first. If omitted, 10000.",
        1000,
    )
    max_bytes: Size | None = key(
        None, "memory: maximum number of bytes of all keys and values. If omitted, 64MiB.", "16MiB"
    )
    optional: Bool = key(
        False,
        "Whether the host starts without the cache if it cannot be reached. The module is then degraded instead of"
        " not ready.",
        True,
    )


StoreName: TypeAlias = Annotated[
    str,
    Field(pattern=STORE_NAME),
    Format("a store name", "use letters, digits, dashes and underscores; start with a letter; at most 63 characters"),
]
Databases: TypeAlias = dict[StoreName, Annotated[Database, Short(text="url"), Deferred()]]
Caches: TypeAlias = dict[StoreName, Annotated[Cache, Short(text="url"), Deferred()]]
