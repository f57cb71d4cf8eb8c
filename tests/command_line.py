"""The command line in this process: its exit code and what it prints, as `python -m pywatt_host` would give them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pywatt_host.cli import execute


def called(
    arguments: Sequence[str], folder: Path, environ: Mapping[str, str], *, together: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, in `folder` and with `environ` as the whole environment. What it changes in this process
    is put back; modules that it imports from `folder` are forgotten. With `together`, the standard output has what is
    written to either stream."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _place(folder, environ), _streams(out, out if together else err):
            try:
                code = execute(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except Exception:  # a process ends with this, too
                traceback.print_exc()
                code = 1
        return subprocess.CompletedProcess(list(arguments), code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@contextmanager
def _place(folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """The current folder, the environment, and what can be imported."""
    directory, variables, path, argv = os.getcwd(), dict(os.environ), sys.path[:], sys.argv
    modules = set(sys.modules)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path.insert(0, str(folder))
    sys.argv = ["pywatt-host"]
    try:
        yield
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(variables)
        sys.path[:], sys.argv = path, argv
        for name in set(sys.modules) - modules:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                del sys.modules[name]


@contextmanager
def _streams(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    """The three standard streams, those of child processes too."""
    streams = sys.stdin, sys.stdout, sys.stderr
    for stream in streams[1:]:
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in range(3)]
    with open(os.devnull, "rb") as nothing:
        for descriptor, file in enumerate((nothing, out, err)):
            os.dup2(file.fileno(), descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    try:
        yield
    finally:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()
        sys.stdin, sys.stdout, sys.stderr = streams
        for descriptor, copy in enumerate(kept):
            os.dup2(copy, descriptor)
            os.close(copy)
