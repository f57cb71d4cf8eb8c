"""A real module of ours under a scripted orchestrator: the kit's, with what only this project's tests ask for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pywatt_host.testing.pipes import Document
from pywatt_host.testing.wattson import Wattson
from tests.processes import Host, environment


class Orchestrated(Wattson, Host):
    """What it says is heard in its order, and nothing is passed over."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        init: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        greet: bool = True,
    ) -> None:
        command = [sys.executable, "-m", "pywatt_host", "run", "--orchestrated", "--log-format", "json", *arguments]
        super().__init__(command, folder, environment(folder, **(env or {})), init=init, greet=greet)

    def hear(self, op: str, **members: Any) -> Document:
        """The next thing it says, which has to be this."""
        document = self.listen()
        assert document.items() >= {"op": op, **members}.items(), document
        assert self.noise == []
        return document
