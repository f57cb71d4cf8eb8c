"""Programs of the kernel's packet filter (classic BPF, Linux) on listening sockets."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from ctypes import addressof, create_string_buffer
from typing import TypeAlias

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h

_Instruction: TypeAlias = tuple[int, int, int, int]


def drop_syn(sock: socket.socket) -> bool:
    """Let a listening TCP socket complete no new connections: its SYN packets are dropped, so that a client retries.
    Returns False where the kernel or a sandbox does not support it."""
    return _attach(
        sock,
        _SO_ATTACH_FILTER,
        [  # over the TCP header: drop where SYN is set and ACK is not
            (0x30, 0, 0, 13),  # A = byte 13, the flags
            (0x54, 0, 0, 0x12),  # A &= SYN | ACK
            (0x15, 0, 1, 0x02),  # if A == SYN ...
            (0x06, 0, 0, 0),  # ... drop
            (0x06, 0, 0, 0xFFFFFFFF),  # else keep
        ],
    )


def keep_syn(sock: socket.socket) -> None:
    """Undo `drop_syn`."""
    if sys.platform == "linux":
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError:
            pass  # nothing was dropped


def steer(sock: socket.socket, count: int) -> bool:
    """Let new connections come to the first `count` sockets only of those that share the address of `sock` with
    SO_REUSEPORT, in the order in which they began to listen. The kernel's hash is replaced by chance.

    Returns False where the kernel or a sandbox does not support it.
    """
    return _attach(
        sock,
        _SO_ATTACH_REUSEPORT_CBPF,
        [
            (0x20, 0, 0, _RANDOM),  # A = a random number
            (0x94, 0, 0, count),  # A %= count
            (0x16, 0, 0, 0),  # the socket with this number
        ],
    )


def _attach(sock: socket.socket, option: int, program: Sequence[_Instruction]) -> bool:
    if sys.platform != "linux":
        return False
    code = create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HL", len(program), addressof(code)))
    except OSError:
        return False
    return True
