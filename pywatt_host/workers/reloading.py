"""A reload: a new generation from the manifest and the code on disk, put to use if nothing is wrong with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

from pywatt_host.exceptions import BindError, HostError, ManifestError, ServiceError, TlsError
from pywatt_host.manifest import Manifest, Problem, render_text
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.supervision.reading import READ_LIMIT, read_aside
from pywatt_host.workers.plan import plan
from pywatt_host.workers.zygote_process import CodeImportError, WorkerStartError

logger = logging.getLogger("pywatt.workers")

Stage: TypeAlias = Literal["manifest", "plan", "listen", "secrets", "tls", "import", "start", "stopping"]


_STOPPING = "the host is stopping"


class RefusedReloadError(Exception):
    """A reload that was refused. `stage` says in which step, `exit_code` what the verb `reload` exits with: 2 where the
    manifest is at fault, 3 where the new generation could not start."""

    def __init__(self, stage: Stage, exit_code: int, reason: str) -> None:
        self.stage = stage
        self.exit_code = exit_code
        self.reason = reason
        super().__init__(reason)


class Reloading:
    """Runs one reload at a time. While one runs, all further requests share the next one."""

    def __init__(
        self,
        load: Callable[[], Manifest],
        current: Callable[[], tuple[int, Manifest]],
        begin: Callable[[Manifest], Awaitable[int]],
        begun: Callable[[], None],
        told: Callable[[dict[str, Any]], None],
        mask: Callable[[str], str],
        spans: StartSpans | None = None,
        *,
        read_limit: float = READ_LIMIT,
    ) -> None:
        """`load` reads the manifest, in a thread, and within `read_limit` seconds. `current` gives number and manifest
        of the generation in use. `begin` builds a new generation and puts it to use; it returns its number, and raises
        RefusedReloadError or HostError. `begun` is called when one begins, `told` gets each verdict. `mask` removes
        secrets from reasons. `spans` are the spans of each reload and its parts."""
        self.last: dict[str, Any] | None = None
        self._load = load
        self._current = current
        self._read_limit = read_limit
        self._begin = begin
        self._begun = begun
        self._told = told
        self._mask = mask
        self._spans = spans or StartSpans()
        self._running: asyncio.Task[dict[str, Any]] | None = None
        self._next: asyncio.Task[dict[str, Any]] | None = None
        self._closed = False

    @property
    def under_way(self) -> bool:
        """Whether a reload runs."""
        return self._running is not None and not self._running.done()

    async def reload(self, why: str) -> dict[str, Any]:
        """Reload and return the verdict: `{"ok", "generation", "stage", "exit_code", "reason", "changes", "seconds"}`.
        `why` is for the log."""
        loop = asyncio.get_running_loop()
        if self._next is None and self.under_way:
            self._next = loop.create_task(self._after(self._running, why))
        elif self._next is None:
            self._running = loop.create_task(self._verdict(why))
        task = self._next or self._running
        assert task is not None
        return await asyncio.shield(task)

    async def _after(self, running: asyncio.Task[dict[str, Any]] | None, why: str) -> dict[str, Any]:
        if running is not None:
            await asyncio.wait((running,))
        self._running, self._next = self._next, None
        return await self._verdict(why)

    async def _verdict(self, why: str) -> dict[str, Any]:
        """Reload, and return the verdict. Where the host stops meanwhile, the reload is refused, and only the caller
        is told."""
        began = time.monotonic()
        if not self._closed:
            try:
                with self._spans.whole("reload", {"pywatt.reload.reason": why}):
                    return await self._reload(why, began)
            except asyncio.CancelledError:
                logger.info("reload: given up, since the host is stopping")
        verdict = self._refused(RefusedReloadError("stopping", 3, "the host is stopping"))
        return {**verdict, "changes": [], "seconds": round(time.monotonic() - began, 3)}

    async def _reload(self, why: str, began: float) -> dict[str, Any]:
        logger.info("reload: %s", why)
        self._begun()
        changes: list[dict[str, str]] = []
        try:
            number = await self._attempt(changes)
            self._spans.set("pywatt.generation", number)
            verdict: dict[str, Any] = {"ok": True, "generation": number, "exit_code": 0}
        except RefusedReloadError as error:
            self._spans.set("pywatt.reload.stage", error.stage)
            self._spans.end("refused")
            verdict = self._refused(error)
        verdict |= {"changes": changes, "seconds": round(time.monotonic() - began, 3)}
        self.last = {**verdict, "time": round(time.time(), 3)}
        if verdict["ok"]:
            logger.info(
                "reload: generation %d is in use after %.2fs", verdict["generation"], verdict["seconds"],
                extra={"generation": verdict["generation"]},
            )  # fmt: skip
        else:
            logger.error(
                "reload: refused (%s); generation %d serves on: %s",
                verdict["stage"], verdict["generation"], verdict["reason"],
                extra={"generation": verdict["generation"], "stage": verdict["stage"]},
            )  # fmt: skip
        self._told(verdict)
        return verdict

    def _refused(self, error: RefusedReloadError) -> dict[str, Any]:
        return {
            "ok": False,
            "generation": self._current()[0],
            "stage": error.stage,
            "exit_code": error.exit_code,
            "reason": self._mask(error.reason),
        }

    async def _attempt(self, changes: list[dict[str, str]]) -> int:
        try:
            with self._spans.part("read the manifest"):
                manifest = await read_aside(self._load, self._read_limit)
        except ManifestError as error:
            raise RefusedReloadError("manifest", 2, _faults(error.problems)) from error
        except HostError as error:
            raise RefusedReloadError("manifest", error.exit_code, str(error)) from error
        except OSError as error:
            raise RefusedReloadError("manifest", 2, str(error)) from error
        planned = plan(self._current()[1], manifest)
        changes += [change._asdict() for change in planned]
        refused = [f"{change.path}: {change.reason}" for change in planned if change.action == "refused"]
        if refused:
            raise RefusedReloadError("plan", 2, "; ".join(refused))
        try:
            return await self._begin(manifest)
        except WorkerStartError as error:
            reason = f"{error}\n{error.trace.strip()}" if error.trace else str(error)
            stage: Stage = "import" if isinstance(error, CodeImportError) else "start"
            raise RefusedReloadError(stage, error.exit_code if error.exit_code in (2, 3) else 3, reason) from error
        except BindError as error:
            raise RefusedReloadError("listen", 3, str(error)) from error
        except TlsError as error:
            raise RefusedReloadError("tls", 3, str(error)) from error
        except ServiceError as error:
            raise RefusedReloadError("start", 3, str(error)) from error
        except HostError as error:
            raise RefusedReloadError("secrets", 3, str(error)) from error
        except RefusedReloadError:
            raise
        except Exception as error:  # named boundary: whatever it is, the generation in use serves on
            logger.exception("a reload failed")
            raise RefusedReloadError("start", 3, f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Refuse further reloads, and the one that runs."""
        self._closed = True
        if self._running is not None and not self._running.done():
            self._running.cancel()
        waiting = [task for task in (self._running, self._next) if task is not None]
        if waiting:
            await asyncio.wait(waiting)


def _faults(problems: Sequence[Problem]) -> str:
    """The faults of a manifest, for people. Warnings are in the log of the start, and no reason to refuse."""
    return render_text([each for each in problems if each.severity == "error"] or problems).strip()
