"""`server.workers` and `server.reload`: how many processes serve, when one is replaced, and what starts a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from pywatt_host.manifest.machine import usable_cores
from pywatt_host.manifest.model.base import Section, key
from pywatt_host.manifest.values import (
    CountOrOff,
    DurationOrOff,
    Format,
    Percentage,
    PositiveDuration,
    SizeOrOff,
    WorkerCount,
)
from pywatt_host.manifest.values.scalars import fault

ReloadMode: TypeAlias = Literal["off", "signal", "watch"]

_SWITCHED_ON = (True, "true", "on", "yes")
_SWITCHED_OFF = (False, "false", "no")


def _no_bool(value: Any) -> Any:
    """Explain a bool, which other servers have here."""
    hint = ""
    if isinstance(value, bool | str) and value in _SWITCHED_ON:
        hint = "write watch to reload when files change, or signal for SIGHUP and `pywatt-host reload`"
    elif isinstance(value, bool | str) and value in _SWITCHED_OFF:
        hint = "write off"
    if not hint:
        return value
    shown = str(value).lower()
    raise fault("choice", "{shown} is not one of off, signal, watch ({hint})", shown=shown, hint=hint)


Reload: TypeAlias = Annotated[
    ReloadMode | None,
    BeforeValidator(_no_bool),
    Format("off, signal or watch", "write off, signal or watch"),
]


class Recycle(Section):
    """When a worker that works well is replaced by a new one. The new worker is ready before the old one leaves, and
    never are all workers replaced at the same time."""

    requests: CountOrOff = key(
        None, "Number of requests after which a worker is replaced. `off`: no number is too high.", 10000
    )
    age: DurationOrOff = key(None, "Age at which a worker is replaced. `off`: a worker may have any age.", "6h")
    memory: SizeOrOff = key(
        None,
        "Memory that a worker has for itself (not shared with other workers) above which it is replaced, once it has"
        " run for 10 seconds. `off`: a worker may use any amount.",
        "512MiB",
    )
    jitter: Percentage = key(
        0.1,
        "How much the three limits differ between workers, at most, so that workers which started together are not"
        " replaced together: `0%` to `50%`.",
        "25%",
    )


class Workers(Section):
    """How many processes serve the application, how they start, and when one is replaced."""

    count: WorkerCount = key(
        1,
        "Number of workers: processes that each serve the whole application. `auto`: one for each core that the process"
        " may use, with its affinity and the processor quota of its control group.",
        4,
        "auto",
    )
    start: Literal["auto", "fork", "spawn"] = key(
        "auto",
        "How a worker starts. `fork`: as a copy of a process that has imported the application, which is fast and saves"
        " memory. `spawn`: as a new process with imports of its own. `auto`: fork, but spawn if the import of the"
        " application starts threads.",
        "spawn",
    )
    start_limit: PositiveDuration = key(
        30.0,
        "How long a worker may take until it is ready. Then it is ended, and the start or the reload has failed.",
        "2m",
    )
    ping_limit: PositiveDuration = key(
        10.0,
        "How long a worker may leave a ping unanswered, because its event loop is blocked or the process is stopped."
        " Then it is replaced.",
        "30s",
    )
    recycle: Recycle = key(
        Recycle, "When a worker that works well is replaced by a new one. By default, never.", {"requests": 10000}
    )

    def resolved(self, cores: Callable[[], int] = usable_cores) -> int:
        """The number of workers. For `auto`, it is what `cores` returns: the cores that this process may use."""
        return self.count if self.count != "auto" else max(1, cores())
