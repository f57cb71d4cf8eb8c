"""The command that starts a process, again and again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pywatt_host.supervision import tether


@dataclass(frozen=True, slots=True)
class Launch:
    """A command with its directory and its environment. `ours`: the command runs a host of this package, which stops
    by itself when its standard input ends. No secret is in any of the fields."""

    command: tuple[str, ...]
    directory: Path
    environ: Mapping[str, str] = field(repr=False)
    ours: bool = False

    def argv(self) -> list[str]:
        """The arguments to execute. On Linux, the kernel kills a program that is not ours when this process ends."""
        if self.ours or sys.platform != "linux":
            return list(self.command)
        return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *self.command]


def path_options() -> list[str]:
    """Give the child the same import path: `python -m pywatt_host` has the working directory on it, the script
    `pywatt-host` has not."""
    return [] if sys.path[:1] in ([""], [os.getcwd()]) else ["-P"]
