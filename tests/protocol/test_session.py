"""Which answer belongs to which request, for how long, and that nothing is kept of it afterwards."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pywatt_host.exceptions import ChannelError, HostError, MessagingError, ProtocolError
from pywatt_host.protocol import codec, session
from pywatt_host.protocol.messages import (
    Discover,
    Discovered,
    Error,
    GetSecret,
    Heartbeat,
    HeartbeatAck,
    HttpRequest,
    HttpResponse,
    Init,
    PortRequest,
    PortResponse,
    Register,
    Registered,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    SecretValue,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
    Unknown,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import Session, agreed, cut, refusal
from tests.hosting import run

LONG = 30.0  # seconds; no test waits for it
LOST = ChannelError("tcp", "127.0.0.1:1", "the other side closed it")
IDS = frozenset({"request_id", "error"})
NOTHING = Payload.of(None)


class Pipe:
    """An outlet that keeps what was written."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.full: HostError | None = None
        self.keeps_up = asyncio.Event()
        self.keeps_up.set()

    def write(self, data: bytes) -> None:
        if self.full is not None:
            raise self.full
        self.lines.append(data)

    async def drained(self) -> None:
        await self.keeps_up.wait()

    def sent(self) -> list[Any]:
        """What was written, as messages."""
        return [codec.read(line) for line in self.lines]


def opened(extensions: frozenset[str] = frozenset(), **more: Any) -> tuple[Session, Pipe]:
    pipe = Pipe()
    return Session("peer", pipe, codec.line, extensions, **more), pipe


async def asked(session: Session, *messages: Any, timeout: float = LONG) -> list[asyncio.Task[Any]]:
    """Requests that were sent and wait, in this order."""
    tasks = [asyncio.create_task(session.request(message, timeout)) for message in messages]
    await asyncio.sleep(0)
    return tasks


async def timed_out(session: Session, message: Any) -> None:
    with pytest.raises(MessagingError) as caught:
        await session.request(message, 0.001)
    assert caught.value.code == "timeout"


def operation(name: str) -> ServiceOperation:
    return ServiceOperation("c", "Cache", name)


def routed(id: str) -> RouteToModule:
    return RouteToModule("billing", "", id, NOTHING)


PAIRS: list[tuple[Any, Any]] = [
    (GetSecret("A"), SecretValue("A", "value-of-a")),
    (Register("api", "users", "a:1"), Registered(True, "p")),
    (Discover("api"), Discovered(True)),
    (ServiceRequest("1", "Cache"), ServiceResponse("1", "Cache", True)),
    (operation("get"), ServiceOperationResult(True, 1)),
    (PortRequest("1"), PortResponse("1", True, 80)),
    (routed("1"), RoutedResponse("billing", "1", NOTHING)),
    (HttpRequest("1", "GET", "/"), HttpResponse("1", 200)),
    (Heartbeat(), HeartbeatAck()),
]
pairs = pytest.mark.parametrize(("request_", "answer"), PAIRS, ids=[pair[0].op for pair in PAIRS])
by_id = pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda id: ServiceRequest(id, "Cache"), lambda id: ServiceResponse(id, "Cache", True)),
        (PortRequest, lambda id: PortResponse(id, True)),
        (routed, lambda id: RoutedResponse("billing", id, NOTHING)),
        (lambda id: HttpRequest(id, "GET", "/"), lambda id: HttpResponse(id, 200)),
    ],
    ids=["service_request", "port_request", "route_to_module", "http_request"],
)
in_order = pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda name: Register("api", name, "a:1"), lambda name: Registered(True, name)),
        (Discover, lambda name: Discovered(True, error=name)),
        (operation, lambda name: ServiceOperationResult(True, name)),
    ],
    ids=["register", "discover", "service_operation"],
)
Make = Callable[[str], Any]


def behaves(main: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """A test of a coroutine; what nobody retrieved by its end is an error."""

    def test() -> None:
        forgotten: list[str] = []

        async def watched() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: forgotten.append(str(context["message"])))
            await main()
            gc.collect()
            await asyncio.sleep(0)

        gc.freeze()  # what was there before is not searched, which is most of the time
        try:
            run(watched)
        finally:
            gc.unfreeze()
        assert forgotten == []

    return test


# Correlation --------------------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("extensions", [frozenset(), IDS], ids=["by the tables", "by request_id"])
def test_every_request_has_its_answer(request_: Any, answer: Any, extensions: frozenset[str]) -> None:
    async def main() -> None:
        session, pipe = opened(extensions)
        (task,) = await asked(session, request_)
        (sent,) = pipe.sent()
        assert type(sent) is type(request_)
        nameless = type(request_) in (GetSecret, Register, Discover, ServiceOperation)
        if nameless and extensions:
            assert sent.request_id is not None
            answer_ = type(answer)(**{**fields(answer), "request_id": sent.request_id})
        else:
            assert sent == request_
            answer_ = answer
        assert session.answered(answer_) is True
        assert await task == answer_
        assert session.answered(answer_) is True  # twice: dropped
        assert empty(session)

    behaves(main)()


def fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "op"}


def empty(session: Session) -> bool:
    """Whether a session keeps nothing of any request."""
    return not session._pending and not session._in_order and session._places == 0


@by_id
def test_answers_with_an_id_may_come_in_any_order(make: Make, answer: Make) -> None:
    async def main() -> None:
        session, _ = opened()
        tasks = await asked(session, make("1"), make("2"), make("3"))
        for id in ("3", "1", "2"):
            session.answered(answer(id))
        assert [await task for task in tasks] == [answer("1"), answer("2"), answer("3")]
        assert empty(session)

    behaves(main)()


@by_id
def test_an_id_that_waits_cannot_be_used_again_until_it_is_answered(make: Make, answer: Make) -> None:
    async def main() -> None:
        session, pipe = opened()
        (first,) = await asked(session, make("1"))
        with pytest.raises(MessagingError, match="a request with this id already waits") as caught:
            await session.request(make("1"), LONG)
        assert caught.value.code == "invalid_message"
        assert len(pipe.lines) == 1
        session.answered(answer("1"))
        await first
        (again,) = await asked(session, make("1"))
        session.answered(answer("1"))
        assert await again == answer("1")

    behaves(main)()


@in_order
def test_answers_without_an_id_belong_to_requests_in_the_order_asked_for_each_operation(
    make: Make, answer: Make
) -> None:
    async def main() -> None:
        session, _ = opened()
        tasks = await asked(session, make("a"), Heartbeat(), make("b"), make("c"), GetSecret("a"))
        for name in "abc":
            session.answered(answer(name))
        assert [await tasks[number] for number in (0, 2, 3)] == [answer("a"), answer("b"), answer("c")]
        assert not tasks[1].done()
        assert not tasks[4].done()
        session.answered(HeartbeatAck())
        session.answered(SecretValue("a", "v"))
        await asyncio.gather(tasks[1], tasks[4])
        assert empty(session)

    behaves(main)()


def test_secrets_are_told_apart_by_name_and_served_in_order() -> None:
    async def main() -> None:
        session, _ = opened()
        a1, b, a2 = await asked(session, GetSecret("A"), GetSecret("B"), GetSecret("A"))
        session.answered(SecretValue("B", "b"))
        session.answered(SecretValue("A", "first"))
        session.answered(SecretValue("A", "second"))
        assert [(await task).value for task in (a1, b, a2)] == ["first", "b", "second"]
        assert empty(session)

    behaves(main)()


@in_order
def test_the_late_answer_to_a_request_that_timed_out_is_not_the_next_ones(make: Make, answer: Make) -> None:
    async def main() -> None:
        session, _ = opened()
        await timed_out(session, make("a"))
        (b,) = await asked(session, make("b"))
        session.answered(answer("a"))
        await asyncio.sleep(0)
        assert not b.done()
        session.answered(answer("b"))
        assert await b == answer("b")
        assert empty(session)

    behaves(main)()


@in_order
def test_nor_is_the_answer_to_one_that_was_cancelled(make: Make, answer: Make) -> None:
    async def main() -> None:
        session, _ = opened()
        a, b = await asked(session, make("a"), make("b"))
        a.cancel()
        with pytest.raises(asyncio.CancelledError):
            await a
        session.answered(answer("a"))
        session.answered(answer("b"))
        assert await b == answer("b")
        assert empty(session)

    behaves(main)()


def test_a_secret_that_was_once_not_answered_can_be_had_later() -> None:
    """A peer without errors may stay silent where it has no such secret: later answers are not out of step."""

    async def main() -> None:
        session, _ = opened()
        for _ in range(3):
            await timed_out(session, GetSecret("A"))
        (task,) = await asked(session, GetSecret("A"))
        session.answered(SecretValue("A", "there now"))
        assert (await task).value == "there now"
        assert empty(session)

    behaves(main)()


def test_a_secret_goes_to_whoever_still_waits_for_it() -> None:
    async def main() -> None:
        session, _ = opened()
        early, cancelled, late = await asked(session, GetSecret("A"), GetSecret("A"), GetSecret("A"))
        early.cancel()
        cancelled.cancel()
        await asyncio.wait([early, cancelled])
        session.answered(SecretValue("A", "v"))
        assert (await late).value == "v"
        assert empty(session)

    behaves(main)()


def test_a_heartbeat_that_was_not_answered_does_not_put_later_ones_out_of_step() -> None:
    async def main() -> None:
        session, _ = opened()
        await timed_out(session, Heartbeat())
        (task,) = await asked(session, Heartbeat())
        session.answered(HeartbeatAck())
        await task
        assert empty(session)

    behaves(main)()


def test_with_request_ids_order_means_nothing() -> None:
    async def main() -> None:
        session, pipe = opened(IDS)
        tasks = await asked(session, operation("a"), operation("b"), GetSecret("x"), GetSecret("x"))
        ids = [sent.request_id for sent in pipe.sent()]
        assert len(set(ids)) == 4
        session.answered(SecretValue("x", "second", request_id=ids[3]))
        session.answered(ServiceOperationResult(True, "b", request_id=ids[1]))
        session.answered(ServiceOperationResult(True, "a", request_id=ids[0]))
        session.answered(SecretValue("x", "first", request_id=ids[2]))
        assert [(await task).result for task in tasks[:2]] == ["a", "b"]
        assert [(await task).value for task in tasks[2:]] == ["first", "second"]
        assert empty(session)

    behaves(main)()


def test_a_request_id_of_ones_own_is_not_sent_to_a_peer_that_does_not_know_them() -> None:
    async def main() -> None:
        session, pipe = opened()
        (task,) = await asked(session, GetSecret("A", "mine"))
        assert pipe.lines == [b'{"op":"get_secret","name":"A"}\n']
        session.answered(SecretValue("A", "v"))
        assert (await task).value == "v"

    behaves(main)()


def test_extensions_may_become_known_while_requests_wait() -> None:
    async def main() -> None:
        session, pipe = opened()
        (before,) = await asked(session, GetSecret("A"))
        session.extensions = IDS
        (after,) = await asked(session, GetSecret("A"))
        session.answered(SecretValue("A", "after", request_id=pipe.sent()[1].request_id))
        session.answered(SecretValue("A", "before"))
        assert ((await before).value, (await after).value) == ("before", "after")

    behaves(main)()


@pytest.mark.parametrize(
    "message",
    [RoutedMessage("m", "1", NOTHING), GetSecret("A"), Heartbeat(), Init("a", "m"), Unknown("dance")],
    ids=lambda message: str(message.op),
)
def test_what_is_no_answer_is_left_to_somebody_else(message: Any) -> None:
    async def main() -> None:
        session, _ = opened()
        assert session.answered(message) is False

    behaves(main)()


@pytest.mark.parametrize("answer", [answer for _, answer in PAIRS], ids=lambda answer: str(answer.op))
def test_an_answer_that_nobody_asked_for_is_dropped(answer: Any) -> None:
    async def main() -> None:
        session, _ = opened()
        assert session.answered(answer) is True
        assert empty(session)

    behaves(main)()


# Errors -------------------------------------------------------------------------------------------------------------


@pairs
def test_an_error_with_the_id_of_a_request_fails_it_with_the_peers_code(request_: Any, answer: Any) -> None:
    async def main() -> None:
        session, pipe = opened(IDS)
        if isinstance(request_, Heartbeat):
            return
        (task,) = await asked(session, request_)
        (sent,) = pipe.sent()
        id = sent.id if isinstance(sent, ServiceRequest) else sent.request_id
        session.answered(Error(request_.op, "no_such_thing", "there is none", "another"))
        await asyncio.sleep(0)
        assert not task.done()
        session.answered(Error(request_.op, "no_such_thing", "there is none", id))
        with pytest.raises(MessagingError) as caught:
            await task
        assert (caught.value.code, caught.value.message) == ("no_such_thing", "there is none")
        assert empty(session)

    behaves(main)()


@in_order
def test_an_error_without_an_id_fails_the_oldest_request_of_that_operation(make: Make, answer: Make) -> None:
    async def main() -> None:
        session, _ = opened(frozenset({"error"}))
        secret, a, b = await asked(session, GetSecret("A"), make("a"), make("b"))
        session.answered(Error(make("a").op, "refused", "no"))
        session.answered(answer("b"))
        with pytest.raises(MessagingError, match="no"):
            await a
        assert await b == answer("b")
        assert not secret.done()
        session.answered(Error("get_secret", "unknown_secret", ""))
        with pytest.raises(MessagingError, match="refused") as caught:
            await secret
        assert caught.value.code == "unknown_secret"
        assert empty(session)

    behaves(main)()


def test_of_several_secrets_it_is_the_one_asked_for_first_whatever_its_name() -> None:
    async def main() -> None:
        session, _ = opened(frozenset({"error"}))
        a1, b, a2 = await asked(session, GetSecret("A"), GetSecret("B"), GetSecret("A"))
        session.answered(SecretValue("A", "v"))
        await a1
        session.answered(Error("get_secret", "unknown_secret", "there is no B"))
        with pytest.raises(MessagingError, match="there is no B"):
            await b
        assert not a2.done()
        session.answered(SecretValue("A", "v"))
        await a2

    behaves(main)()


def test_an_error_that_answers_nothing_is_dropped() -> None:
    async def main() -> None:
        session, _ = opened(IDS)
        (task,) = await asked(session, routed("1"))
        for error in (Error("", "x", "y"), Error("route_to_module", "x", "y"), Error("get_secret", "x", "y", "zz")):
            assert session.answered(error) is True
        await asyncio.sleep(0)
        assert not task.done()
        session.answered(RoutedResponse("billing", "1", NOTHING))
        await task

    behaves(main)()


def test_an_endless_error_of_a_peer_is_cut() -> None:
    async def main() -> None:
        session, _ = opened(IDS)
        (task,) = await asked(session, routed("1"))
        session.answered(Error("route_to_module", "c\n" * 10_000, "m" * 10**6, "1"))
        with pytest.raises(MessagingError) as caught:
            await task
        assert len(str(caught.value)) < 600
        assert "\n" not in caught.value.code

    behaves(main)()


# Time, cancellation, the end ----------------------------------------------------------------------------------------


@pairs
def test_a_request_without_an_answer_times_out_and_says_so(request_: Any, answer: Any) -> None:
    async def main() -> None:
        session, _ = opened()
        with pytest.raises(MessagingError) as caught:
            await session.request(request_, 0.001)
        assert caught.value.code == "timeout"
        assert f"no answer to {request_.op} within 0.001s" in str(caught.value)
        assert session.answered(answer) is True
        assert empty(session)

    behaves(main)()


@pairs
def test_a_request_that_is_cancelled_leaves_nothing_once_it_is_answered(request_: Any, answer: Any) -> None:
    async def main() -> None:
        session, _ = opened()
        (task,) = await asked(session, request_)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.answered(answer) is True
        assert empty(session)

    behaves(main)()


def test_closing_fails_all_that_waits_and_all_that_is_asked_later() -> None:
    async def main() -> None:
        session, pipe = opened()
        assert session.lost is None
        tasks = await asked(session, *[request for request, _ in PAIRS], operation("again"), GetSecret("B"))
        session.close(LOST)
        session.close(MessagingError("lost", "a second reason"))
        assert session.lost is LOST
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is LOST
        for later in (session.request(Heartbeat(), LONG), session.drained()):
            with pytest.raises(ChannelError) as caught:
                await later
            assert caught.value is LOST
        with pytest.raises(ChannelError):
            session.send(Heartbeat())
        assert len(pipe.lines) == len(tasks)
        assert empty(session)
        session.answered(SecretValue("B", "v"))

    behaves(main)()


def test_closing_with_requests_that_were_cancelled_timed_out_or_left_alone_warns_of_nothing() -> None:
    async def main() -> None:
        session, _ = opened()
        await timed_out(session, operation("a"))
        cancelled, waiting, both = await asked(session, operation("b"), routed("1"), routed("2"))
        cancelled.cancel()
        session.close(LOST)
        both.cancel()  # when the reason is there already
        results = await asyncio.gather(cancelled, waiting, both, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, ChannelError, asyncio.CancelledError]

    behaves(main)()


def test_a_reason_told_to_thousands_does_not_keep_what_they_were_doing() -> None:
    class Body:
        """Something large on the way."""

    async def main() -> None:
        session, _ = opened()
        session.close(LOST)
        kept = weakref.WeakSet[Body]()

        def told() -> None:
            body = Body()
            kept.add(body)
            with pytest.raises(ChannelError):
                session.send(Heartbeat())

        for _ in range(100):
            told()
        gc.collect()
        assert len(kept) <= 1
        depth, traceback = 0, LOST.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        assert depth < 10

    behaves(main)()


def test_who_sends_much_waits_until_the_peer_keeps_up() -> None:
    async def main() -> None:
        session, pipe = opened()
        pipe.keeps_up.clear()
        waiting = asyncio.create_task(session.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        pipe.keeps_up.set()
        await waiting
        pipe.keeps_up.clear()
        waiting = asyncio.create_task(session.drained())
        await asyncio.sleep(0)
        session.close(LOST)
        pipe.keeps_up.set()
        with pytest.raises(ChannelError):
            await waiting

    behaves(main)()


@pairs
def test_a_request_that_could_not_be_written_is_forgotten(request_: Any, answer: Any) -> None:
    async def main() -> None:
        session, pipe = opened()
        pipe.full = MessagingError("unavailable", "the peer does not read what it is sent", "peer")
        with pytest.raises(MessagingError, match="does not read"):
            await session.request(request_, LONG)
        assert empty(session)
        pipe.full = None
        (task,) = await asked(session, request_)
        session.answered(answer)
        assert await task == answer  # and has not put the next one out of step

    behaves(main)()


@pytest.mark.parametrize("make", [routed, operation, GetSecret], ids=["by id", "in order", "by name"])
def test_so_many_requests_wait_and_no_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(session, "MAX_PENDING", 8)
        ours, pipe = opened()
        tasks = await asked(ours, *[make(str(number)) for number in range(8)])
        with pytest.raises(MessagingError, match="8 requests already wait") as caught:
            await ours.request(make("one more"), LONG)
        assert caught.value.code == "unavailable"
        assert len(pipe.lines) == 8
        ours.close(LOST)
        await asyncio.gather(*tasks, return_exceptions=True)

    behaves(main)()


def test_a_peer_that_never_answers_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(session, "MAX_PENDING", 8)
        ours, _ = opened()
        for _ in range(8):
            await timed_out(ours, operation("x"))
        with pytest.raises(MessagingError, match="8 requests already wait"):
            await ours.request(operation("x"), LONG)
        ours, _ = opened()
        for _ in range(20):  # of these it keeps no more than the last
            await timed_out(ours, Heartbeat())
            await timed_out(ours, GetSecret("A"))
        assert ours._places == 2

    behaves(main)()


def test_a_message_beyond_the_peers_limit_is_not_sent_and_leaves_nothing() -> None:
    async def main() -> None:
        session, pipe = opened(limit=100)
        large = RouteToModule("billing", "", "1", Payload(b"x" * 100, "Binary"))
        for sending in (session.request(large, LONG), asyncio.to_thread(session.send, large)):
            with pytest.raises(MessagingError, match="route_to_module is longer than 100 bytes") as caught:
                await sending
            assert caught.value.code == "too_large"
        assert pipe.lines == []
        assert empty(session)

    behaves(main)()


def test_a_message_without_json_form_is_not_sent_and_leaves_nothing() -> None:
    async def main() -> None:
        session, pipe = opened()
        with pytest.raises(ProtocolError):
            await session.request(RouteToModule("billing", "", "1", Payload.of(object())), LONG)
        with pytest.raises(ProtocolError):
            await session.request(ServiceOperation("c", "Cache", "set", object()), LONG)
        assert pipe.lines == []
        assert empty(session)

    behaves(main)()


@pairs
@pytest.mark.parametrize("end", ["answered", "failed", "timed out", "cancelled"])
def test_nothing_of_a_request_is_kept_once_it_is_over(request_: Any, answer: Any, end: str) -> None:
    async def main() -> None:
        session, pipe = opened(IDS)
        result: Any = type(answer)(**fields(answer))
        task = asyncio.create_task(session.request(type(request_)(**fields(request_)), 0.01 if "out" in end else LONG))
        await asyncio.sleep(0)
        sent = pipe.sent()[0]
        id = getattr(sent, "request_id", None) or getattr(sent, "id", None)
        alive = weakref.ref(task)
        match end:
            case "answered":
                if "request_id" in fields(answer):
                    result = type(answer)(**{**fields(answer), "request_id": id})
                session.answered(result)
            case "failed":
                session.answered(Error(request_.op, "no", "no", id))
            case "cancelled":
                task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        if isinstance(request_, Heartbeat):
            session.answered(HeartbeatAck())
        assert empty(session)
        del task, result
        gc.collect()
        assert alive() is None

    behaves(main)()


# Small things -------------------------------------------------------------------------------------------------------


def test_a_request_is_refused_with_its_own_id_where_the_peer_knows_errors() -> None:
    assert refusal(routed("1"), "unknown_target", "no", frozenset()) is None
    assert refusal(routed("1"), "unknown_target", "no", IDS) == Error("route_to_module", "unknown_target", "no", "1")
    assert refusal(ServiceRequest("7", "Cache"), "refused", "no", IDS) == Error("service_request", "refused", "no", "7")
    assert refusal(GetSecret("A"), "unknown_secret", "no", IDS) == Error("get_secret", "unknown_secret", "no")


def test_only_what_both_sides_named_is_agreed_on() -> None:
    assert agreed({"error", "drain", "of-a-later-version"}, {"error", "health"}) == {"error"}
    assert agreed(set(), {"error"}) == frozenset()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("users", "users"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u2028é", "\\u2028\\xe9"),
        ("x" * 200, "x" * 100 + "..."),
        ("", ""),
    ],
)
def test_a_name_of_a_peer_is_shown_escaped_and_cut(text: str, shown: str) -> None:
    assert cut(text) == shown
