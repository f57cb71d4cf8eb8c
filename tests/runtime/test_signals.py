"""SIGTERM, SIGINT and SIGQUIT ask to stop, and a thread acts if stopping takes too long."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from pywatt_host.runtime.signals import ShutdownWatch, StopSignals
from tests.hosting import run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_each_signal_calls_stop_at_once_and_the_previous_handlers_return(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    names: list[str] = []
    with StopSignals(names.append):
        for _ in range(2):
            os.kill(os.getpid(), number)
    assert names == [number.name, number.name]
    assert signal.getsignal(number) is before


def test_with_an_event_loop_stop_is_called_on_it_and_wakes_it() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        with StopSignals(lambda name: stopped.set(), asyncio.get_running_loop()):
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
            await stopped.wait()

    run(main)


def test_in_another_thread_signals_stay_as_they_are() -> None:
    def enter() -> None:
        with StopSignals(lambda name: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = [signal.getsignal(signal.SIGTERM)]
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers[0] is handlers[1]


@pytest.mark.parametrize("released", [False, True])
def test_the_watch_calls_overdue_unless_it_is_released(released: bool) -> None:
    calls: list[str] = []
    watch = ShutdownWatch(lambda: calls.append("overdue"))
    watch.start()
    if released:
        watch.release()
    watch.begin(0.0)
    watch.join()
    assert calls == ([] if released else ["overdue"])
