"""A file with variables that a server puts into the environment of the application."""

from __future__ import annotations

from pathlib import Path

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.inputs import read_text
from pywatt_host.imports.sensitive import is_sensitive
from pywatt_host.manifest.layers.environment import read_dotenv


def put_env_file(draft: Draft, setting: Setting) -> None:
    """Set the variables of a dotenv file. Its secrets stay in the file, which becomes a source of secrets."""
    given = draft.plain(setting)
    path = draft.folder / given
    if not path.is_file():
        message = f"the file {given[:80]} does not exist here, so its variables are not known"
        draft.lost(setting, message, "write them under app.env")
        return
    read_text(path, given)
    variables = read_dotenv(Path(path))
    for name, value in variables.items():
        draft.put_variable(Setting(setting.name, value, setting.place), name, value)
    if any(is_sensitive(name, value) for name, value in variables.items()):
        draft.secret_sources += ["env", {"dotenv": draft.path(given)}]
