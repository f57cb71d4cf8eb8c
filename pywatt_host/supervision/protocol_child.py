"""A child process that speaks the protocol on its standard input and output, as `up` starts its modules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import BinaryIO

from pywatt_host.channels.wire import PipeEnd, Wire
from pywatt_host.supervision.child import Child
from pywatt_host.supervision.launch import Launch


async def start_protocol_child(launch: Launch, wire: Wire, on_error_line: Callable[[bytes], None]) -> Child:
    """Start a process. `wire` reads its standard output and writes its standard input; `on_error_line` receives each
    line of its standard error. Raises OSError."""
    loop = asyncio.get_running_loop()
    with ExitStack() as child_ends, ExitStack() as our_ends:
        stdin, our_stdin = _pipe(child_ends, our_ends)
        our_stdout, stdout = _pipe(our_ends, child_ends)
        our_stderr, stderr = _pipe(our_ends, child_ends)
        child = await Child.start(
            launch.argv(), stdin=stdin, stdout=stdout, stderr=stderr, cwd=launch.directory, env=dict(launch.environ)
        )
        our_ends.pop_all()  # the transports close them
    child.read_lines(our_stderr, on_error_line)
    writer, _ = await loop.connect_write_pipe(lambda: PipeEnd(wire), our_stdin)
    wire.write_to(writer)
    await loop.connect_read_pipe(lambda: wire, our_stdout)
    return child


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """A pipe whose reading and writing ends are closed with `reader` and `writer`."""
    reading, writing = os.pipe()
    return (
        reader.enter_context(os.fdopen(reading, "rb", buffering=0)),
        writer.enter_context(os.fdopen(writing, "wb", buffering=0)),
    )
