"""How a reload ended, for each module and as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MANIFEST_FAULT, START_FAULT = 2, 3  # exit codes, as for a host that starts


class ReloadRefusedError(Exception):
    """A module cannot be reloaded; its present processes stay in use."""

    def __init__(self, reason: str, exit_code: int = START_FAULT, stage: str = "start") -> None:
        self.reason = reason
        self.exit_code = exit_code
        self.stage = stage
        super().__init__(reason)


@dataclass(slots=True)
class Verdict:
    """How a reload ended. `exit_code` is 0 where everything is in use, 2 where a manifest is at fault, and 3 where a
    process did not start."""

    exit_code: int = 0
    stage: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def refuse(self, error: ReloadRefusedError) -> None:
        self.exit_code, self.stage, self.reason = error.exit_code, error.stage, error.reason

    def reloaded(self, id: str, generation: int, note: str | None, seconds: float) -> None:
        """A module was reloaded, or there was nothing to reload, for which `note` has the reason."""
        self.modules[id] = _module(True, generation, None, 0, note, seconds)

    def kept(self, id: str, generation: int, error: ReloadRefusedError, seconds: float = 0.0) -> None:
        """A module was not reloaded."""
        self.modules[id] = _module(False, generation, error.stage, error.exit_code, error.reason, seconds)

    def document(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "stage": self.stage,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "modules": self.modules,
        }


def _module(
    ok: bool, generation: int, stage: str | None, exit_code: int, reason: str | None, seconds: float
) -> dict[str, Any]:
    """The verdict of one module, with the members that the verdict of a single host has."""
    return {
        "ok": ok,
        "generation": generation,
        "stage": stage,
        "exit_code": exit_code,
        "reason": reason,
        "seconds": round(seconds, 3),
    }
