"""Memory that the processes of one host share: a mapping of 64-bit integers, and locks on parts of it.

The supervisor makes the mapping. Each worker inherits its descriptor. The mapping has no name in any file system, so it
is gone once the last process that has it is gone. Memory is used for pages that were touched.

A store of one integer is whole: another process sees the old value or the new one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable

_WORD = 8  # bytes of an integer
_TRIES = 200  # to get a lock; about 20 milliseconds
_AT_ONCE = 4  # of them, without a pause between
_PAUSE = 0.00005  # seconds between the others
_IMPATIENT_FOR = 1_000_000_000  # nanoseconds


def new_descriptor(words: int) -> int:
    """The descriptor of new shared memory for this many integers, all of them 0. Programs that this process starts do
    not inherit it unless they are told to. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor: int = os.memfd_create("pywatt-limits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, _in_pages(words))
        if hasattr(fcntl, "F_ADD_SEALS") and hasattr(os, "memfd_create"):
            # A process that has the memory must not be able to take it from the others: they would end by SIGBUS.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def mapped(descriptor: int, words: int) -> memoryview[int]:
    """The integers of shared memory. Raises ValueError where it is smaller than that."""
    size = _in_pages(words)
    if os.fstat(descriptor).st_size < size:
        raise ValueError(f"the shared memory has less than {size} bytes")
    return memoryview(mmap.mmap(descriptor, size)).cast("q")


def _in_pages(words: int) -> int:
    return -(-words * _WORD // mmap.PAGESIZE) * mmap.PAGESIZE


class Locks:
    """Locks on single integers of shared memory, between processes (not between threads of one process).

    A lock ends when its process ends, however that ends. A process that is stopped (SIGSTOP) while it holds a lock does
    not hold up the others for long: they wait for about 20 milliseconds, then go on without the lock. For a second from
    then on they try once, and do not wait.
    """

    def __init__(self, descriptor: int, now: Callable[[], int] = time.monotonic_ns) -> None:
        """`now` returns nanoseconds."""
        self._descriptor = descriptor
        self._now = now
        self._impatient: dict[int, int] = {}  # word -> until when it is not waited for

    def acquire(self, word: int) -> bool:
        """Lock a word. Returns False where the caller has to go on without the lock; it must not be released then."""
        tries = 1 if self._impatient and self._now() < self._impatient.get(word, 0) else _TRIES
        for attempt in range(tries):
            if attempt >= _AT_ONCE:
                time.sleep(_PAUSE)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, word * _WORD)
            except (BlockingIOError, PermissionError):  # another process has it
                continue
            except OSError:  # the kernel has no room for another lock
                return False
            if self._impatient:
                self._impatient.pop(word, None)
            return True
        if tries > 1:
            self._impatient[word] = self._now() + _IMPATIENT_FOR
        return False

    def release(self, word: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, word * _WORD)
