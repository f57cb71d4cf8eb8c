"""The manifests of the modules of a workspace, as the modules themselves will load them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.load import InitLayer, load
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import Problem
from pywatt_host.manifest.source import Source


def load_manifests(workspace: Workspace, environ: Mapping[str, str]) -> dict[str, Manifest]:
    """The manifests of all modules that have one. `environ` is the environment of `up`. Raises ManifestError with all
    errors of all manifests."""
    manifests: dict[str, Manifest] = {}
    faults: list[Problem] = []
    for id in workspace.modules:
        try:
            manifests |= load_some(workspace, (id,), environ)
        except ManifestError as error:
            faults += error.problems
    if faults:
        raise ManifestError(faults)
    return manifests


def load_some(workspace: Workspace, ids: Iterable[str], environ: Mapping[str, str]) -> dict[str, Manifest]:
    """The manifests of those of these modules that have one. Raises ManifestError with the errors of the first manifest
    that has any."""
    inherited = {name: value for name, value in environ.items() if not name.startswith("PYWATT_")}
    manifests: dict[str, Manifest] = {}
    for id in ids:
        module = workspace.modules[id]
        if module.manifest is not None:
            source = Source.file(workspace.resolve(module.manifest))
            layer = InitLayer(None, id, dict(module.env), has_token=module.channel != "stdio")
            manifests[id] = load(source, profile=module.profile, init=layer, environ=inherited).manifest
    return manifests
