"""SIGHUP to `up` reloads, and a closed terminal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from pywatt_host.runtime import hangup
from pywatt_host.runtime.hangup import HangupSignal
from tests.hosting import run


@pytest.mark.parametrize(
    ("terminals", "ignored", "told"),
    [
        ([False], False, "reload"),
        ([True, True], False, "reload"),
        ([True, False], False, "the terminal was closed"),
        ([False], True, "reload"),
    ],
)
def test_a_hangup_reloads_and_a_closed_terminal_stops(
    terminals: list[bool], ignored: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`terminals`: whether there is one, each time that this is looked up."""
    monkeypatch.setattr(hangup, "has_terminal", lambda: terminals.pop(0))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    async def main() -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        with HangupSignal(lambda: heard.put_nowait("reload"), heard.put_nowait, asyncio.get_running_loop()):
            os.kill(os.getpid(), signal.SIGHUP)
            assert await heard.get() == told

    try:
        run(main)
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_the_handler_stays_as_it_is() -> None:
    def enter() -> None:
        loop = asyncio.new_event_loop()
        with HangupSignal(lambda: None, lambda why: None, loop):
            handlers.append(signal.getsignal(signal.SIGHUP))
        loop.close()

    handlers = [signal.getsignal(signal.SIGHUP)]
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers[0] == handlers[1]
