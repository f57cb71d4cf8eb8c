"""A worker process for the tests of limits that processes share: it does what the lines on its standard input say.

Each line is a word; the answer to it is one line. `python -m tests.net.shared_limits_worker DESCRIPTOR SLOT`
"""

from __future__ import annotations

import os
import signal
import sys

from pywatt_host.manifest.values import Rate
from pywatt_host.net.shared_limits import SharedLimits
from pywatt_host.net.shared_memory import Locks

LIMIT = 12  # of the gate
RATE = Rate(50, 3600.0)
SUBJECT = "192.0.2.1"


class _Interrupted(Locks):
    """Ends or stops the process when it is about to release a lock."""

    by = signal.SIGKILL

    def release(self, word: int) -> None:
        os.kill(os.getpid(), self.by)


def main(descriptor: int, slot: int) -> None:
    limits = SharedLimits.attach(descriptor, slot)
    gate, limiter = limits.gate("gate", LIMIT), limits.rate_limiter("limiter", RATE)
    print("ready", flush=True)
    for line in sys.stdin:
        answer: object = None
        match line.split():
            case ["enter"]:
                answer = not gate.full()
                gate.count[0] += answer is True
            case ["leave"]:
                gate.count[0] -= 1
            case ["enter", times]:
                answer = 0
                for _ in range(int(times)):
                    if not gate.full():
                        gate.count[0] += 1
                        answer += 1
            case ["take", times]:
                answer = sum(limiter.wait_for(SUBJECT) == 0 for _ in range(int(times)))
            case ["take", "and", "be", ("SIGKILL" | "SIGSTOP") as name]:
                locks = _Interrupted(descriptor)
                locks.by = signal.Signals[name]
                limiter._locks = locks
                limiter.wait_for(SUBJECT)
        print(answer, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
