"""A decorated function with its manifest, as the code that loads applications sees it."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from pywatt_host.exceptions import ChannelError, ManifestError
from pywatt_host.manifest import Manifest, Problem, Source, load
from pywatt_host.manifest.model import Endpoint, Section
from pywatt_host.manifest.problems import display_path
from pywatt_host.net.private_folders import make_private

Framework: TypeAlias = Literal["fastapi", "flask", "starlette", "django", "litestar", "quart", "asgi", "wsgi"]
FRAMEWORKS: tuple[str, ...] = get_args(Framework)

KeyPath: TypeAlias = tuple[str | int, ...]

TOKEN_FILE = ".pywatt/channel.token"  # relative to the manifest

logger = logging.getLogger("pywatt.host")


class Decorated:
    """A factory with a manifest of its own.

    `data` is what the decorator's arguments say, in the form of a manifest file; `objects` maps import paths in it to
    objects. `place` is where the decorator is, such as `users.py:12`, in `file`. `directory` is what relative paths are
    relative to. `implied` is the key path of a part of `data` that no argument says. `random_token` was generated for a
    TCP channel without a token.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        import_path: str,
        data: Mapping[str, Any],
        objects: Mapping[str, Any],
        framework: Framework | None,
        place: str,
        directory: Path,
        file: str | None = None,
        manifest_file: Path | None = None,
        implied: KeyPath = (),
        random_token: str | None = None,
    ) -> None:
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))
        self.function = function
        self.import_path = import_path
        self.data = data
        self.objects: Mapping[str, Any] = {**objects, import_path: self}
        self.framework = framework
        self.place = place
        self.directory = directory
        self.file = Path(file) if file is not None else None
        self.manifest_file = manifest_file
        self.implied = implied
        self.random_token = random_token

    def declared(self) -> Source:
        """The decorator's arguments as a manifest."""
        return Source.of_data(self.data, name=self.place, directory=self.directory, script=self.file)

    def source(self) -> Source:
        """The manifest to run: the file that the argument `manifest` names, else the arguments."""
        return self.declared() if self.manifest_file is None else Source.file(self.directory / self.manifest_file)

    def check_is_app_of(self, manifest: Manifest) -> None:
        """Raise ManifestError where the manifest is for another application than this function."""
        named = manifest.app.import_path if manifest.app is not None else "nothing"
        if named != self.import_path:
            message = f"{self.manifest_file or 'an override'} names {named} as the app, and not this function"
            raise ManifestError(
                [Problem(self.place, 0, 0, "manifest", "conflict", message, f"write there: app: {self.import_path}")]
            )

    def keep_token(self, manifest: Manifest) -> None:
        """Write the generated token of the TCP channel to a file that only its owner can read, for other modules of the
        same user. Does nothing where the channel has a token or listens on this machine only.

        Call it once the channel listens: a second start, which cannot listen, must not replace the token of the first.
        Raises ChannelError where the file cannot be written.
        """
        tcp = manifest.channels.tcp
        if self.random_token is None or tcp is None or tcp.token != self.random_token:
            return
        path = manifest.resolve(TOKEN_FILE)
        try:
            reason = make_private(path.parent)
            if reason:
                raise ChannelError(
                    "tcp", str(tcp.listen), f"it has no token, and {path.parent} is not private: {reason}"
                )
            descriptor, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
            try:
                with open(descriptor, "w") as file:
                    file.write(self.random_token + "\n")
                os.replace(new, path)
            except OSError:
                os.unlink(new)
                raise
        except OSError as error:
            why = f"it has no token, and {path} cannot be written: {(error.strerror or '').lower()}"
            raise ChannelError("tcp", str(tcp.listen), why) from error
        logger.warning(
            "the TCP channel on %s can be reached from other machines and tcp_config has no token: this start's is in "
            "%s",
            tcp.listen,
            path,
            extra={"key": "channels.tcp.token"},
        )


_HIDDEN = "something else"  # shown in place of a value that may be a secret


def differing(decorated: Decorated, manifest: Manifest) -> list[str]:
    """Where the decorator and a manifest that names its function differ, key by key.

    What a profile, an environment variable, `--set` or an orchestrator has changed in the manifest does not count.
    Raises ManifestError for a fault in the decorator.
    """
    said = load(decorated.declared(), environ={}).manifest
    return [
        f"{display_path(path)} {_told(mine, other)}"
        for path, mine, other in _differences(said, manifest, ())
        if path[0] not in ("app", "version")
        and not (decorated.implied and path[: len(decorated.implied)] == decorated.implied)
        and not any(path[:end] in manifest.overridden for end in range(len(path) + 1))
    ]


def _differences(said: Any, other: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str, str]]:
    if isinstance(said, Section) and isinstance(other, Section) and type(said) is type(other):
        for name in type(said).model_fields:
            if name in said.model_fields_set:
                alias = type(said).model_fields[name].alias or name
                yield from _differences(getattr(said, name), getattr(other, name), (*path, alias))
    elif isinstance(said, dict) and isinstance(other, dict):
        for name, value in said.items():
            if name in other:
                yield from _differences(value, other[name], (*path, name))
            else:
                yield (*path, name), "there", "missing"
    elif _plain(said) != _plain(other):
        yield path, _shown(said), _shown(other)


def _told(mine: str, other: str) -> str:
    if mine == _HIDDEN:
        return "is in the decorator and left out in the manifest" if other == "left out" else "differs"
    return f"is {mine} in the decorator and {other} in the manifest"


def _plain(value: Any) -> Any:
    """A value for comparison: the order of endpoints does not count."""
    if isinstance(value, tuple) and all(isinstance(each, Endpoint) for each in value):
        return sorted((each.model_dump() for each in value), key=lambda each: (each["path"], each["methods"]))
    return value


def _shown(value: Any) -> str:
    """The value as text: short, and without anything that may be a secret."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "left out"}[value]
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple) and all(isinstance(each, Endpoint) for each in value):
        listed = ", ".join(f"{' '.join(each.methods)} {each.path}" for each in value[:8])
        return f"[{listed}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, str) and value.startswith("/"):
        return f'"{value[:80]}"'
    return _HIDDEN
