"""Makes the spans of databases and caches (OpenTelemetry semantic conventions for database clients, stable since 1.33).

A span has the text of a statement without values, never a value, and no key of a cache. Without tracing, this module is
not loaded.
"""

from __future__ import annotations

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.context import active_trace
from pywatt_host.observability.spans import UNRECORDED, AnySpan, Attributes, SpanKind, Tracer, Value
from pywatt_host.stores.summary import summarise
from pywatt_host.stores.url import StoreUrl

_REMEMBERED = 1024  # statements
_LONGEST_REMEMBERED = 8192  # characters of a statement
_SYSTEMS = {
    "postgres": "postgresql", "rediss": "redis", "valkey": "redis", "valkeys": "redis", "unix": "redis",
    "redis+unix": "redis",
}  # fmt: skip
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "memcached": 11211}


class TracedStore:
    """The spans of one store. See `StoreSpans`."""

    enabled = True

    def __init__(self, store: str, tracer: Tracer) -> None:
        self._store = store
        self._tracer = tracer
        self._target: dict[str, Value] = {"pywatt.store": store}
        self._known: dict[str, tuple[str, Attributes]] = {}  # name and attributes by statement, or by operation

    def towards(self, url: str) -> None:
        self._target = {**target_of(url, self._store), "pywatt.store": self._store}
        self._known.clear()

    def statement(self, query: str, batch: int = 0) -> AnySpan:
        if not query:
            return UNRECORDED
        known = self._known.get(query)
        if known is None:
            known = self._learned(query)
        span = self._tracer.span(known[0], SpanKind.CLIENT, known[1])
        if batch > 1:
            span.set("db.operation.batch.size", batch)
        return span

    def _learned(self, query: str) -> tuple[str, Attributes]:
        system = str(self._target.get("db.system.name", ""))
        summary = summarise("mysql" if system == "mariadb" else system, query)
        attributes: dict[str, Value] = {
            **self._target, "db.operation.name": summary.operation, "db.query.summary": summary.short,
        }  # fmt: skip
        if summary.text:
            attributes["db.query.text"] = summary.text
        if len(summary.targets) == 1:
            attributes["db.collection.name"] = summary.targets[0]
        return self._keep(query, summary.short, attributes)

    def operation(self, name: str) -> AnySpan:
        if name == "ping":
            return UNRECORDED  # of a health check
        known = self._known.get(name)
        if known is None:
            known = self._keep(name, f"{name} {self._store}", {**self._target, "db.operation.name": name})
        return self._tracer.span(known[0], SpanKind.CLIENT, known[1])

    def _keep(self, key: str, name: str, attributes: Attributes) -> tuple[str, Attributes]:
        if len(key) <= _LONGEST_REMEMBERED:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = (name, attributes)
        return name, attributes

    def waiting(self) -> AnySpan:
        if active_trace() is None:
            return UNRECORDED  # it would be a trace by itself
        attributes: dict[str, Value] = {"db.client.connection.pool.name": self._store}
        return self._tracer.span("pool.acquire", SpanKind.INTERNAL, attributes)

    def fail(self, span: AnySpan, error: StoreError) -> None:
        span.fail(error.code)
        status = _status_of(error.__cause__)
        if status:
            span.set("db.response.status_code", status)


def target_of(text: str, store: str) -> dict[str, Value]:
    """What a span says about the server of a URL: never the user or the password."""
    if "://" not in text:
        return {"db.system.name": text.partition(":")[0]}  # orchestrator:NAME
    url = StoreUrl.parse(text, store)
    scheme = url.scheme.removesuffix("+dev")
    system = _SYSTEMS.get(scheme, scheme)
    found: dict[str, Value] = {"db.system.name": system}
    namespace = url.path
    if system == "redis":
        local = scheme in ("unix", "redis+unix")
        namespace = url.options.get("db", "0" if local else url.path or "0")
    if namespace and not url.scheme.endswith("+dev"):
        found["db.namespace"] = namespace
    if url.host and not url.scheme.endswith("+dev"):
        found["server.address"] = url.host
        if port := url.port or _PORTS.get(system):
            found["server.port"] = port
    return found


def _status_of(cause: BaseException | None) -> str:
    """The code of the server in an exception of a driver: the number of MySQL, the SQLSTATE of PostgreSQL, the name of
    SQLite."""
    code = cause.args[0] if cause is not None and cause.args else None
    if isinstance(code, int) and not isinstance(cause, OSError):
        return str(code)
    for name in ("sqlstate", "sqlite_errorname"):
        if isinstance(code := getattr(cause, name, None), str):
            return code
    return ""
