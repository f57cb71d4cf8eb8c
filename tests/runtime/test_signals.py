"""Signals that ask to stop, signals that ask for something else, and a thread that acts if stopping takes too long."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from pywatt_host.runtime.signals import (
    OtherSignals,
    ShutdownWatch,
    StopSignals,
    signals_of_one_process,
)
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


def test_a_further_signal_may_stop_as_well() -> None:
    names: list[str] = []
    before = signal.getsignal(signal.SIGHUP)
    with StopSignals(names.append, also=[signal.SIGHUP]):
        os.kill(os.getpid(), signal.SIGHUP)
    assert names == ["SIGHUP"]
    assert signal.getsignal(signal.SIGHUP) is before


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


OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.mark.parametrize("number", OTHERS)
def test_a_signal_for_something_else_is_handled_on_the_event_loop_and_its_handler_returns(
    number: signal.Signals,
) -> None:
    async def main() -> None:
        called = asyncio.Event()
        with OtherSignals({number: called.set}, asyncio.get_running_loop()):
            threading.Thread(target=os.kill, args=(os.getpid(), number)).start()
            await called.wait()

    before = signal.getsignal(number)
    run(main)
    assert signal.getsignal(number) is before


def test_a_handler_of_the_application_stays_whether_it_came_before_or_after() -> None:
    def mine(number: int, frame: object) -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGUSR1, mine)
        with OtherSignals({signal.SIGUSR1: lambda: None, signal.SIGUSR2: lambda: None}, loop):
            assert signal.getsignal(signal.SIGUSR1) is mine
            signal.signal(signal.SIGUSR2, mine)
        assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == (mine, mine)

    try:
        run(main)
    finally:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)


def test_a_signal_that_nohup_ignores_is_handled() -> None:
    async def main() -> None:
        called = asyncio.Event()
        with OtherSignals({signal.SIGHUP: called.set}, asyncio.get_running_loop()):
            os.kill(os.getpid(), signal.SIGHUP)
            await called.wait()

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(main)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGHUP, "server.reload is off; set server.reload: signal"),
        (signal.SIGUSR1, "SIGUSR1 is ignored: the host logs to standard error"),
        (signal.SIGUSR2, "SIGUSR2 is ignored"),
    ],
)
def test_a_host_that_does_not_reload_says_so_in_one_line(
    number: signal.Signals, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    signals_of_one_process()[number]()
    (record,) = caplog.records
    assert said in record.getMessage()


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
