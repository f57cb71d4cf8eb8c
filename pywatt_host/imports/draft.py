"""A manifest in the making, and the settings that shape it. What several servers have in common is here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywatt_host.imports.findings import Finding, Kind, Place, UnreadableError
from pywatt_host.imports.sensitive import can_be_secret_name, is_sensitive
from pywatt_host.imports.text import Template, Text, Written, written
from pywatt_host.manifest.values import IMPORT_PATTERN

EVERY_PROXY = ("0.0.0.0/0", "::/0")
_HOUR = 3600
_MINUTE = 60
_OWNED = frozenset({"", "0.0.0.0", "*"})  # hosts that stand for every interface


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the imported configuration: its name there, its value, and where it stands."""

    name: str
    value: Any
    place: Place


@dataclass(slots=True)
class Draft:
    """A manifest in the making. `folder` is the folder that relative paths of the configuration start from;
    `destination` is the manifest's own folder, `name` its file there. `app` is the application that the user names,
    `has_port` says whether the platform sets the variable PORT."""

    folder: Path
    destination: Path
    environ: Mapping[str, str]
    app: str | None = None
    has_port: bool = False
    name: str = "pywatt.yaml"
    secrets: list[str] = field(default_factory=list)
    secret_sources: list[Any] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    # The manifest -----------------------------------------------------------------------------------------------------

    def put(self, path: str, value: Any) -> None:
        """Set a key of the manifest, such as `server.limits.body`."""
        *sections, last = path.split(".")
        place = self.data
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value

    def get(self, path: str) -> Any:
        """The value of a key; None if it is not set."""
        place: Any = self.data
        for part in path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return place

    def add(self, path: str, *values: Any) -> None:
        """Add values to a list of the manifest."""
        found = list(self.get(path) or [])
        found += [value for value in values if value not in found]
        self.put(path, found)

    # Findings ---------------------------------------------------------------------------------------------------------

    def note(self, kind: Kind, setting: Setting, message: str, hint: str = "") -> None:
        """Add a finding about a setting, once."""
        finding = Finding(kind, setting.place, setting.name, message, hint)
        if finding not in self.findings:
            self.findings.append(finding)

    def lost(self, setting: Setting, message: str, hint: str = "") -> None:
        self.note("lost", setting, message, hint)

    def differs(self, setting: Setting, message: str, hint: str = "") -> None:
        self.note("differs", setting, message, hint)

    # Values -----------------------------------------------------------------------------------------------------------

    def text(self, setting: Setting) -> Text:
        """The value as a text. Raises UnreadableError for anything else."""
        value = setting.value
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, Template):
            if value.writable:
                return value
            return self.plain(setting)
        if not isinstance(value, str):
            raise wrong(setting, "a text")
        return value

    def plain(self, setting: Setting) -> str:
        """The value as a text in which variables have been replaced by what they are now."""
        value = setting.value
        if isinstance(value, os.PathLike):
            return str(os.fspath(value))
        if isinstance(value, Template):
            found = value.value(self.environ)
            names = ", ".join(each.name for each in value.variables)
            if found is None:
                raise UnreadableError(
                    setting.place,
                    f"{setting.name} needs the variable {names}, which is not set",
                    "set it and try again",
                )
            self.differs(setting, f"was taken over with {names} as it is now", "edit the manifest where that is wrong")
            return found
        if not isinstance(value, str):
            raise wrong(setting, "a text")
        return value

    def number(self, setting: Setting) -> int | float | Written:
        """The value as a number that is not negative; with variables, the text for the manifest. What the variables
        are now counts where it is not a whole number above 0, which the manifest may have another word for."""
        value = setting.value
        if isinstance(value, Template):
            known = value.value(self.environ)
            if value.writable and (known is None or (known.strip().isdecimal() and int(known) > 0)):
                return value.written()
            value = self.plain(setting)
        if isinstance(value, str):
            value = _number(value)
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(setting, "a number")
        if not math.isfinite(value) or value < 0:
            raise wrong(setting, "a number that is not negative")
        return value

    def flag(self, setting: Setting) -> bool:
        """The value as a bool, as most servers read it."""
        value = setting.value
        if isinstance(value, Template):
            value = self.plain(setting)
        if isinstance(value, str):
            lowered = value.strip().lower()
            if lowered not in ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n", ""):
                raise wrong(setting, "true or false")
            return lowered in ("true", "1", "yes", "on", "t", "y")
        if isinstance(value, int):
            return bool(value)
        raise wrong(setting, "true or false")

    # What several servers have ----------------------------------------------------------------------------------------

    def put_seconds(self, path: str, setting: Setting, *, off_at_zero: bool = False) -> None:
        """Set a duration. Where zero switches a limit off, it becomes `off`."""
        value = self.number(setting)
        if isinstance(value, Written):
            self.put(path, Written(f"{value}s"))
        elif value == 0:
            if off_at_zero:
                self.put(path, "off")
            else:
                self.lost(setting, "0 has no counterpart", f"{path} needs a time above 0; its default is in effect")
        else:
            self.put(path, duration(value))

    def put_count(self, path: str, setting: Setting, highest: int) -> bool:
        """Set a count. Returns whether it was set: 0 leaves the default in effect, since it switches the limit off."""
        value = self.number(setting)
        if isinstance(value, Written):
            self.put(path, value)
            return True
        if value != int(value):
            raise wrong(setting, "a whole number")
        if int(value) > highest:
            self.differs(setting, f"{int(value)} is more than {path} allows", f"it became {highest}")
        if value:
            self.put(path, min(int(value), highest))
        return bool(value)

    def put_listen(self, setting: Setting, addresses: Iterable[Any]) -> None:
        """Set the addresses to listen on."""
        found = list(addresses)
        if not found:
            raise UnreadableError(setting.place, f"{setting.name} has no address")
        self.put("server.listen", found[0] if len(found) == 1 else found)

    def put_working_dir(self, folder: str | os.PathLike[str], key: str = "app") -> None:
        """Set the folder of the application's modules, relative to the manifest unless the configuration has an
        absolute path."""
        given = os.fspath(folder)
        if not os.path.isabs(given):
            given = os.path.relpath(self.folder / given, self.destination)
        if given != ".":
            self.put(f"{key}.working_dir", given)

    def path(self, text: Text) -> str:
        """A path of the configuration, relative to the manifest."""
        if isinstance(text, Template):
            return written(text)
        return text if os.path.isabs(text) else os.path.relpath(self.folder / text, self.destination)

    def put_variable(self, setting: Setting, name: str, value: Text, place: str = "app.env") -> None:
        """Set a variable of the application. A value that looks like a secret becomes one."""
        known = value.value(self.environ) if isinstance(value, Template) else value
        literal = (
            "".join(part for part in value.parts if isinstance(part, str)) if isinstance(value, Template) else value
        )
        env = self._section(place)
        defaults = [each.default or "" for each in value.variables] if isinstance(value, Template) else []
        texts = ["x" if known is None else known, literal, *defaults]
        sensitive = any(is_sensitive(name, text) for text in texts)
        if sensitive and not can_be_secret_name(name):
            self.lost(
                setting, f"{name[:60]} looks like a secret, and cannot be the name of one", "give it another name"
            )
        elif sensitive:
            env[name] = Written(f"${{secret:{name}}}")
            self.secrets += [name] if name not in self.secrets else []
            where = f"its value is in {setting.place}" if literal else "the environment has it"
            self.note(
                "secret",
                Setting(name, None, setting.place),
                where,
                f"set the variable {name} for `run`, or add a source under secrets.sources",
            )
        elif isinstance(value, Template) and not value.writable:
            env[name] = known if known is not None else ""
            self.differs(setting, f"{name} was taken over as its variables are now")
        else:
            env[name] = written(value)

    def _section(self, path: str) -> dict[str, Any]:
        found = self.get(path)
        if not isinstance(found, dict):
            self.put(path, {})
            found = self.get(path)
        assert isinstance(found, dict)
        return found


def wrong(setting: Setting, expected: str) -> UnreadableError:
    """The error for a value of the wrong kind. It does not show the value."""
    return UnreadableError(setting.place, f"{setting.name} is not {expected}")


def duration(seconds: float) -> str:
    """A duration for the manifest."""
    if seconds != int(seconds):
        return f"{math.ceil(seconds * 1000)}ms"
    whole = int(seconds)
    for unit, length in (("h", _HOUR), ("m", _MINUTE)):
        if whole and whole % length == 0:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def tcp(host: Text, port: Text | int) -> str:
    """A TCP address for the manifest. `*` and 0.0.0.0 are every interface."""
    if isinstance(host, str):
        bare = host.strip("[]")
        host = "" if bare in _OWNED else f"[{bare}]" if ":" in bare else bare
    return written(Template.joined(host, ":", str(port) if isinstance(port, int) else port))


def import_path(text: str, attribute: str) -> str | None:
    """`module:attribute`, where `attribute` is the usual one; None if the text is none."""
    module, colon, name = text.partition(":")
    found = f"{module}:{name if colon else attribute}"
    return found if re.match(IMPORT_PATTERN[:-1] + r"\Z", found) else None


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text.strip())
        except ValueError:
            continue
    return None
