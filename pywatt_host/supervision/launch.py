"""How a module's process is started: command, folder, environment. No secret is in any of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pywatt_host.devservices import DEV_SERVICES
from pywatt_host.manifest.model.workspace import Workspace, WorkspaceModule
from pywatt_host.supervision import tether

# What speaks to `up` itself and to nobody below it.
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
_NOT_INHERITED_PREFIXES = ("PYWATT_", "LISTEN_")
_TRUST = "FORWARDED_ALLOW_IPS"  # whose X-Forwarded-* a module of ours believes: the gateway's


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that can be run again and again. `ours`: a host of this package, which leaves by itself when its
    standard input ends."""

    command: tuple[str, ...]
    directory: Path
    environ: Mapping[str, str] = field(repr=False)
    ours: bool = False

    def argv(self) -> list[str]:
        """What is executed: foreign programs end with this process, where the kernel can do that."""
        if self.ours or sys.platform != "linux":
            return list(self.command)
        return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.command]


def launch_of(
    name: str, module: WorkspaceModule, workspace: Workspace, environ: Mapping[str, str], withheld: Iterable[str] = ()
) -> Launch:
    """The launch of a module; `withheld` are names of secrets, which `up` may hold in its environment and no module
    may inherit."""
    hidden = _NOT_INHERITED | frozenset(withheld)
    kept = {
        variable: value
        for variable, value in environ.items()
        if variable not in hidden and not variable.startswith(_NOT_INHERITED_PREFIXES)
    }
    kept.update({variable: value for variable, value in module.env.items() if not variable.startswith("PYWATT_")})
    kept["PYWATT_MODULE_ID"] = name
    if module.manifest is None:
        assert module.command is not None
        return Launch(module.command, workspace.resolve(module.working_dir), kept)
    kept.setdefault(_TRUST, "127.0.0.1")
    kept[DEV_SERVICES] = os.fspath(workspace.directory)
    command = [sys.executable, "-P", "-m", "pywatt_host", "run", "--orchestrated"]
    command += ["--profile", module.profile] if module.profile is not None else []
    command.append(os.fspath(workspace.resolve(module.manifest)))
    return Launch(tuple(command), workspace.directory, kept, ours=True)
