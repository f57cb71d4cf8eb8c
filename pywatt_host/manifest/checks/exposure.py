"""Checks of what a manifest opens to more clients than it should: files, cookies, and the word of every client."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from pywatt_host.manifest.model import AppMount, DirectoryMount, Manifest
from pywatt_host.manifest.problems import KeyPath, Severity
from pywatt_host.manifest.values.addresses import everybody
from pywatt_host.manifest.values.names import is_hidden

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

_PRIVATE_FOLDER = ".pywatt"  # control sockets, tokens of channels, data of private servers
_FOREIGN_ORIGINS = ("https://a-website.invalid", "http://192.0.2.1:8080")  # of no application (RFC 2606, RFC 5737)
_LONGEST_PATH = 4096  # characters; a longer text is the credential itself


class ExposureChecks:
    """Warns with `add`. `unset` says whether a value was left out because a variable is not set."""

    def __init__(self, manifest: Manifest, add: Add, unset: Callable[[KeyPath], bool]) -> None:
        self._manifest = manifest
        self._add = add
        self._unset = unset

    def check(self) -> None:
        for number, mount in enumerate(self._manifest.mounts):
            path: KeyPath = ("mounts", number, "directory")
            if isinstance(mount, DirectoryMount) and not self._unset(path):
                self._served_files(path, mount)
        self._cors()
        if everybody(self._manifest.server.trusted_proxies):
            message = "every client is a trusted proxy and can choose the client address, scheme and host that it has"
            hint = "list the addresses of your proxies, such as 10.0.0.0/8"
            self._add(("server", "trusted_proxies"), "trusts-everybody", message, hint, "warning")

    # Files ------------------------------------------------------------------------------------------------------------

    def _served_files(self, path: KeyPath, mount: DirectoryMount) -> None:
        folder = self._manifest.resolve(mount.directory)
        hint = "serve a folder that has nothing but public files, such as ./public"
        for what, file in self._secret_files():
            if _serves(folder, file, mount.hidden):
                message = f"every client can read {what}: it is in this folder"
                self._add(path, "served-secret", message, hint, "warning")
        for what, file in self._source_files():
            if _serves(folder, file, mount.hidden):
                message = f"every client can read {what}: it is in this folder"
                self._add(path, "served-source", message, hint, "warning")
                break

    def _secret_files(self) -> Iterator[tuple[str, Path]]:
        """Files and folders with secrets. They are named by their keys: a path may come from a variable."""
        manifest = self._manifest
        for number, source in enumerate(manifest.secrets.sources or ()):
            named = {"dotenv": source.dotenv, "directory": source.directory, "file": source.file}
            if source.vault is not None:
                named["vault.token_file"] = source.vault.token_file
            for key, name in named.items():
                if name is not None:
                    yield f"the file of secrets.sources[{number}].{key}", manifest.resolve(name)
        for each in manifest.server.declared_tls():
            if isinstance(each.tls.key, str):
                yield f"the file of {each.key}.key", manifest.resolve(each.tls.key)
        tcp, nats = manifest.channels.tcp, manifest.channels.nats
        if tcp is not None and tcp.tls is not None and tcp.tls.key is not None:
            yield "the file of channels.tcp.tls.key", manifest.resolve(tcp.tls.key)
        if nats is not None and nats.tls is not None and nats.tls.key is not None:
            yield "the file of channels.nats.tls.key", manifest.resolve(nats.tls.key)
        if nats is not None and isinstance(nats.credentials, str) and _is_path(nats.credentials):
            yield "the file of channels.nats.credentials", manifest.resolve(nats.credentials)
        for number, service in enumerate(manifest.services.static):
            if service.tls is not None and service.tls.key is not None:
                yield f"the file of services.static[{number}].tls.key", manifest.resolve(service.tls.key)
        yield f"the folder {_PRIVATE_FOLDER}", manifest.resolve(_PRIVATE_FOLDER)

    def _source_files(self) -> Iterator[tuple[str, Path]]:
        manifest = self._manifest
        if manifest.source is not None:
            yield "the manifest", Path(manifest.source)
        applications = [("app", manifest.app)] if manifest.app is not None else []
        mounted = [(f"mounts[{number}]", mount) for number, mount in enumerate(manifest.mounts)]
        for key, options in (*applications, *((key, each) for key, each in mounted if isinstance(each, AppMount))):
            folder = manifest.resolve(options.working_dir)
            yield f"the source of {key}.import_path", folder
            for name in options.import_path.partition(":")[0].split("."):
                folder = folder / name
                for file in (folder.with_name(f"{name}.py"), folder / "__init__.py"):
                    if file.is_file():
                        yield f"the source of {key}.import_path", file

    # Origins ----------------------------------------------------------------------------------------------------------

    def _cors(self) -> None:
        cors = self._manifest.server.cors
        if cors is None or not cors.allow_credentials:
            return
        if "*" in cors.allow_origins or _matches_every_origin(cors.allow_origin_regex):
            message = "every website can send requests with its visitors' cookies, and read the responses"
            hint = "list the origins of your own websites, or set allow_credentials: false"
            self._add(("server", "cors", "allow_credentials"), "cors-credentials", message, hint, "warning")


def _serves(folder: Path, file: Path, hidden: bool) -> bool:
    """Whether a mounted folder serves a file, or a folder with files. A symbolic link that leads out of the folder is
    not followed, and a name that begins with a dot is not served, unless `hidden` says so."""
    try:
        root, real = os.path.realpath(folder), os.path.realpath(file)
    except (OSError, ValueError):
        return False
    if not os.path.isdir(root) or not Path(real).is_relative_to(root):
        return False
    # By its own name, or by the name that the manifest gives: that may be a link in the folder.
    parent = os.path.join(os.path.realpath(file.parent), file.name)
    names = [os.path.relpath(each, root) for each in (real, parent) if Path(each).is_relative_to(root)]
    return hidden or any(not is_hidden(name) for name in names)


def _is_path(text: str) -> bool:
    return len(text) < _LONGEST_PATH and "\n" not in text


def _matches_every_origin(pattern: str | None) -> bool:
    try:
        return pattern is not None and all(re.fullmatch(pattern, origin) for origin in _FOREIGN_ORIGINS)
    except re.error:
        return False
