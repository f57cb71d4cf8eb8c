"""Folders of static files.

Loaded only where a manifest mounts a directory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from pywatt_host.http.conditions import evaluate, range_counts
from pywatt_host.http.media_types import content_headers
from pywatt_host.http.problem import refuse_websocket, send_problem
from pywatt_host.http.ranges import Part, parse_ranges, partial
from pywatt_host.manifest.values.names import is_hidden
from pywatt_host.manifest.values.paths import below
from pywatt_host.types import Headers, Receive, Scope, Send

logger = logging.getLogger("pywatt.static")

_CHUNK_SIZE = 64 * 1024  # bytes that are read at a time
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
# There is no such file: also names that are too long, links in a circle, and sockets.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM})
_WARN_INTERVAL = 1.0  # seconds between two lines about files that cannot be read


class _File:
    """A file, once `open` has been called. All that is said about it is about the open file, so that it does not matter
    whether another one takes its place."""

    def __init__(self) -> None:
        self.fd = -1
        self.path = ""
        self.size = 0
        self.modified = 0.0
        self.tag = b""
        self.start = b""  # its first bytes

    def open(self, path: str) -> None:
        """Open a regular file and read its first bytes. Raises OSError."""
        self.close()
        self.fd = os.open(path, _FLAGS)
        found = os.fstat(self.fd)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file", path)
        self.path, self.size = path, found.st_size
        self.modified = max(0.0, min(found.st_mtime, time.time()))  # never later than the response (RFC 9110, 8.8.2.1)
        self.tag = b'"%x-%x"' % (found.st_mtime_ns, found.st_size)
        self.start = os.pread(self.fd, min(_CHUNK_SIZE, self.size), 0)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    async def read(self, at: int, end: int) -> bytes:
        """The next bytes of a part. Empty where the file has been cut off in the meantime, or cannot be read; a line in
        the log says so."""
        if at < len(self.start):
            return self.start[at:end]
        why = "it is shorter than it was"
        try:
            chunk = await run_in_threadpool(os.pread, self.fd, min(_CHUNK_SIZE, end - at), at)
            if chunk:
                return chunk
        except OSError as error:
            why = error.strerror or type(error).__name__
        logger.warning("%s could not be sent to its end: %s", self.path, why)
        return b""


class StaticDirectory:
    """An ASGI application that serves the files below `directory`, with entity tags and byte ranges. It never lists a
    folder, never serves a file outside of the directory, and never opens anything but regular files.

    `cache` is the max-age of Cache-Control in seconds; None sends no such header. With `html`, a folder is its
    index.html, and 404.html is the page for what does not exist. Without `hidden`, a path with a name that begins with
    a dot does not exist, apart from `.well-known`. The names in the path count, and not those that a symbolic link
    leads to.
    """

    def __init__(self, directory: Path, *, html: bool, cache: float | None, hidden: bool = False) -> None:
        self._directory = directory
        self._html = html
        self._hidden = hidden
        self._warned = -_WARN_INTERVAL  # on the monotonic clock
        self._cache = [] if cache is None else [(b"cache-control", b"public, max-age=%d" % int(cache))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await refuse_websocket(send, scope.get("extensions"), 404)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await send_problem(send, 405, headers=[(b"allow", b"GET, HEAD")])
            return
        file = _File()
        try:
            status = await run_in_threadpool(self._find, _relative(scope), scope["path"].endswith("/"), file)
            if file.fd < 0:
                await send_problem(send, status)
            elif status == 307:
                await send({"type": "http.response.start", "status": 307, "headers": [_to_folder(scope)]})
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._respond(status, file, scope, receive, send)
        finally:
            file.close()

    # Finding files ----------------------------------------------------------------------------------------------------

    def _find(self, path: str, folder: bool, file: _File) -> int:
        """Open the file that answers a path, and return the status. `folder`: the request names a folder."""
        try:
            if not self._hidden and is_hidden(path):
                raise FileNotFoundError(errno.ENOENT, "hidden", path)
            if self._open(path, file):
                return 200
            if self._html and self._open(os.path.join(path, "index.html"), file):
                return 200 if folder else 307
        except OSError as error:
            file.close()
            status = self._status_of(error, path)
            if status != 404:
                return status
        except ValueError:  # NUL, or characters that no file name can have
            pass
        if self._html:
            try:
                self._open("404.html", file)
            except OSError:
                file.close()
        return 404

    def _open(self, path: str, file: _File) -> bool:
        """Open a file; False for a folder. Raises OSError for everything else, and ValueError for names that cannot
        be."""
        root = os.path.realpath(self._directory)
        full = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath((full, root)) != root:
            raise FileNotFoundError(errno.ENOENT, "outside of the directory", path)
        mode = os.stat(full).st_mode
        if stat.S_ISDIR(mode):
            return False
        if not stat.S_ISREG(mode):  # opening a pipe can wait for ever, and opening a device can do something
            raise FileNotFoundError(errno.ENOENT, "not a file", path)
        file.open(full)
        return True

    def _status_of(self, error: OSError, path: str) -> int:
        """The status of a file that cannot be opened. Where the file exists and cannot be read, a line in the log says
        why, at most one a second."""
        if error.errno in _NOT_THERE and error.errno != errno.ELOOP:
            return 404
        now = time.monotonic()
        if now - self._warned >= _WARN_INTERVAL:
            self._warned = now
            ours = error.errno not in (*_NOT_ALLOWED, errno.ELOOP)
            logger.log(
                logging.ERROR if ours else logging.WARNING,
                "a file cannot be read: %s: %s",
                os.path.join(self._directory, path),
                error.strerror or type(error).__name__,
            )
        if error.errno == errno.ELOOP:
            return 404
        if error.errno in _NOT_ALLOWED:
            return 403
        return 503 if error.errno in _NO_DESCRIPTORS else 500

    # Responses --------------------------------------------------------------------------------------------------------

    async def _respond(self, status: int, file: _File, scope: Scope, receive: Receive, send: Send) -> None:
        own, requested = content_headers(file.path), scope["headers"]
        modified = formatdate(file.modified, usegmt=True).encode()
        headers: Headers = [(b"last-modified", modified), (b"etag", file.tag), (b"accept-ranges", b"bytes")]
        headers += self._cache if status == 200 else []
        body: list[bytes | Part] = [(0, file.size)]
        length = file.size
        # Conditions and ranges count only where the response would be successful (RFC 9110 section 13.2.1).
        outcome = evaluate(requested, file.tag, file.modified) if status == 200 else None
        if outcome == 412:
            await send_problem(send, 412, headers=headers[:2])
            return
        if outcome == 304:
            status, length, own, body = 304, 0, [], []
        elif outcome == 200 and scope["method"] == "GET" and range_counts(requested, file.tag, modified):
            parts = parse_ranges(_header(scope, b"range"), file.size)
            if parts is not None and not parts:
                await send_problem(send, 416, headers=[(b"content-range", b"bytes */%d" % file.size)])
                return
            if parts:
                status = 206
                described, body, length = partial(parts, file.size, own[0][1])
                own = described + own[1:]
        if status != 304:
            own = [*own, (b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
        if scope["method"] == "HEAD" or not length:
            await send({"type": "http.response.body", "body": b""})
        else:
            await _send_body(file, body, length, receive, send)


async def _send_body(file: _File, body: list[bytes | Part], length: int, receive: Receive, send: Send) -> None:
    """Send the pieces of a body. It ends early where the client leaves, and where the file is shorter by now: then the
    response stays incomplete, and the server closes the connection."""
    gone = asyncio.create_task(_disconnected(receive)) if length > _CHUNK_SIZE else None
    left = length
    try:
        for piece in body:
            at, end = (0, len(piece)) if isinstance(piece, bytes) else piece
            while at < end:
                chunk = piece if isinstance(piece, bytes) else await file.read(at, end)
                if not chunk or (gone is not None and gone.done()):
                    return
                at += len(chunk)
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
    except OSError:
        return  # servers of ASGI 2.4 say in this way that the client has left
    finally:
        if gone is not None:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _relative(scope: Scope) -> str:
    """The path below the mount, as the name of a file. It may lead out of the directory."""
    path = below(scope.get("root_path", ""), scope["path"])
    return os.path.normpath(os.path.join(*path.split("/")))


def _to_folder(scope: Scope) -> tuple[bytes, bytes]:
    """The Location of a folder with its slash. It begins with one slash, so that it cannot name another host."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return b"location", b"/%s/%s" % (quote(os.fsencode(scope["path"].strip("/"))).encode(), query)


def _header(scope: Scope, name: bytes) -> bytes:
    return b", ".join(value for key, value in scope["headers"] if key == name)
