"""`validate --live`: checks that need the network: listen addresses, secrets, channels, stores and issuers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

from pywatt_host.cli.auth_keys import auth_key_problems
from pywatt_host.cli.certificates import Certificates
from pywatt_host.exceptions import AuthError, BindError, ChannelError, SecretError, StoreError
from pywatt_host.manifest import Loaded, Problem
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.model.channels import DEV_NATS
from pywatt_host.manifest.problems import Report, Severity
from pywatt_host.manifest.values import Address, TcpAddress, UnixAddress
from pywatt_host.net.listeners import bind
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.doubts import doubt_about
from pywatt_host.secrets.sources import make_sources

_CONNECT_TIMEOUT = 5.0  # seconds


def live_problems(
    loaded: Loaded, env_file: Path | None, tell: Callable[[str], None], *, addresses: bool = True
) -> list[Problem]:
    """Bind the addresses, fetch the secrets and connect, each for a moment, and report what fails. `tell` gets a line
    about each certificate that a client would see. Without `addresses`, nothing is bound: `up` gives each module an
    address."""
    bound = list(_check_addresses(loaded)) if addresses else []
    return [*bound, *asyncio.run(_check_services(loaded, env_file, tell))]


def _check_addresses(loaded: Loaded) -> Iterator[Problem]:
    """Whether the host can listen on its addresses."""
    manifest = loaded.manifest
    server, ipc, tcp = manifest.server, manifest.channels.ipc, manifest.channels.tcp
    wanted: list[tuple[str, tuple[Address, ...]]] = [("server.listen", server.listen)]
    if server.admin is not None:
        wanted.append(("server.admin.listen", server.admin.listen))
    if server.tls is not None and server.tls.redirect is not None:
        wanted.append(("server.tls.redirect", (server.tls.redirect,)))
    if ipc is not None and ipc.listen is not None:
        wanted.append(("channels.ipc.listen", (UnixAddress(ipc.listen),)))
    if tcp is not None and tcp.listen is not None:
        wanted.append(("channels.tcp.listen", (tcp.listen,)))
    environ = dict(environment(None, None, Report()))
    for key, addresses in wanted:
        try:
            bound = bind(addresses, key=key, directory=manifest.directory, backlog=1, environ=environ)
        except BindError as error:
            node, path = loaded.node_at(key)
            yield node.problem(path, "bind", f"cannot listen on {error.address}: {error.message}", error.hint)
        else:
            for listener in bound:
                listener.close()


async def _check_services(loaded: Loaded, env_file: Path | None, tell: Callable[[str], None]) -> list[Problem]:
    problems, secret_values = await _check_secrets(loaded, env_file)
    return [
        *problems,
        *_check_certificates(loaded, secret_values, tell),
        *auth_key_problems(loaded, secret_values),
        *await _check_channels(loaded),
        *await _check_issuers(loaded),
        *await _check_stores(loaded, secret_values),
        *await _check_nats(loaded, secret_values),
        *await asyncio.to_thread(_check_traces, loaded, secret_values),
    ]


def _check_certificates(
    loaded: Loaded, secret_values: Mapping[str, str], tell: Callable[[str], None]
) -> Iterator[Problem]:
    """Whether the certificates and keys fit each other, also those in secrets, and whether a handshake works."""
    certificates = Certificates(loaded, secret_values)
    yield from certificates.problems()
    for found in certificates.handshakes():
        if isinstance(found, Problem):
            yield found
        else:
            tell(found)


async def _check_stores(loaded: Loaded, secret_values: Mapping[str, str]) -> list[Problem]:
    """Whether the stores can be reached. Skips stores whose secrets are missing, and those that are the orchestrator's
    or private servers."""
    manifest = loaded.manifest
    if not manifest.databases and not manifest.caches:
        return []
    datastores = import_module("pywatt_host.stores.service")
    around = import_module("pywatt_host.stores.kinds").StoreContext(manifest.directory, manifest.module_id)
    stores = [datastores.DatabaseStore(*each, around, rotates=False) for each in manifest.databases.items()]
    stores += [datastores.CacheStore(*each, around) for each in manifest.caches.items()]
    problems = []
    for store in stores:
        if not store.names <= secret_values.keys() or store.elsewhere:
            continue
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                await store.try_once(secret_values)
        except (StoreError, TimeoutError) as error:
            message = error.message if isinstance(error, StoreError) else f"no answer within {_CONNECT_TIMEOUT:g}s"
            node, path = loaded.node_at((*store.name.split(".", 1), "url"))
            problems.append(node.problem(path, "unreachable", message))
        finally:
            await store.close()
    return problems


async def _check_nats(loaded: Loaded, secret_values: Mapping[str, str]) -> list[Problem]:
    """Whether a NATS server accepts the connection. Skips a channel whose secrets are missing, and a private server."""
    settings = loaded.manifest.channels.nats
    if settings is None or any(url.startswith(DEV_NATS) for url in settings.servers):
        return []
    connections = import_module("pywatt_host.nats.connection")
    resolve = loaded.manifest.resolve
    connection = connections.NatsConnection(
        loaded.manifest.module_id,
        settings,
        "_INBOX",
        secret_values=lambda: secret_values,
        resolve=resolve,
        timeout=_CONNECT_TIMEOUT,
    )
    if not connection.secrets <= secret_values.keys():
        return []
    try:
        await connections.closed(await connection.open())
    except ChannelError as error:
        node, path = loaded.node_at("channels.nats.servers")
        return [node.problem(path, "unreachable", f"{error.address}: {error.message}")]
    return []


def _check_traces(loaded: Loaded, secret_values: Mapping[str, str]) -> list[Problem]:
    """Whether the endpoint of the manifest takes spans: it is sent none. Skips one whose secrets are missing."""
    manifest = loaded.manifest
    if manifest.tracing is None or not manifest.tracing.enabled or manifest.tracing.endpoint is None:
        return []
    read = import_module("pywatt_host.observability.trace_settings")
    settings = read.read_settings(manifest.tracing, {}, name="", version="", directory=manifest.directory, sdk="")
    destination = settings.destinations[0]
    headers = read.rendered(destination.headers, secret_values)
    if headers is None:
        return []
    connection = import_module("pywatt_host.observability.otlp_http").OtlpConnection(destination, "pywatt-host")
    outcome = connection.post(b"", headers, _CONNECT_TIMEOUT)
    connection.close()
    if outcome.taken:
        return []
    node, path = loaded.node_at("tracing.endpoint")
    return [node.problem(path, "unreachable", f"{destination.url}: {outcome.reason}")]


async def _check_issuers(loaded: Loaded) -> list[Problem]:
    """Whether the issuers publish their keys."""
    problems = []
    for name, scheme in loaded.manifest.auth.items():
        if _has_an_issuer(scheme):
            remote = import_module("pywatt_host.auth.remote").RemoteKeys(name, scheme)
            try:
                await remote.try_once()
            except AuthError as error:
                node, path = loaded.node_at(("auth", name))
                problems.append(node.problem(path, "unreachable", error.message))
    return problems


async def _check_secrets(loaded: Loaded, env_file: Path | None) -> tuple[list[Problem], Mapping[str, str]]:
    """Whether the sources have the secrets. Also returns the values that were found.

    The orchestrator is not available here. So a secret that no other source has is only a warning if the orchestrator
    is a source.
    """
    manifest = loaded.manifest
    if not manifest.secret_keys:
        return [], {}
    declared = manifest.secrets.sources
    sources = make_sources(
        declared, directory=manifest.directory, environ=environment(None, env_file, Report()), fetch=None
    )
    elsewhere = declared is None or any(each.kind == "orchestrator" for each in declared)
    store = SecretStore(manifest.secret_keys, sources, Masker())
    try:
        await store.load()
    except SecretError as error:
        problems = []
        for name, why in error.missing or (("", error.message),):
            node, path = loaded.node_at(("secrets", "keys", name) if name else "secrets.keys")
            hint = "the orchestrator may provide it" if elsewhere else ""
            severity: Severity = "warning" if elsewhere else "error"
            problems.append(node.problem(path, "secret-missing", why, hint, severity=severity))
        return problems, store.secret_values
    return list(_doubts(loaded, store.secret_values)), store.secret_values


def _doubts(loaded: Loaded, values: Mapping[str, str]) -> Iterator[Problem]:
    """Warnings about values that are probably not what was meant."""
    for name, key in loaded.manifest.secret_keys.items():
        doubt = doubt_about(values[name], required=key.required) if name in values else None
        if doubt is not None:
            node, path = loaded.node_at(("secrets", "keys", name))
            yield node.problem(path, doubt.code, f"the secret {name} {doubt.message}", doubt.hint, severity="warning")


async def _check_channels(loaded: Loaded) -> list[Problem]:
    """Whether the channels that connect to an address can connect."""
    channels, resolve = loaded.manifest.channels, loaded.manifest.resolve
    wanted: list[tuple[str, str, str | TcpAddress]] = []
    if channels.ipc is not None and channels.ipc.connect is not None:
        wanted.append(("channels.ipc.connect", channels.ipc.connect, str(resolve(channels.ipc.connect))))
    if channels.tcp is not None and channels.tcp.connect is not None:
        wanted.append(("channels.tcp.connect", str(channels.tcp.connect), channels.tcp.connect))
    problems = []
    for key, shown, target in wanted:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                if isinstance(target, str):
                    _, writer = await asyncio.open_unix_connection(target)
                else:
                    _, writer = await asyncio.open_connection(target.host, target.port)
        except (OSError, TimeoutError) as error:
            number = getattr(error, "errno", None)
            why = os.strerror(number) if number else f"no answer within {_CONNECT_TIMEOUT:g}s"
            node, path = loaded.node_at(key)
            problems.append(node.problem(path, "unreachable", f"cannot connect to {shown}: {why.lower()}"))
        else:
            writer.close()
    return problems


def _has_an_issuer(scheme: AuthScheme) -> bool:
    """Whether the keys of a scheme are fetched from an issuer."""
    own = scheme.secret is not None or scheme.public_key is not None or scheme.uses_dev_issuer
    return scheme.type in ("jwt", "oidc") and not own
