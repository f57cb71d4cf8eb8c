"""PyWatt Host: the declarative host for Python applications.

The names here are the public API. Each is loaded when it is first used, so that `import pywatt_host` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AppState": "pywatt_host.state",
    "Host": "pywatt_host.host",
    "Manifest": "pywatt_host.manifest",
    "load_manifest": "pywatt_host.manifest",
    "HostError": "pywatt_host.exceptions",
    "ManifestError": "pywatt_host.exceptions",
    "AppLoadError": "pywatt_host.exceptions",
    "BindError": "pywatt_host.exceptions",
    "ServiceError": "pywatt_host.exceptions",
}

__all__ = [
    "AppLoadError",
    "AppState",
    "BindError",
    "Host",
    "HostError",
    "Manifest",
    "ManifestError",
    "ServiceError",
    "__version__",
    "load_manifest",
]

if TYPE_CHECKING:
    from pywatt_host.exceptions import AppLoadError, BindError, HostError, ManifestError, ServiceError
    from pywatt_host.host import Host
    from pywatt_host.manifest import Manifest, load_manifest
    from pywatt_host.state import AppState


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pywatt_host' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
