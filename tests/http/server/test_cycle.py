"""The signal that stands in for an asyncio.Event, and the cycle stepping aside where uvicorn is not the one known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pywatt_host.http.server.cycle import Signal, lean_cycle


def test_a_signal_wakes_all_who_wait_and_stays_set_until_cleared() -> None:
    async def main() -> None:
        signal = Signal()
        waiting = [asyncio.create_task(signal.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        signal.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await signal.wait()
        signal.clear()
        late = asyncio.create_task(signal.wait())
        await asyncio.sleep(0)
        assert not late.done()
        signal.set()
        assert await late

    asyncio.run(main())


def test_waiting_that_is_given_up_leaves_nothing_behind() -> None:
    async def main() -> None:
        signal = Signal()
        for _ in range(50):
            waiting = asyncio.create_task(signal.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not signal._waiters

    asyncio.run(main())


def test_the_uvicorn_that_is_installed_is_one_that_is_known() -> None:
    assert lean_cycle(HttpToolsProtocol) is not None


@pytest.mark.parametrize("stranger", ["on_headers_complete", "cycle"])
def test_a_protocol_of_another_shape_is_left_alone(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn.protocols.http.httptools_impl as module

    def other(self: Any, something: Any) -> None:
        self.something = something

    if stranger == "cycle":
        monkeypatch.setattr(module.RequestResponseCycle, "__init__", other)
    else:
        monkeypatch.setattr(module.HttpToolsProtocol, "on_headers_complete", other)
    assert lean_cycle(module.HttpToolsProtocol) is None
