"""The listeners and settings of NGINX Unit."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from pywatt_host.imports import common
from pywatt_host.imports.draft import Draft, Setting, tcp
from pywatt_host.imports.findings import Kind, UnreadableError
from pywatt_host.imports.json_nodes import Node
from pywatt_host.manifest.values import format_size
from pywatt_host.manifest.values.addresses import TCP_ADDRESS

DEFAULT_BODY = 8 * 1024**2  # of Unit; a larger body is 413
_MAX_PORT = 65535
_MODE = "0666"  # of Unit's sockets
_NETWORKS_OF_RANGE = 64
_FILE = re.compile(r"[^A-Za-z0-9._-]+")
_HTTP_LOST = {
    "body_buffer_size": ("the host streams bodies", ""),
    "body_temp_path": ("the host writes no bodies to files", "set TMPDIR for the application"),
    "chunked_transform": ("a chunked body reaches the application as it is", ""),
    "compression": ("the host compresses with gzip", "server.compress: true"),
    "discard_unsafe_fields": ("the host refuses headers whose names are no tokens", ""),
    "large_header_buffer_size": ("one limit holds for the whole head", "server.limits.header"),
    "large_header_buffers": ("one limit holds for the whole head", "server.limits.header"),
    "header_buffer_size": ("one limit holds for the whole head", "server.limits.header"),
    "log_route": ("the log does not tell which step was taken", "logging.level: debug"),
    "server_version": ("the host sends no Server header", ""),
    "static": ("types of files are those of Python's mimetypes and of the system", ""),
}
_HTTP_SECONDS = {
    "header_read_timeout": "server.timeouts.header",
    "body_read_timeout": "server.timeouts.body",
    "send_timeout": "server.timeouts.write",
    "idle_timeout": "server.timeouts.keep_alive",
}


def put_listeners(draft: Draft, listeners: Mapping[str, Node]) -> None:
    """Set the addresses of these listeners, their TLS, backlog and proxies."""
    entries: list[tuple[Any, dict[str, Any] | None]] = []
    for text, node in listeners.items():
        address = _address(text, node)
        if address is None:
            _note(
                draft,
                "lost",
                node,
                f"{text[:80]} is not an address that the host can listen on",
                "write it under server.listen",
            )
            node.plain()
            continue
        entries.append((address, _tls(draft, node)))
        _options(draft, node)
    if not entries:
        raise UnreadableError(
            next(iter(listeners.values())).place, "no listener has an address that the host can listen on"
        )
    kinds = [tls for _, tls in entries]
    found: list[Any]
    if all(tls == kinds[0] for tls in kinds):
        found = [address for address, _ in entries]
        if kinds[0] is not None:
            draft.put("server.tls", kinds[0])
    else:
        found = [
            {"address": address, "tls": tls or "off"} if isinstance(address, str) else address
            for address, tls in entries
        ]
    draft.put("server.listen", found[0] if len(found) == 1 else found)


def _address(text: str, node: Node) -> Any:
    if text.startswith("unix:@") or text == "unix:":
        return None
    if text.startswith("unix:"):
        return {"unix": text.removeprefix("unix:"), "mode": _MODE}
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        return None
    written = tcp(host, int(port))
    return written if TCP_ADDRESS.fullmatch(written) else None


def _tls(draft: Draft, node: Node) -> dict[str, Any] | None:
    tls = node.child("tls")
    if tls is None:
        return None
    found: dict[str, Any] = {}
    for name, value in tls.children().items():
        if name == "certificate":
            names = [each.text() for each in value.items()]
            for more in names[1:]:
                _note(
                    draft,
                    "lost",
                    value,
                    f"a listener has one certificate, and {more[:60]} is a further one",
                    "use one certificate for all names",
                )
            file = (
                f"tls/{_FILE.sub('-', names[0]).strip('.-') or 'certificate'}.pem" if names else "tls/certificate.pem"
            )
            found |= {"cert": file, "key": file}
            hint = (
                f"copy it to {file} beside the manifest, with its key: Unit keeps it in its state folder, under certs/"
            )
            _note(draft, "todo", value, "Unit keeps the certificate, and the host reads it from a file", hint)
        elif name == "conf_commands":
            commands = {key.lower(): each for key, each in (value.plain() or {}).items()}
            if commands.pop("minprotocol", "") == "TLSv1.3":
                found["min_version"] = "1.3"
            for command in commands:
                if command != "minprotocol":
                    _note(
                        draft, "lost", value, f"{command[:60]}: the host uses modern ciphers", "server.tls.min_version"
                    )
        else:
            value.plain()
            _note(draft, "lost", value, "the host decides about sessions of TLS itself")
    return found


def _options(draft: Draft, node: Node) -> None:
    for name, value in node.children().items():
        if name == "forwarded":
            _forwarded(draft, value)
        elif name == "client_ip":
            _client_ip(draft, value)
        elif name == "backlog":
            draft.put_count("server.limits.backlog", Setting(value.path, value.value, value.place), 65535)


def _forwarded(draft: Draft, node: Node) -> None:
    values = node.children()
    source = values.pop("source", None)
    for name, value in values.items():
        expected = {"client_ip": "x-forwarded-for", "protocol": "x-forwarded-proto"}.get(name)
        if name == "recursive":
            _recursive(draft, value)
        elif expected is None or not isinstance(value.value, str) or value.value.lower() != expected:
            value.plain()
            _note(
                draft, "lost", value, "the host reads X-Forwarded-For and X-Forwarded-Proto", "let the proxy send these"
            )
    _trusted(draft, source)


def _client_ip(draft: Draft, node: Node) -> None:
    values = node.children()
    header = values.get("header")
    if header is not None and header.text().lower() != "x-forwarded-for":
        _note(draft, "lost", header, "the host reads X-Forwarded-For", "let the proxy send it")
    if "recursive" in values:
        _recursive(draft, values["recursive"])
    _trusted(draft, values.get("source"))


def _recursive(draft: Draft, node: Node) -> None:
    if node.value is not True:
        message = "the host reads the header from its end, up to the first address that is no trusted proxy"
        _note(draft, "differs", node, message)


def _trusted(draft: Draft, source: Node | None) -> None:
    for each in source.items() if source is not None else []:
        for network in _networks(each.text()):
            draft.add("server.trusted_proxies", network)
        if not _networks(each.text()):
            message = f"{each.text()[:60]} is not an address, a network or a range of addresses"
            _note(draft, "lost", each, message, "name the proxies under server.trusted_proxies")


def _networks(text: str) -> list[str]:
    """The networks of a pattern of addresses; empty for one that a manifest cannot express."""
    if text == "unix":
        return ["unix"]
    try:
        if "-" in text:
            first, _, last = text.partition("-")
            some = list(ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last)))
            return [str(each) for each in some] if len(some) <= _NETWORKS_OF_RANGE else []
        if "/" in text:
            return [str(ipaddress.ip_network(text, strict=False))]
        return [str(ipaddress.ip_address(text.strip("[]")))]
    except (ValueError, TypeError):
        return []


def put_settings(draft: Draft, config: Node) -> None:
    """Set the limits and times of `settings.http`, and the access log."""
    draft.put("server.limits.body", format_size(DEFAULT_BODY))
    settings = config.child("settings")
    http: Node | None = None
    for name, value in (settings.children() if settings is not None else {}).items():
        if name == "http":
            http = value
        elif name == "telemetry":
            value.plain()
            _note(draft, "lost", value, "the host sends traces by OTLP over HTTP", "tracing: http://127.0.0.1:4318")
        else:
            value.plain()
            _note(draft, "lost", value, "the manifest has no such key")
    for name, value in (http.children() if http is not None else {}).items():
        _http(draft, name, value)
    log = config.child("access_log")
    if log is not None:
        log.plain()
        draft.put("logging.access", True)
        _note(
            draft,
            "lost",
            log,
            "the host writes its access log to standard error, in a format of its own",
            "collect it with systemd or the container",
        )


def _http(draft: Draft, name: str, node: Node) -> None:
    setting = Setting(node.path, node.value, node.place)
    if name == "max_body_size":
        common.bytes_limit(draft, "server.limits.body", Setting(node.path, node.whole(), node.place))
    elif name in _HTTP_SECONDS:
        draft.put_seconds(_HTTP_SECONDS[name], setting, off_at_zero=name in ("body_read_timeout", "send_timeout"))
    elif name == "websocket":
        for key, value in node.children().items():
            inner = Setting(value.path, value.value, value.place)
            if key == "max_frame_size":
                common.bytes_limit(draft, "server.limits.websocket.message", inner)
                draft.differs(inner, "the limit holds for a whole message")
            else:
                draft.lost(inner, "the host pings WebSockets by itself")
    else:
        node.plain()
        draft.lost(setting, *_HTTP_LOST.get(name, ("the manifest has no such key", "")))


def _note(draft: Draft, kind: Kind, node: Node, message: str, hint: str = "") -> None:
    draft.note(kind, Setting(node.path, None, node.place), message, hint)
