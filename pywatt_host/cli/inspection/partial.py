"""What can be inspected of a faulty manifest."""

from __future__ import annotations

from collections.abc import Iterable

from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.load import Examined
from pywatt_host.manifest.model import App, AppMount, DirectoryMount, Manifest, Metrics
from pywatt_host.manifest.problems import KeyPath, display_path

# What may refer to something that is not declared, and is not needed to import an application.
_LEFT_ALONE = (
    "server", "secrets", "endpoints", "auth", "clients", "databases", "caches", "channels", "services", "resiliency",
    "tracing",
)  # fmt: skip


def without_references(manifest: Manifest) -> Manifest:
    """The applications of a manifest alone, from which a host can be built whatever is wrong with the rest."""
    plain = Manifest(version=1)
    update = {name: getattr(plain, name) for name in _LEFT_ALONE}
    return manifest.model_copy(update={**update, "metrics": Metrics.model_construct(enabled=False)})


def uninspectable(examined: Examined) -> list[str]:
    """The manifest keys of the applications that cannot be imported because of a fault that is reported already."""
    if examined.loaded is None:
        return []
    manifest = examined.loaded.manifest
    applications: list[tuple[str, KeyPath, bool]] = []
    if manifest.app is not None:
        applications.append(("app", ("app",), False))
    for number, mount in enumerate(manifest.mounts):
        assert isinstance(mount, AppMount | DirectoryMount)
        applications.append((f"mounts[{number}]", ("mounts", number), isinstance(mount, DirectoryMount)))
    without_folder = {problem.path for problem in examined.problems if problem.code == "no-folder"}
    found = []
    for key, path, is_folder in applications:
        folder = (*path, "directory" if is_folder else "working_dir")
        _, written = examined.loaded.node_at(folder)
        options = manifest.app if key == "app" else manifest.mounts[int(path[-1])]
        names = options.env if isinstance(options, App | AppMount) else ()
        if _unknown(examined.left_out, path, folder, names) or display_path(written) in without_folder:
            found.append(key)
    return found


def _unknown(left_out: LeftOut, path: KeyPath, folder: KeyPath, variables: Iterable[str]) -> bool:
    """Whether the import path, the folder or the environment of an application is unknown."""
    unset = any(left_out.holds((*path, "env", name)) for name in variables)
    return unset or left_out.holds(folder) or left_out.holds((*path, "import_path")) or left_out.touches((*path, "env"))
