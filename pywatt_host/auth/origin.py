"""The origin of a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx

_PORTS: Final = {"http": 80, "https": 443}


def origin_of(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return the scheme, host and port of a URL (RFC 6454 section 4)."""
    return url.scheme, url.host.lower(), url.port or _PORTS.get(url.scheme)
