"""`databases` and `caches`: where the module keeps what it keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Deferred, Section, Short, key, required
from pywatt_host.manifest.problems import near_miss
from pywatt_host.manifest.values import (
    Bool,
    DurationOrOff,
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
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PROXIED = re.compile(r"orchestrator:[A-Za-z][A-Za-z0-9_-]{0,62}\Z")


def scheme_of(url: str | SecretTemplate) -> str | None:
    """The scheme of a store's URL; None where it is in a secret."""
    text = url if isinstance(url, str) else url.parts[0]
    match = _SCHEME.match(text) if isinstance(text, str) else None
    return match[1].lower() if match is not None else None


def _store_url(schemes: Sequence[str], example: str) -> Callable[[Any], str | SecretTemplate]:
    def checked(given: Any) -> str | SecretTemplate:
        value: str | SecretTemplate = given if isinstance(given, SecretTemplate) else text_of(given, "a URL", example)
        scheme = scheme_of(value)
        if scheme is None:
            if isinstance(value, str):
                raise fault("url", "a URL with its scheme is wanted, such as {example}", example=example)
            return value
        if scheme not in schemes:
            meant = near_miss(scheme, schemes)
            hint = f'did you mean "{meant}"?' if meant else f"known: {', '.join(schemes)}"
            raise fault("url", '"{scheme}" is no kind of store that is known here; {hint}', scheme=scheme, hint=hint)
        if scheme == ORCHESTRATOR and not (isinstance(value, str) and _PROXIED.match(value)):
            raise fault("url", "orchestrator:NAME is wanted, such as orchestrator:shared")
        if scheme != ORCHESTRATOR and isinstance(value, str) and "://" not in value:
            raise fault("url", "two slashes are wanted after the scheme: {scheme}://", scheme=scheme)
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

    min: Int = key(1, "Connections that are opened at the start.", 2, ge=0, le=1000)
    max: Int = key(10, "Most connections at a time; who needs one more waits.", 20, ge=1, le=1000)
    timeout: PositiveDuration = key(
        10.0, "How long to wait for a free connection, and on SQLite for another's transaction that writes.", "5s"
    )

    @model_validator(mode="after")
    def _bounds(self) -> Pool:
        if self.min > self.max:
            raise PydanticCustomError("conflict", "min is more than max", {})
        return self


class Database(Section):
    """One database: app_state.databases[NAME]; `default` is app_state.db as well."""

    url: DatabaseUrl = required(
        "Where it is: sqlite:///FILE (relative to the manifest), postgresql://, mysql://, orchestrator:NAME, or"
        " postgresql+dev:// for a private server under `dev` and `up`.",
        "sqlite:///app.db",
        "${secret:DATABASE_URL}",
    )
    pool: Pool = key(Pool, "The connections that are kept open.", {"max": 20})
    statement_timeout: DurationOrOff = key(
        30.0, "How long a statement may take, on the server too where that can be; `off` for no limit.", "5s"
    )
    init: str | None = key(
        None,
        "A script of SQL that is applied once in the life of the database, relative to the manifest.",
        "schema.sql",
        min_length=1,
    )
    optional: Bool = key(
        False, "Start without it where it cannot be reached, and be degraded instead of not ready.", True
    )


class Cache(Section):
    """One cache: app_state.caches[NAME]; `default` is app_state.cache as well."""

    url: CacheUrl = required(
        "Where it is: memory://, redis://, rediss:// (TLS), unix:///SOCKET, valkey://, memcached://,"
        " orchestrator:NAME, or redis+dev:// for a private server under `dev` and `up`.",
        "memory://",
        "redis://127.0.0.1:6379/0",
    )
    ttl: DurationOrOff = key(
        None, "How long an entry lives where the call does not say; `off`: as long as there is room.", "60s"
    )
    namespace: Annotated[str, Field(max_length=100)] | None = key(
        None, "What keys begin with on a server that others share. Left out: the module's id. Empty for none.", "users"
    )
    on_error: Literal["raise", "miss"] = key(
        "raise", "A cache that cannot be reached raises an error, or answers as if it were empty.", "miss"
    )
    timeout: PositiveDuration = key(1.0, "How long one operation may take.", "250ms")
    max_entries: Annotated[Int, Field(ge=1)] | None = key(
        None, "memory: most entries; the least recently used goes first. Left out: 10000.", 1000
    )
    max_bytes: Size | None = key(None, "memory: most octets of all keys and values. Left out: 64MiB.", "16MiB")
    optional: Bool = key(
        False, "Start without it where it cannot be reached, and be degraded instead of not ready.", True
    )


StoreName: TypeAlias = Annotated[str, Field(pattern=STORE_NAME)]
Databases: TypeAlias = dict[StoreName, Annotated[Database, Short(text="url"), Deferred()]]
Caches: TypeAlias = dict[StoreName, Annotated[Cache, Short(text="url"), Deferred()]]
