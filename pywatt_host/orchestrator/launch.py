"""The command that starts a module of the workspace, without any secret in its arguments or its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pywatt_host.devservices import DEV_SERVICES
from pywatt_host.http.allowed_hosts import LOCAL_HOSTS, named_in
from pywatt_host.http.forwarding import GATEWAY
from pywatt_host.manifest.model.workspace import Workspace, WorkspaceModule
from pywatt_host.supervision.launch import Launch

# Variables for `up` itself, which no module inherits.
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "OTEL_SERVICE_NAME"})
_NOT_INHERITED_PREFIXES = ("PYWATT_", "LISTEN_")
# The addresses whose X-Forwarded-* headers a program trusts; uvicorn, gunicorn and others read it as well.
_TRUSTED_PROXIES = "FORWARDED_ALLOW_IPS"
_ADDRESS = "127.0.0.1"  # that the gateway connects from


def hosts_of(workspace: Workspace) -> list[str]:
    """The hosts that the gateway and the modules answer to, beside loopback names."""
    gateway = workspace.gateway
    return [*gateway.allowed_hosts, *named_in([gateway.listen.host])]


def module_launch(
    module_id: str,
    module: WorkspaceModule,
    workspace: Workspace,
    environ: Mapping[str, str],
    withheld: Iterable[str] = (),
    traces: Mapping[str, str] = MappingProxyType({}),
) -> Launch:
    """The command that starts a module. The module inherits `environ`, except the variables for `up` itself and those
    named in `withheld`: the names of secrets, which `up` may have in its environment. `traces`
    are the variables that lead its spans to `up`."""
    hidden = _NOT_INHERITED | frozenset(withheld)
    kept = {
        variable: value
        for variable, value in environ.items()
        if variable not in hidden and not variable.startswith(_NOT_INHERITED_PREFIXES)
    }
    kept.update({variable: value for variable, value in module.env.items() if not variable.startswith("PYWATT_")})
    kept |= {**traces, "PYWATT_MODULE_ID": module_id}
    # A command may be a host of this package as well, such as a script with a decorated function, or another server.
    kept[_TRUSTED_PROXIES] = _with_gateway(kept.get(_TRUSTED_PROXIES, ""))
    kept[GATEWAY] = f"{_ADDRESS},unix"
    kept[DEV_SERVICES] = os.fspath(workspace.directory)
    # The gateway passes Host on. The name in module://NAME is the Host on a Unix socket.
    kept[LOCAL_HOSTS] = ",".join([*hosts_of(workspace), module_id])
    if module.manifest is None:
        assert module.command is not None
        return Launch(module.command, workspace.resolve(module.working_dir), kept)
    command = [sys.executable, "-P", "-m", "pywatt_host", "run", "--orchestrated"]
    command += ["--profile", module.profile] if module.profile is not None else []
    command.append(os.fspath(workspace.resolve(module.manifest)))
    return Launch(tuple(command), workspace.directory, kept, ours=True)


def _with_gateway(trusted: str) -> str:
    """A value of FORWARDED_ALLOW_IPS with the address that the gateway connects from."""
    given = [each.strip() for each in trusted.split(",") if each.strip()]
    return ",".join(given if {"*", _ADDRESS} & set(given) else [*given, _ADDRESS])
