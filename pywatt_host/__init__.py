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
    "AuthError": "pywatt_host.exceptions",
    "BindError": "pywatt_host.exceptions",
    "ServiceError": "pywatt_host.exceptions",
    "SecretError": "pywatt_host.exceptions",
    "StoreError": "pywatt_host.exceptions",
    "ProtocolError": "pywatt_host.exceptions",
    "ChannelError": "pywatt_host.exceptions",
    "OrchestratorLostError": "pywatt_host.exceptions",
    "MessagingError": "pywatt_host.exceptions",
    "Secret": "pywatt_host.secrets",
    "AnnouncedEndpoint": "pywatt_host.parameters",
    "pywatt_module": "pywatt_host.module",
    "run_module": "pywatt_host.cli.launch",
    "run_script": "pywatt_host.cli.launch",
}

__all__ = [
    "AnnouncedEndpoint",
    "AppLoadError",
    "AppState",
    "AuthError",
    "BindError",
    "ChannelError",
    "Host",
    "HostError",
    "Manifest",
    "ManifestError",
    "MessagingError",
    "OrchestratorLostError",
    "ProtocolError",
    "Secret",
    "SecretError",
    "ServiceError",
    "StoreError",
    "__version__",
    "load_manifest",
    "pywatt_module",
    "run_module",
]

if TYPE_CHECKING:
    from pywatt_host.cli.launch import run_module
    from pywatt_host.exceptions import (
        AppLoadError,
        AuthError,
        BindError,
        ChannelError,
        HostError,
        ManifestError,
        MessagingError,
        OrchestratorLostError,
        ProtocolError,
        SecretError,
        ServiceError,
        StoreError,
    )
    from pywatt_host.host import Host
    from pywatt_host.manifest import Manifest, load_manifest
    from pywatt_host.module import pywatt_module
    from pywatt_host.parameters import AnnouncedEndpoint
    from pywatt_host.secrets import Secret
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
