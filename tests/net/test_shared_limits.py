"""Limits that hold over processes: in one process they are as exact as local ones, and other processes cannot break
them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import ServiceError
from pywatt_host.manifest.values import Rate
from pywatt_host.net.limits import LocalGate, LocalRateLimiter
from pywatt_host.net.shared_buckets import SETS, SharedRateLimiter
from pywatt_host.net.shared_gates import SLOTS, GateNames, SharedGate
from pywatt_host.net.shared_limits import SharedLimits, WorkerLimits
from pywatt_host.net.shared_memory import Locks, new_descriptor
from tests.hosting import PATIENCE
from tests.net.shared_limits_worker import LIMIT, RATE, SUBJECT

TICK = 1_000_000_000 // 64  # nanoseconds, a number of which is exact in seconds, too


class Clock:
    def __init__(self) -> None:
        self.nanoseconds = 1_000_000 * TICK

    def now(self) -> int:
        return self.nanoseconds

    def seconds(self) -> float:
        return self.nanoseconds / 1_000_000_000


class Shared:
    """Limits, and what is attached to them in this process."""

    def __init__(self) -> None:
        self.limits = SharedLimits.create()
        self.clock = Clock()
        self._attached: list[WorkerLimits] = []

    def worker(self, slot: int | None = None) -> WorkerLimits:
        slot = self.limits.assign() if slot is None else slot
        self._attached.append(WorkerLimits(os.dup(self.limits.descriptor), slot, self.clock.now))
        return self._attached[-1]

    def limiter(self, rate: Rate, name: str = "limiter") -> SharedRateLimiter:
        return self.worker().rate_limiter(name, rate)

    def close(self) -> None:
        for worker in self._attached:
            worker.close()
        self.limits.close()


@contextmanager
def sharing() -> Iterator[Shared]:
    shared = Shared()
    try:
        yield shared
    finally:
        shared.close()


@pytest.fixture
def shared() -> Iterator[Shared]:
    with sharing() as made:
        yield made


class Worker:
    """A process of `shared_limits_worker`."""

    def __init__(self, limits: SharedLimits) -> None:
        self.slot = limits.assign()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.net.shared_limits_worker", str(limits.descriptor), str(self.slot)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[limits.descriptor],
            text=True,
        )
        assert self.answer() == "ready"

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        with self.process as process:
            process.kill()


@contextmanager
def processes(limits: SharedLimits, number: int) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        workers.extend(Worker(limits) for _ in range(number))
        yield workers
    finally:
        for worker in workers:
            worker.end()


# Rates ----------------------------------------------------------------------------------------------------------------


@given(
    rate=st.builds(Rate, st.sampled_from([1, 2, 8, 32]), st.sampled_from([1.0, 4.0, 64.0])),
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "take", "take", "give back"]), st.sampled_from("ab"), st.integers(0, 200))
    ),
)
def test_a_shared_limiter_decides_as_a_local_one(rate: Rate, steps: list[tuple[str, str, int]]) -> None:
    with sharing() as shared:
        local = LocalRateLimiter(rate, shared.clock.seconds)
        limiters = [shared.limiter(rate), shared.limiter(rate)]  # of two workers, in turn
        for number, (action, subject, ticks) in enumerate(steps):
            limiter = limiters[number % 2]
            if action == "take":
                assert limiter.wait_for(subject) == pytest.approx(local.wait_for(subject))
            else:
                limiter.give_back(subject)
                local.give_back(subject)
            shared.clock.nanoseconds += ticks * TICK


@pytest.mark.parametrize("rate", [Rate(3, 1.0), Rate(7, 60.0), Rate(50_000, 1.0), Rate(999_999_999, 1.0)], ids=str)
def test_a_burst_has_as_many_tokens_as_the_rate_says(shared: Shared, rate: Rate) -> None:
    limiter = shared.limiter(rate)
    taken = sum(limiter.wait_for("a") == 0 for _ in range(min(rate.count, 100_000)))
    assert taken == min(rate.count, 100_000)
    if rate.count == taken:
        assert 0 < limiter.wait_for("a") <= rate.seconds / rate.count


def test_limiters_with_different_names_have_different_buckets(shared: Shared) -> None:
    one, other = shared.limiter(Rate(1, 60.0), "one"), shared.limiter(Rate(1, 60.0), "other")
    assert [one.wait_for("a"), one.wait_for("a"), other.wait_for("a")] == [0.0, 60.0, 0.0]


def test_a_subject_may_be_any_text(shared: Shared) -> None:
    limiter = shared.limiter(Rate(1, 60.0))
    assert [limiter.wait_for("\udcff\0é"), limiter.wait_for("\udcff\0é"), limiter.wait_for("")] == [0.0, 60.0, 0.0]


def test_a_new_rate_gives_no_fresh_budget_and_no_longer_wait_than_its_own(shared: Shared) -> None:
    slow, faster, quick = shared.limiter(Rate(20, 60.0)), shared.limiter(Rate(40, 60.0)), shared.limiter(Rate(10, 1.0))
    assert [slow.wait_for("a") for _ in range(21)] == [*[0.0] * 20, 3.0]
    assert faster.wait_for("a") == 1.5
    assert quick.wait_for("a") == 0.1
    shared.clock.nanoseconds += 64 * TICK
    assert [quick.wait_for("a") for _ in range(11)] == [*[0.0] * 10, 0.1]


def test_the_fullest_bucket_of_a_set_is_given_up_first(shared: Shared) -> None:
    limiter = shared.limiter(Rate(5, 3600.0))
    same_set = (each for each in map(str, count()) if limiter._key(each) % SETS == limiter._key("spent") % SETS)
    assert [limiter.wait_for("spent") for _ in range(6)][4:] == [0.0, 720.0]
    others = list(islice(same_set, 9))
    assert [limiter.wait_for(other) for other in others] == [0.0] * 9
    assert limiter.wait_for("spent") == 720.0
    assert [limiter.wait_for(others[-1]) for _ in range(5)][3:] == [0.0, 720.0]


def test_processes_that_race_for_tokens_get_each_of_them_once() -> None:
    with sharing() as shared, processes(shared.limits, 4) as workers:
        for worker in workers:
            worker.tell("take 2000")
        assert sum(int(worker.answer()) for worker in workers) == RATE.count


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_dies_or_stops_with_a_lock_does_not_hold_up_others(how: str) -> None:
    with sharing() as shared, processes(shared.limits, 1) as [worker]:
        worker.tell(f"take and be {how}")
        _, status = os.waitpid(worker.process.pid, os.WUNTRACED)
        worker.process.returncode = None if how == "SIGSTOP" else -signal.SIGKILL  # waitpid has collected it
        assert os.WIFSTOPPED(status) == (how == "SIGSTOP")
        locks = Locks(shared.limits.descriptor)
        limiter = SharedLimits.attach(os.dup(shared.limits.descriptor), shared.limits.assign()).rate_limiter(
            "limiter", RATE
        )
        word = limiter._first + limiter._key(SUBJECT) % SETS * 16
        free = locks.acquire(word)
        assert free == (how == "SIGKILL")
        begun = time.monotonic()
        assert sum(limiter.wait_for(SUBJECT) == 0 for _ in range(60)) == RATE.count - 1
        limiter.give_back(SUBJECT)
        assert time.monotonic() - begun < PATIENCE / 10


def test_a_lock_that_another_process_keeps_is_waited_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("pywatt_host.net.shared_memory.time.sleep", pauses.append)
    descriptor = new_descriptor(8)
    try:
        clock = Clock()
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import fcntl, sys; fcntl.lockf({descriptor}, fcntl.LOCK_EX, 1, 8); print('held', flush=True);"
                " sys.stdin.read()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
        )
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            locks = Locks(descriptor, clock.now)
            assert locks.acquire(2)
            assert pauses == []
            assert not locks.acquire(1)
            assert 0 < sum(waited := pauses[:]) < 0.02
            assert not locks.acquire(1)
            assert pauses == waited
            clock.nanoseconds += 2_000_000_000
            assert not locks.acquire(1)
            assert pauses == 2 * waited
            holder.kill()
        assert locks.acquire(1)
    finally:
        os.close(descriptor)


# Concurrency ----------------------------------------------------------------------------------------------------------


@given(
    limit=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(["enter", "enter", "leave", "join", "end"]), st.integers(0, 7))),
)
def test_a_gate_is_full_exactly_when_all_workers_together_have_reached_its_limit(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    with sharing() as shared:
        slots = [shared.limits.assign()]
        gates = [shared.worker(slots[0]).gate("gate", limit)]
        for action, number in steps:
            place = number % len(gates)
            gate = gates[place]
            if action == "enter":
                total = sum(each.count[0] for each in gates)
                assert gate.full() == (total >= limit)
                gate.count[0] += total < limit
            elif action == "leave":
                gate.count[0] -= gate.count[0] > 0
            elif action == "join":
                slots.append(shared.limits.assign())
                gates.append(shared.worker(slots[-1]).gate("gate", limit))
            elif len(gates) > 1:
                shared.limits.clear(slots.pop(place))
                gates.pop(place)


def test_a_worker_below_its_share_needs_no_sum_and_one_above_it_makes_all_take_it(shared: Shared) -> None:
    first, second = (shared.worker(slot).gate("gate", 10) for slot in (shared.limits.assign(), shared.limits.assign()))
    assert not first.full()
    assert (first.room[0], second.room[0]) == (5, 5)
    first.count[0] = 5
    assert not first.full()
    assert second.room[0] == 0
    first.count[0] = 9
    assert not second.full()
    second.count[0] = 1
    assert first.full()
    assert second.full()
    first.count[0] = 0
    assert not second.full()
    assert second.room[0] == 5


def test_workers_in_processes_have_one_gate_and_one_that_was_killed_does_not_count() -> None:
    with sharing() as shared, processes(shared.limits, 2) as [first, second]:
        assert [first.ask("enter") for _ in range(LIMIT - 1)] == ["True"] * (LIMIT - 1)
        assert [second.ask("enter"), second.ask("enter"), first.ask("enter")] == ["True", "False", "False"]
        first.ask("leave")
        assert second.ask("enter") == "True"
        first.end()
        assert second.ask("enter") == "False"
        shared.limits.clear(first.slot)
        assert [second.ask("enter") for _ in range(LIMIT)] == ["True"] * (LIMIT - 2) + ["False"] * 2


def test_processes_that_race_exceed_a_gate_by_one_request_each_at_most() -> None:
    with sharing() as shared, processes(shared.limits, 4) as workers:
        for worker in workers:
            worker.tell("enter 100")
        assert LIMIT <= sum(int(worker.answer()) for worker in workers) <= LIMIT + 3


# Names and slots ------------------------------------------------------------------------------------------------------


def test_workers_agree_on_the_rows_of_names_and_a_full_table_says_so() -> None:
    descriptor = new_descriptor(4)
    try:
        table = memoryview(bytearray(4 * 8)).cast("q")
        one, other = (GateNames(table, Locks(descriptor), 0) for _ in range(2))
        assert [one.row("a"), other.row("b"), one.row("c"), other.row("a"), other.row("c")] == [0, 1, 2, 0, 2]
        assert other.used == 3
        assert [one.row("d"), one.row("e"), one.row("b")] == [3, None, 1]
    finally:
        os.close(descriptor)


def test_where_the_names_are_used_up_a_limit_holds_for_the_worker_and_the_log_says_so(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    worker = shared.worker()
    assert isinstance(worker.gate("POST /early", 1), SharedGate)
    worker._memory.names[1:] = memoryview(b"\1" * 8 * (len(worker._memory.names) - 1)).cast("q")
    gate = worker.gate("POST /late", 1)
    assert isinstance(gate, LocalGate)
    assert not gate.full()
    [record] = caplog.records
    assert "the limit on concurrent requests of POST /late holds for each worker by itself" in record.getMessage()
    assert isinstance(shared.worker().gate("POST /early", 1), SharedGate)


def test_a_slot_is_given_to_one_worker_at_a_time_and_begins_at_nothing(shared: Shared) -> None:
    slots = [shared.limits.assign() for _ in range(SLOTS)]
    assert slots == list(range(SLOTS))
    with pytest.raises(ServiceError, match="256 worker processes exist already"):
        shared.limits.assign()
    worker = shared.worker(7)
    worker.gate("gate", 3).count[0] = 3
    worker.connections.set(5)
    worker.accepting(True)
    shared.limits.set_aside(7, True)
    assert shared.limits.connections(7) == 5
    shared.limits.clear(7)
    assert shared.limits.assign() == 7
    assert shared.limits.connections(7) == 0
    assert not shared.worker(8).gate("gate", 3).full()
    assert shared.worker(8).least_connections() is None


def test_connections_go_to_workers_that_take_them(shared: Shared) -> None:
    first, second, third = shared.worker(), shared.worker(), shared.worker()
    for worker, number in ((first, 1), (second, 7), (third, 4)):
        worker.connections.set(number)
    assert first.least_connections() is None
    second.accepting(True)
    assert [each.least_connections() for each in (first, second, third)] == [7, None, 7]
    third.accepting(True)
    assert [each.least_connections() for each in (first, second, third)] == [4, 4, 7]
    shared.limits.set_aside(2, True)
    assert first.least_connections() == 7
    shared.limits.set_aside(2, False)
    third.accepting(False)
    assert first.least_connections() == 7


def test_memory_of_another_version_is_refused_with_what_to_do(shared: Shared) -> None:
    shared.limits._memory.layout[0] += 1
    with pytest.raises(ServiceError, match="another version of pywatt-host than its new workers; restart the host"):
        SharedLimits.attach(shared.limits.descriptor, 0)
    small = new_descriptor(1)
    try:
        with pytest.raises(ServiceError, match="another version"):
            SharedLimits.attach(small, 0)
    finally:
        os.close(small)


def test_programs_that_a_worker_starts_do_not_inherit_the_memory(shared: Shared) -> None:
    descriptor = os.dup(shared.limits.descriptor)
    os.set_inheritable(descriptor, True)
    SharedLimits.attach(descriptor, 0).close()
    assert not os.get_inheritable(shared.limits.descriptor)
