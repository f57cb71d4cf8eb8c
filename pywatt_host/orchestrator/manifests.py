"""The manifests of the modules of a workspace, as the modules themselves will load them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest.load import Examined, InitLayer, examine
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.source import Source
from pywatt_host.manifest.values.names import Script
from pywatt_host.manifest.workspace import manifest_file, script_of_module
from pywatt_host.orchestrator.launch import module_launch

# Reads a Python file with a decorated function, in a process with that environment and in that folder.
Describe: TypeAlias = Callable[[Script, Mapping[str, str], Path], Source]


class ModuleManifests:
    """Reads the manifests of the modules that have one: each time as they are on disk.

    `secret_names` are the names of all secrets that the workspace and the manifests declare, as far as they were read.
    """

    def __init__(self, workspace: Workspace, environ: Mapping[str, str], describe: Describe) -> None:
        """`environ` is the environment of `up`. `describe` raises AppLoadError and ManifestError."""
        self._workspace = workspace
        self._environ = environ
        self._describe = describe
        self.secret_names = {*workspace.secret_keys}
        for module in workspace.modules.values():
            self.secret_names |= set(module.secrets or ())

    @property
    def ids(self) -> list[str]:
        """The modules that have a manifest, and whose manifest exists. Those with a YAML file come first: their secrets
        are then withheld from the processes that read Python files."""
        found = [id for id, module in self._workspace.modules.items() if module.manifest is not None]
        present = [id for id in found if manifest_file(self._workspace, id).is_file()]
        return sorted(present, key=lambda id: self.script(id) is not None)

    @property
    def directory(self) -> Path:
        """The folder in which the modules run."""
        return self._workspace.directory

    def profile(self, id: str) -> str | None:
        """The profile of a module's manifest."""
        return self._workspace.modules[id].profile

    def script(self, id: str) -> Script | None:
        """The Python file that is the manifest of a module; None where it is a YAML file."""
        return script_of_module(self._workspace, id)

    def environment(self, id: str) -> Mapping[str, str]:
        """The environment of the module, as far as it is known before a start."""
        module = self._workspace.modules[id]
        return module_launch(id, module, self._workspace, self._environ, self.secret_names).environ

    def init(self, id: str) -> InitLayer:
        """What `up` will tell the module at its start."""
        module = self._workspace.modules[id]
        return InitLayer(None, id, dict(module.env), has_token=module.channel != "stdio")

    def source(self, id: str) -> Source:
        """The manifest of a module, or what its decorated function amounts to. Raises AppLoadError and ManifestError
        for a Python file that cannot be imported, or has no such function."""
        script = self.script(id)
        if script is not None:
            try:
                return self._describe(script, self.environment(id), self._workspace.directory)
            except ManifestError as error:
                raise ManifestError([replace(each, file=_shown(each.file)) for each in error.problems]) from None
            except AppLoadError as error:
                error.import_path = _shown(error.import_path)
                raise
        named = self._workspace.modules[id].manifest
        assert named is not None
        return Source.file(_shown(self._workspace.resolve(named)))

    def examined(self, id: str, *, allow_unset: bool = False) -> Examined:
        """The manifest of a module as far as it can be read, with every problem. Raises AppLoadError and ManifestError
        for a Python file that cannot be read."""
        inherited = {name: value for name, value in self._environ.items() if not name.startswith("PYWATT_")}
        profile = self._workspace.modules[id].profile
        found = examine(
            self.source(id), profile=profile, init=self.init(id), environ=inherited, allow_unset=allow_unset
        )
        if found.loaded is not None:  # others read the names in other threads
            self.secret_names = self.secret_names | set(found.loaded.manifest.secret_keys)
        return found

    def manifest(self, id: str) -> Manifest:
        """The manifest of a module. Raises AppLoadError and ManifestError."""
        found = self.examined(id)
        if found.faulty or found.loaded is None:
            raise ManifestError(list(found.problems))
        return found.loaded.manifest

    def load(self, ids: Iterable[str]) -> dict[str, Manifest]:
        """The manifests of those of these modules that have one. Raises AppLoadError and ManifestError for the first
        that has a fault."""
        return {id: self.manifest(id) for id in ids if self._workspace.modules[id].manifest is not None}


def _shown(path: str | Path) -> str:
    """A path as people write it: relative to the current folder if it is in it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
