"""The settings that a Python configuration file assigns, and a finding for everything of it that cannot be read."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Place
from pywatt_host.imports.inputs import read_text
from pywatt_host.imports.python_values import read_python

_BY_HAND = "write the settings that it changes into the manifest by hand"


def python_settings(path: Path, name: str, draft: Draft, names: Set[str]) -> dict[str, Setting]:
    """The settings of a configuration file, which is read and never run. `names` are those that the server has."""
    file = read_python(read_text(path, name), name, draft.folder, draft.environ)
    for line in file.decided:
        message = "variables of the environment decide here, and were taken as they are now"
        draft.differs(Setting("if", None, Place(name, line)), message, "import again where they differ")
    for module, line in file.taken_from:
        setting = Setting("import *", None, Place(name, line))
        message = f"settings that the module {module[:60]} gives are not read"
        draft.lost(setting, message, "import that file too, and merge")
    for unread in file.unread:
        if not unread.names or unread.names & names:
            draft.lost(Setting(unread.key, None, Place(name, unread.line)), unread.message, _BY_HAND)
    return {
        key: Setting(key, each.value, Place(name, each.line)) for key, each in file.assigned.items() if key in names
    }
