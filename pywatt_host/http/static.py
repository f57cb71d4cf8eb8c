"""Folders of static files: Starlette's StaticFiles with a Cache-Control header and the host's error responses.

Loaded only where a manifest mounts a directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope as StarletteScope

from pywatt_host.http.problem import refuse_websocket, send_problem
from pywatt_host.types import Receive, Scope, Send


class _Files(StaticFiles):
    def __init__(self, directory: Path, *, html: bool, max_age: int | None) -> None:
        super().__init__(directory=directory, html=html, check_dir=False, follow_symlink=False)
        self._max_age = max_age

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: StarletteScope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if self._max_age is not None and status_code == 200:
            response.headers["cache-control"] = f"public, max-age={self._max_age}"
        return response


class StaticDirectory:
    """An ASGI application that serves the files below `directory`, with entity tags and ranges. It never lists a
    folder, and never serves a file outside of the directory.

    `cache` is the max-age of Cache-Control in seconds; None sends no such header.
    """

    def __init__(self, directory: Path, *, html: bool, cache: float | None) -> None:
        self._files = _Files(directory, html=html, max_age=None if cache is None else int(cache))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await refuse_websocket(send, scope.get("extensions"), 404)
            return
        try:
            await self._files(scope, receive, send)
        except HTTPException as error:
            headers = [(b"allow", b"GET, HEAD")] if error.status_code == 405 else []
            await send_problem(send, error.status_code, headers=headers)
