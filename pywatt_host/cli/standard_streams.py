"""Standard input, output and error of the process: all three are there, and the last words block nothing."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import IO, Any

from pywatt_host.observability.log_stream import LogStream

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def open_closed_streams() -> None:
    """Open /dev/null on each standard descriptor that is closed (`<&-`, `>&-`, `2>&-`), and give `sys` its stream.

    Otherwise the next socket or file of the process would become descriptor 0, 1 or 2, and get what is printed. Call
    this first. Where a standard descriptor was closed and something else has taken it already, it is left alone, and
    the stream of `sys` leads to /dev/null.
    """
    for fd, name, mode in _STREAMS:
        opened = _open_null_as(fd)
        if getattr(sys, name) is None:
            stream = open(fd if opened else os.devnull, mode, closefd=not opened, encoding="utf-8")  # noqa: SIM115
            _replace(name, stream)


def _open_null_as(fd: int) -> bool:
    """Open /dev/null as this descriptor if it is closed; returns whether it was."""
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        os.set_inheritable(fd, True)
        return True
    return False


def _replace(name: str, stream: IO[Any]) -> None:
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def print_last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that ends the process, for `sys.excepthook`: a standard error that nothing reads
    does not keep the process alive."""
    stream = LogStream(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
    stream.write("".join(traceback.format_exception(kind, error, trace)).encode("utf-8", "backslashreplace"))
    stream.finish()
