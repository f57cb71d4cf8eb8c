"""The URL of a store, `scheme://user:password@host:port/path?option=value` (RFC 3986), in its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pywatt_host.exceptions import StoreError

_SECRET_OPTIONS = frozenset({"password", "passwd", "pwd", "secret", "token", "sslpassword"})


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The parts of a URL, percent-decoded.

    `path` has no first slash. It is the name of a database, the number of a Redis database, or the path of a file or
    socket. `str` and `repr` show no password.
    """

    scheme: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    path: str = ""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @classmethod
    def parse(cls, text: str, store: str) -> StoreUrl:
        """Split the URL of the store with the key `store`. Raises StoreError (`arguments`), which never shows the text,
        because it may contain a password."""
        if "#" in text:
            hint = "write # in a password as %23, or let ${secret:NAME} encode it"
            raise StoreError(store, "arguments", f"url: it has a fragment (#...), which no store accepts; {hint}")
        try:
            parts = urlsplit(text)
            port = parts.port
            host = parts.hostname
        except ValueError as error:
            what = "port" if "port" in str(error).lower() else "address"
            raise StoreError(store, "arguments", f"url: its {what} is not valid") from None
        if not parts.scheme or "://" not in text:
            raise StoreError(store, "arguments", "url: it has no scheme; write one, such as postgresql://")
        path = unquote(parts.path)
        return cls(
            parts.scheme.lower(),
            unquote(parts.username) if parts.username is not None else None,
            unquote(parts.password) if parts.password is not None else None,
            unquote(host) if host is not None else None,
            port,
            path.removeprefix("/"),
            MappingProxyType(dict(parse_qsl(parts.query, keep_blank_values=True))),
        )

    def __str__(self) -> str:
        """The URL with `***` instead of the password."""
        user = quote(self.user, safe="") if self.user is not None else ""
        password = ":***" if self.password is not None else ""
        at = "@" if self.user is not None or self.password is not None else ""
        host = f"[{self.host}]" if self.host is not None and ":" in self.host else self.host or ""
        port = f":{self.port}" if self.port is not None else ""
        path = f"/{quote(self.path)}" if self.path else ""
        shown = "&".join(
            f"{quote(name)}={'***' if name.lower() in _SECRET_OPTIONS else quote(value, safe='/')}"
            for name, value in self.options.items()
        )
        return f"{self.scheme}://{user}{password}{at}{host}{port}{path}{'?' + shown if shown else ''}"
