"""JSON documents of issuers, fetched with bounds: on time, on size, on where it may come from."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.rfc8414 import get_well_known_url as oauth_address  # type: ignore[import-untyped]
from authlib.oidc.discovery import OpenIDProviderMetadata  # type: ignore[import-untyped]
from authlib.oidc.discovery import get_well_known_url as openid_address

from pywatt_host.manifest.checks.auth import is_plain

PATIENCE: Final = 5.0  # seconds for a whole answer
MOST_OCTETS: Final = 1024 * 1024


class FetchError(Exception):
    """What was asked for cannot be had. The text names the address and why, and holds nothing secret."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        super().__init__(f"{url}: {why}")


def client() -> httpx.AsyncClient:
    """A client that follows nobody: an issuer says where it is in the manifest, and nowhere else."""
    return httpx.AsyncClient(
        timeout=PATIENCE, follow_redirects=False, headers={"accept": "application/json", "user-agent": "pywatt-host"}
    )


async def fetch(
    with_client: httpx.AsyncClient,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Status and JSON document of an answer; of one that is no success, None where it has no JSON. With `content`, it
    is a POST. Raises FetchError."""
    try:
        async with (
            asyncio.timeout(PATIENCE),
            with_client.stream("GET" if content is None else "POST", url, content=content, headers=headers) as answer,
        ):
            if answer.is_redirect:
                raise FetchError(url, f"it redirects ({answer.status_code}), and redirects are not followed")
            pieces: list[bytes] = []
            length = 0
            async for piece in answer.aiter_bytes():
                length += len(piece)
                if length > MOST_OCTETS:
                    raise FetchError(url, f"the answer is longer than {MOST_OCTETS // 1024} KiB")
                pieces.append(piece)
    except TimeoutError:
        raise FetchError(url, f"no whole answer within {PATIENCE:g}s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise FetchError(url, str(error) or type(error).__name__) from None
    try:
        return answer.status_code, json.loads(b"".join(pieces))
    except (ValueError, RecursionError):
        if answer.status_code != 200:
            return answer.status_code, None
        raise FetchError(url, "the answer is not JSON") from None


async def metadata(with_client: httpx.AsyncClient, issuer: str) -> OpenIDProviderMetadata:
    """What an issuer publishes about itself (OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3). Raises
    FetchError, also where the document is another issuer's."""
    url = openid_address(issuer, external=True)
    status, document = await fetch(with_client, url)
    if status == 404:
        status, document = await fetch(with_client, oauth_address(issuer, external=True))
    if status != 200:
        raise FetchError(url, f"the answer is {status}")
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise FetchError(url, f"the document is not that of the issuer {issuer} (its `issuer` is another text)")
    return OpenIDProviderMetadata(document)


def endpoint(found: OpenIDProviderMetadata, name: str, issuer: str, *, allow_http: bool) -> str:
    """An address in the metadata. Raises FetchError where it is missing or would go without TLS."""
    url = found.get(name)
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise FetchError(issuer, f"its metadata have no {name}")
    if is_plain(url) and not allow_http:
        raise FetchError(issuer, f"its {name} is not https")
    if not is_plain(issuer) and urlsplit(issuer).scheme == "https" and urlsplit(url).scheme != "https":
        raise FetchError(issuer, f"its {name} is not https, though the issuer is")
    return url


async def refuse_private(url: str, issuer: str) -> None:
    """Raises FetchError where an issuer's metadata send to another host, with an address that the public network does
    not have. The name is looked up again when it is connected to: this keeps honest mistakes and simple attacks out,
    and not somebody who answers each look-up otherwise."""
    host = urlsplit(url).hostname or ""
    if host == urlsplit(issuer).hostname:
        return
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        raise FetchError(url, f"no such host ({error.strerror})") from None
    for entry in found:
        if not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global:
            why = f"the metadata of {issuer} send to a private address; allow_private: true lets them"
            raise FetchError(url, why)
