"""Many validations of one manifest in one process: `python -m benchmarks.validations MANIFEST COUNT`.

Prints the seconds that the validations took, imports left out.
"""

from __future__ import annotations

import sys
import time

from pywatt_host import load_manifest


def main(path: str, count: int) -> None:
    start = time.perf_counter()
    for _ in range(count):
        load_manifest(path)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
