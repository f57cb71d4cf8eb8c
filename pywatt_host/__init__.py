"""PyWatt Host: the declarative host for Python applications.

The names here are the public API. Each is loaded when it is first used, so that `import pywatt_host` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AppState": "pywatt_host.app.state",
    "Host": "pywatt_host.runtime.host",
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
    "TlsError": "pywatt_host.exceptions",
    "ProtocolError": "pywatt_host.exceptions",
    "ChannelError": "pywatt_host.exceptions",
    "OrchestratorLostError": "pywatt_host.exceptions",
    "MessagingError": "pywatt_host.exceptions",
    "Secret": "pywatt_host.secrets",
    "AnnouncedEndpoint": "pywatt_host.decorator.parameters",
    "pywatt_module": "pywatt_host.decorator.module",
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
    "TlsError",
    "__version__",
    "load_manifest",
    "pywatt_module",
    "run_module",
]

if TYPE_CHECKING:
    from pywatt_host.app.state import AppState
    from pywatt_host.cli.launch import run_module
    from pywatt_host.decorator.module import pywatt_module
    from pywatt_host.decorator.parameters import AnnouncedEndpoint
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
        TlsError,
    )
    from pywatt_host.manifest import Manifest, load_manifest
    from pywatt_host.runtime.host import Host
    from pywatt_host.secrets import Secret


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pywatt_host' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
