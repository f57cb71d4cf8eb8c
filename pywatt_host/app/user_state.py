"""`state`: the application's own state, made by a function of the user's before the application is loaded."""

from __future__ import annotations

import inspect
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pywatt_host.app.loading import import_object, summary, without_our_frames
from pywatt_host.app.state import AppState
from pywatt_host.exceptions import AppLoadError
from pywatt_host.manifest.model import Manifest


class UserState:
    """Calls the state builder, as a service that starts before the applications, and keeps what it returns in
    `app_state.user_state`.

    The builder is called with the orchestrator's `init` (without an orchestrator: the same data from the manifest and
    the environment) and the secrets.
    """

    name = "state"

    def __init__(
        self,
        manifest: Manifest,
        state: AppState,
        objects: Mapping[str, Any],
        put_environment: Callable[[], None] = lambda: None,
    ) -> None:
        """`put_environment` puts `app.env` into os.environ, which the builder may read."""
        self._put_environment = put_environment
        self._manifest = manifest
        self._state = state
        self._objects = objects

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        path = self._manifest.state
        if path is not None:
            self._put_environment()
            self._state.user_state = await self._made(path)
        yield

    def builder(self, path: str) -> Callable[..., Any]:
        """The function that `path` names. Raises AppLoadError where it is not one, or takes other arguments."""
        app = self._manifest.app
        folder = self._manifest.resolve(app.working_dir if app is not None else ".")
        found = self._objects[path] if path in self._objects else import_object(path, working_dir=folder)
        if not callable(found):
            raise AppLoadError(
                path, "not-a-builder", "the state builder cannot be called", "it is a function (init, secrets)"
            )
        builder: Callable[..., Any] = found
        try:
            inspect.signature(builder).bind(self._state.init, self._state.secrets)
        except TypeError as error:
            hint = "it is called with two arguments: (init, secrets)"
            raise AppLoadError(path, "not-a-builder", f"the state builder does not fit: {error}", hint) from None
        except ValueError:  # some compiled callables have no signature to read
            pass
        return builder

    async def _made(self, path: str) -> Any:
        builder = self.builder(path)
        try:
            made = builder(self._state.init, self._state.secrets)
            return await made if inspect.isawaitable(made) else made
        except (Exception, SystemExit) as error:  # named boundary: the builder is the user's code; the start fails
            cause = without_our_frames(error, __file__)
            raise AppLoadError(path, "state-raised", f"the state builder raised {summary(cause)}") from cause
