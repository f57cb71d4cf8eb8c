"""A short run of the fuzz target, so that it stays runnable and a coarse fault does not wait for a long one."""

from __future__ import annotations

import random

from tests.hosting import run
from tests.protocol.fuzz import fuzz


def test_hostile_bytes_bring_out_messages_and_protocol_errors_and_nothing_else() -> None:
    async def main() -> None:
        counts = await fuzz(2.0, seed=random.SystemRandom().randrange(2**32), rounds=2000)
        assert counts["rounds"] > 20
        # All of it was reached, or it tests nothing.
        for outcome in ("messages", "json", "message"):
            assert counts[outcome] > 0, counts

    run(main)


def test_the_same_seed_leads_to_the_same_round() -> None:
    async def main() -> None:
        assert await fuzz(10.0, seed=7, rounds=20) == await fuzz(10.0, seed=7, rounds=20)

    run(main)
