"""Fetches the JSON documents of issuers, with limits on time, size and address."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.rfc8414 import get_well_known_url as oauth_address  # type: ignore[import-untyped]
from authlib.oidc.discovery import OpenIDProviderMetadata  # type: ignore[import-untyped]
from authlib.oidc.discovery import get_well_known_url as openid_address

from pywatt_host.manifest.checks.auth import is_plain

FETCH_TIMEOUT: Final = 5.0  # seconds for a whole response
MAX_BYTES: Final = 1024 * 1024  # of a response


class FetchError(Exception):
    """A document could not be fetched. The text has the address and the reason, and nothing secret."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        super().__init__(f"{url}: {why}")


def client(make: Callable[..., httpx.AsyncClient] = httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client that follows no redirects: only the manifest says where an issuer is."""
    return make(
        timeout=FETCH_TIMEOUT,
        follow_redirects=False,
        headers={"accept": "application/json", "user-agent": "pywatt-host"},
    )


async def fetch(
    with_client: httpx.AsyncClient,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Send a request, and return the status and the JSON document of the response.

    With `content` it is a POST request, otherwise a GET request. The document is None if the status is not 200 and the
    response is not JSON. Raises FetchError.
    """
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT),
            with_client.stream("GET" if content is None else "POST", url, content=content, headers=headers) as answer,
        ):
            if answer.is_redirect:
                raise FetchError(url, f"it redirects ({answer.status_code}), and redirects are not followed")
            pieces: list[bytes] = []
            length = 0
            async for piece in answer.aiter_bytes():
                length += len(piece)
                if length > MAX_BYTES:
                    raise FetchError(url, f"the response is longer than {MAX_BYTES // 1024} KiB")
                pieces.append(piece)
    except TimeoutError:
        raise FetchError(url, f"no complete response within {FETCH_TIMEOUT:g}s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise FetchError(url, str(error) or type(error).__name__) from None
    try:
        return answer.status_code, json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        if answer.status_code != 200:
            return answer.status_code, None
        raise FetchError(url, "the response is not JSON") from None


async def metadata(with_client: httpx.AsyncClient, issuer: str) -> OpenIDProviderMetadata:
    """Fetch the metadata that an issuer publishes (OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3).

    Raises FetchError, also if the document is that of another issuer.
    """
    url = openid_address(issuer, external=True)
    status, document = await fetch(with_client, url)
    if status == 404:
        status, document = await fetch(with_client, oauth_address(issuer, external=True))
    if status != 200:
        raise FetchError(url, f"the response has status {status}")
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise FetchError(url, f"the document is not from the issuer {issuer} (its `issuer` differs)")
    return OpenIDProviderMetadata(document)


def endpoint(found: OpenIDProviderMetadata, name: str, issuer: str, *, allow_http: bool) -> str:
    """Return an address from the metadata. Raises FetchError if it is missing or does not use TLS."""
    url = found.get(name)
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise FetchError(issuer, f"its metadata has no {name}")
    if is_plain(url) and not allow_http:
        raise FetchError(issuer, f"its {name} is not https")
    if not is_plain(issuer) and urlsplit(issuer).scheme == "https" and urlsplit(url).scheme != "https":
        raise FetchError(issuer, f"its {name} is not https, but the issuer is")
    return url


async def refuse_private(url: str, issuer: str) -> None:
    """Raise FetchError if an issuer's metadata name another host that has a private address.

    The client resolves the name again when it connects. This check therefore stops mistakes and simple attacks, but not
    a DNS server that answers each query differently.
    """
    host = urlsplit(url).hostname or ""
    if host == urlsplit(issuer).hostname:
        return
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        raise FetchError(url, f"no such host ({error.strerror})") from None
    for entry in found:
        if not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global:
            why = f"the metadata of {issuer} names a private address; set allow_private: true to allow it"
            raise FetchError(url, why)
