"""Settings that gunicorn, uvicorn and hypercorn share: addresses, trusted proxies, TLS, log levels, applications."""

from __future__ import annotations

import ast
import ipaddress
import os
import re
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from pywatt_host.imports.draft import EVERY_PROXY, Draft, Setting, import_path, tcp, wrong
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.text import Template, Text, Written, written
from pywatt_host.manifest.values import format_size
from pywatt_host.manifest.values.http import HEADER_NAME_PATTERN, HEADER_VALUE_PATTERN, response_headers

_UNIX = re.compile(r"unix:(//)?")
_MAX_JITTER = 50  # percent
_HEADER_NAME = re.compile(HEADER_NAME_PATTERN[1:-1] + r"\Z")
_HEADER_VALUE = re.compile(HEADER_VALUE_PATTERN[1:-1] + r"\Z")
_LEVELS = {"trace": "debug", "notset": "debug", "warn": "warning", "fatal": "critical"}
_HOST_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


def address(setting: Setting, text: Text, usual_port: int) -> str | dict[str, str]:
    """An address as gunicorn and hypercorn write it: `host:port`, `[::1]:port`, `host`, `unix:PATH`, `fd://N`."""
    start = text if isinstance(text, str) else str(text.parts[0]) if isinstance(text.parts[0], str) else ""
    if _UNIX.match(start):
        if isinstance(text, Template):
            return written(text)
        return f"unix:{_UNIX.sub('', text, count=1)}"
    if start.startswith("fd://"):
        return (
            written(text).replace("fd://", "fd:", 1)
            if isinstance(text, str)
            else Written(text.written().replace("fd://", "fd:", 1))
        )
    if isinstance(text, Template):
        body = (
            Template.joined(start.removeprefix("tcp://"), *(Template((part,)) for part in text.parts[1:]))
            if start
            else text
        )
        assert isinstance(body, Template)
        if ":" not in "".join(part for part in body.parts if isinstance(part, str)) and len(body.parts) > 1:
            body_text = Template.joined(body, f":{usual_port}")
        else:
            body_text = body
        found = written(body_text)
        return Written(found.removeprefix("0.0.0.0")) if found.startswith("0.0.0.0:") else found
    body_plain = text.removeprefix("tcp://")
    if "[" in body_plain:
        host, _, port = body_plain.removeprefix("[").partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = body_plain.partition(":")
    port = port or str(usual_port)
    if not port.isdecimal() or int(port) > 65535:
        raise UnreadableError(
            setting.place, f"{setting.name}: this is not an address", "write host:port, unix:PATH or fd://N"
        )
    return tcp(host, int(port))


def unix_mode(draft: Draft, umask: int) -> None:
    """Give Unix sockets in `server.listen` the mode that another server gives them."""
    listen = draft.get("server.listen")
    some = listen if isinstance(listen, list) else [listen]
    mode = f"{0o777 & ~umask:04o}"
    changed = [
        {"unix": each.removeprefix("unix:"), "mode": mode}
        if isinstance(each, str) and each.startswith("unix:") and not isinstance(each, Written)
        else each
        for each in some
    ]
    if changed != some:
        draft.put("server.listen", changed if isinstance(listen, list) else changed[0])


def trust(draft: Draft, setting: Setting, text: Text) -> None:
    """Set the trusted proxies from a list such as `127.0.0.1,10.0.0.0/8` or `*`."""
    if isinstance(text, Template):
        text = draft.plain(Setting(setting.name, text, setting.place))
    entries = [each.strip() for each in text.split(",") if each.strip()]
    for each in entries:
        if each == "*":
            draft.add("server.trusted_proxies", *EVERY_PROXY, "unix")
            draft.differs(
                setting,
                "every client is trusted to say who it is, as before",
                "name the proxies under server.trusted_proxies",
            )
            continue
        try:
            draft.add(
                "server.trusted_proxies",
                str(ipaddress.ip_network(each, strict=False)) if "/" in each else str(ipaddress.ip_address(each)),
            )
        except ValueError:
            draft.lost(
                setting, f'"{each[:60]}" is not an address or a network', "name addresses under server.trusted_proxies"
            )


def tls_of(draft: Draft, settings: dict[str, Setting], cert: str, key: str, ca: str) -> None:
    """Set `server.tls` from the files of a certificate. `cert`, `key` and `ca` are the names of the settings."""
    settings = {name: settings[name] for name in (cert, key, ca) if name in settings and _given(draft, settings[name])}
    if cert not in settings:
        for name in (key, ca):
            if name in settings:
                draft.lost(settings[name], f"there is no {cert}, so there is no TLS")
        return
    certificate = draft.path(draft.text(settings[cert]))
    draft.put("server.tls.cert", certificate)
    # One file may have both.
    draft.put("server.tls.key", draft.path(draft.text(settings[key])) if key in settings else certificate)
    if ca in settings:
        draft.put("server.tls.client_ca", draft.path(draft.text(settings[ca])))


def _given(draft: Draft, setting: Setting) -> bool:
    """Whether a file is named: an empty text names none."""
    value = setting.value
    if isinstance(value, Template) and value.value(draft.environ) == "":
        names = ", ".join(each.name for each in value.variables)
        message = f"it is empty, since the environment does not have {names} here"
        draft.lost(setting, message, "set server.tls where the environment has it")
        return False
    return not (isinstance(value, str) and value == "")


def client_certificates(draft: Draft, setting: Setting | None) -> None:
    """Set what clients have to show: 0 nothing, 1 a certificate or none, 2 a certificate (ssl.VerifyMode)."""
    value = setting.value if setting is not None else 0
    name = str(value).rpartition(".")[2].lower()
    named = {"cert_none": 0, "cert_optional": 1, "cert_required": 2}.get(name, value)
    demanded = str(named).strip()
    has_ca = draft.get("server.tls.client_ca") is not None
    if demanded not in ("0", "1", "2"):
        assert setting is not None
        raise wrong(setting, "0, 1 or 2")
    if demanded == "0":
        if has_ca:
            del draft.data["server"]["tls"]["client_ca"]
        return
    assert setting is not None
    if not has_ca:
        draft.lost(setting, "there are no CA certificates to verify clients with", "add server.tls.client_ca")
    elif demanded == "1":
        draft.put("server.tls.client_cert", "optional")


def level(draft: Draft, setting: Setting) -> None:
    """Set the log level."""
    value = setting.value
    text = draft.text(setting) if isinstance(value, str | Template) else str(value)
    if isinstance(text, Template):
        draft.put("logging.level", text.written())
        return
    named = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "critical"}.get(text, text.lower())
    named = _LEVELS.get(named, named)
    if named not in _HOST_LEVELS:
        draft.lost(
            setting,
            f'"{text[:40]}" is not a level',
            "write debug, info, warning, error or critical under logging.level",
        )
    else:
        draft.put("logging.level", named)


def application(draft: Draft, setting: Setting, attribute: str) -> None:
    """Set the application from `module:attribute`, `module:attribute()` or a module."""
    text = draft.plain(setting)
    module, colon, name = text.partition(":")
    call = _call(name) if colon and "(" in name else None
    if call is not None:
        name, positional, keywords = call
        draft.put("app.factory", True)
        if keywords:
            draft.put("app.args", keywords)
        if positional:
            raise UnreadableError(
                setting.place,
                f"{setting.name}: the factory has positional arguments",
                "write them as keyword arguments",
            )
        text = f"{module}:{name}"
    found = import_path(text.removesuffix(".py") if not colon else text, attribute)
    if found is None:
        raise UnreadableError(
            setting.place,
            f'{setting.name}: "{text[:80]}" is not module:attribute',
            "name the application with --app MODULE:ATTRIBUTE",
        )
    draft.put("app.import_path", found)


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]] | None:
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            keywords = {each.arg: ast.literal_eval(each.value) for each in node.keywords if each.arg is not None}
            return node.func.id, [ast.literal_eval(each) for each in node.args], keywords
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return None


def choose_application(draft: Draft, setting: Setting | None, attribute: str) -> None:
    """Set the application: the one that `--app` names, else that of the configuration."""
    if draft.app is not None:
        application(draft, Setting("--app", draft.app, Place("command line")), attribute)
    elif setting is not None:
        application(draft, setting, attribute)


def has_module(draft: Draft, folder: Path) -> bool:
    """Whether a folder has the module or the package of the application."""
    package = str(draft.get("app.import_path")).partition(":")[0].partition(".")[0]
    try:
        return os.path.isfile(folder / f"{package}.py") or os.path.isdir(folder / package)
    except ValueError:
        return False


def there(path: Path, setting: Setting) -> None:
    """Raise UnreadableError where a setting names a file that does not exist."""
    if not os.path.lexists(path):
        message = f"{setting.name}: the file {os.path.relpath(path)[:80]} cannot be read: it does not exist"
        raise UnreadableError(setting.place, message, "give the path as it is from the folder of the command")


def settle_folder(draft: Draft) -> None:
    """Start from the folder that has the application: that of the configuration, else the current one, else the one
    above the configuration, as in `deploy/gunicorn.conf.py`."""
    places = (draft.folder, Path.cwd(), draft.folder.parent)
    draft.folder = next((place for place in places if has_module(draft, place)), draft.folder)


def recycle(draft: Draft, setting: Setting, jitter: Setting | None) -> None:
    """Set the number of requests after which a worker is replaced, and by how much it differs between workers."""
    if not draft.put_count("server.workers.recycle.requests", setting, 10**9) or jitter is None:
        return
    requests, spread = draft.number(setting), draft.number(jitter)
    if isinstance(requests, str) or isinstance(spread, str):
        message = "a share of numbers that the environment gives cannot be computed"
        draft.lost(jitter, message, "set server.workers.recycle.jitter")
        return
    draft.put("server.workers.recycle.jitter", f"{min(_MAX_JITTER, round(100 * spread / requests))}%")


def bytes_limit(draft: Draft, path: str, setting: Setting) -> None:
    """Set a limit in bytes. The manifest has no limit of 0 bytes."""
    number = draft.number(setting)
    if isinstance(number, Written):
        draft.put(path, Written(f"{number}B"))
    elif int(number) == 0:
        draft.lost(setting, "0 has no counterpart", f"{path} needs a size above 0")
    else:
        draft.put(path, format_size(int(number)))


def header(draft: Draft, setting: Setting, name: str, value: str) -> None:
    """Put a header on every response, if the manifest allows it there."""
    if _HEADER_NAME.match(name) and _HEADER_VALUE.match(value):
        try:
            response_headers({name: value})
        except PydanticCustomError as error:
            draft.lost(setting, error.message())
            return
        headers = draft.get("server.headers") or {}
        draft.put("server.headers", {**headers, name: value})
        draft.differs(setting, f"{name}: a header of the application takes its place")
    else:
        draft.lost(setting, "the name or the value of the header is not printable ASCII")
