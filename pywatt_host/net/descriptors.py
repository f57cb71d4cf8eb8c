"""How many file descriptors a host needs, and the limit of the process on them (RLIMIT_NOFILE).

Every connection is a descriptor. Most systems start a process with a soft limit of 1024, for programs that call
select(), and with a hard limit that is far above: a program may raise its soft limit up to that.
"""

from __future__ import annotations

import resource

LEAST = 65536  # also where a host needs fewer: the application opens files and connections too
_MOST = 1 << 20  # Linux takes no more, unless fs.nr_open has been changed
_UNBOUNDED = 500_000  # connections that are reckoned with where their number has no limit
_PER_REQUEST = 4  # a running request may hold connections to a database, a cache or another module, and a file
_RESERVE = 1024  # listeners, channels, logs, pools, modules that are being imported
_OPEN_MAX = 10240  # macOS takes no more than this, whatever its hard limit says


def descriptors_needed(connections: int | None, concurrency: int) -> int:
    """The number of descriptors for `server.limits.connections` (None: off) and `server.limits.concurrency`, rounded up
    to a power of two; from LEAST to what Linux allows a process."""
    held = _UNBOUNDED if connections is None else connections
    needed = 1 << (held + _PER_REQUEST * concurrency + _RESERVE - 1).bit_length()
    return min(max(LEAST, needed), _MOST)


def room_for_connections() -> int | None:
    """The number of connections that leave a reserve of descriptors for everything else, under the limit that holds
    now; None where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft - min(_RESERVE, soft // 4))


def raise_descriptor_limit(needed: int = LEAST) -> int:
    """Raise the soft limit to `needed`, or as far as the hard limit allows. Returns the soft limit that holds now, or
    `needed` where there is none. The limit is never lowered, and the hard limit stays.

    The limit is not raised beyond `needed`: where the hard limit is a billion or infinite, programs that close every
    possible descriptor would take minutes to start. Child processes inherit the limit, as they do from container
    runtimes. It is not lowered again for them, since code of the application starts most of them. A child that calls
    select(), and opens more than 1024 descriptors of its own, needs `ulimit -S -n 1024` before it. In the host's own
    process, Python's select() raises ValueError for a descriptor above 1023; before, the process could not even have
    opened it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (needed if hard == resource.RLIM_INFINITY else min(needed, hard), _OPEN_MAX):
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue  # the hard limit is not the whole truth
        return wanted
    return needed if soft == resource.RLIM_INFINITY else soft
