"""The body of a request before it reaches the application: received whole, in memory or in a temporary file.

A client decides how long its body takes. A thread is therefore taken only when the body is complete: clients that are
slow, on purpose or not, hold no thread. The memory for each body is bounded, and so is the file, by the limit of the
endpoint, which the edge applies in `receive`.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from io import BytesIO
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

from pywatt_host.types import Receive

MEMORY_BYTES = 64 * 1024  # of a body that are kept in memory; a longer one is written to a file


class ReceivedBody(NamedTuple):
    """A whole body: a file at its start, and the number of bytes. Closing the file deletes it."""

    file: BinaryIO
    length: int


class NotStoredError(Exception):
    """Raised if a body cannot be written to a temporary file: the disk is full, or there is no folder for it."""


async def receive_body(receive: Receive) -> ReceivedBody | None:
    """Receive a body to its end. None if the client disconnects, or if the body exceeds the limit of the endpoint.

    Memory holds at most MEMORY_BYTES and one message of the server at a time. Raises NotStoredError.
    """
    message = await receive()
    if message["type"] != "http.request":
        return None
    data = message.get("body", b"")
    if not message.get("more_body", False):  # most bodies
        return ReceivedBody(BytesIO(data), len(data))

    pending = bytearray(data)  # not a list of pieces, which would cost more than the bytes if each is small
    length, more = len(data), True
    file: BinaryIO | None = None
    try:
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            data, more = message.get("body", b""), message.get("more_body", False)
            length += len(data)
            pending += data
            if len(pending) > MEMORY_BYTES or (file is not None and not more):
                opened, file = file, None  # `_stored` closes it if it fails
                file = await _stored(opened, pending)
                pending = bytearray()
        if file is None:
            return ReceivedBody(BytesIO(pending), length)
        file.seek(0)
        whole, file = ReceivedBody(file, length), None
        return whole
    finally:
        if file is not None:
            file.close()


async def _stored(file: BinaryIO | None, data: bytearray) -> BinaryIO:
    """Append to the file, or create it, in a thread: a disk may be slow. If the request is cancelled meanwhile, the
    thread still ends, and then the file is closed."""
    writing = asyncio.get_running_loop().run_in_executor(None, _append, file, data)
    try:
        await asyncio.wait([writing])
    except asyncio.CancelledError:
        writing.add_done_callback(_close_result)
        raise
    return writing.result()


def _append(file: BinaryIO | None, data: bytearray) -> BinaryIO:
    try:
        if file is None:
            file = TemporaryFile(prefix="pywatt-body-")  # noqa: SIM115  # the request's end closes it
        file.write(data)
        file.flush()
    except OSError as error:
        if file is not None:
            with suppress(OSError):  # closing tries to write what is buffered once more
                file.close()
        raise NotStoredError(f"{tempfile.tempdir or 'no temporary folder'}: {error.strerror or error}") from error
    return file


def _close_result(writing: asyncio.Future[BinaryIO]) -> None:
    if not writing.cancelled() and writing.exception() is None:
        writing.result().close()
