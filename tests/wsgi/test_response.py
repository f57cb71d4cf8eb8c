"""The response side of PEP 3333: start_response, write, the iterable and its close()."""

import sys
from typing import Any

import pytest


class Chunks:
    """An iterable that counts its close() and may fail on the way."""

    def __init__(self, *chunks: Any, error: BaseException | None = None) -> None:
        self.chunks, self.error, self.closed = chunks, error, 0

    def __iter__(self) -> Any:
        yield from self.chunks
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


def responding(body: Any, *headers: tuple[str, str], status: str = "200 OK") -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return app


@pytest.mark.parametrize("body", [[b"hello"], (b"he", b"llo"), [b"", b"hello", b""]])
def test_a_list_goes_out_as_one_with_its_length(answer: Any, body: Any) -> None:
    caller = answer(responding(body, ("X-A", "1")))
    assert caller.header == {b"x-a": b"1", b"content-length": b"5"}
    assert caller.sent[1:] == [{"type": "http.response.body", "body": b"hello", "more_body": False}]


def test_a_large_list_keeps_its_pieces(answer: Any) -> None:
    caller = answer(responding([b"x" * 50_000] * 3))
    assert caller.header[b"content-length"] == b"150000"
    assert [len(message["body"]) for message in caller.sent[1:]] == [50_000] * 3
    assert caller.whole


def test_an_iterable_of_length_one_has_its_length_told(answer: Any) -> None:
    class One(Chunks):
        def __len__(self) -> int:
            return 1

    assert answer(responding(One(b"hello"))).header == {b"content-length": b"5"}
    assert answer(responding(Chunks(b"hello"))).header == {}


@pytest.mark.parametrize("body", [[], [b""], Chunks(), Chunks(b"", b"")])
def test_an_empty_body_is_a_response_all_the_same(answer: Any, body: Any) -> None:
    caller = answer(responding(body))
    assert (caller.status, caller.header, caller.body, caller.whole) == (200, {b"content-length": b"0"}, b"", True)


@pytest.mark.parametrize(("status", "code"), [("200 OK", 200), ("204", 204), ("404 Not Found", 404), ("299 ", 299)])
def test_the_status_may_come_with_or_without_a_reason(answer: Any, status: Any, code: Any) -> None:
    assert answer(responding([], status=status)).status == code


@pytest.mark.parametrize(
    "status", ["", "OK", "20 OK", "2000 OK", "100 Continue", "600 X", "200 O\nK", "200OK", b"200 OK", 200]
)
def test_a_status_that_is_none_is_refused(answer: Any, status: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        answer(responding([], status=status))


@pytest.mark.parametrize(
    "header",
    [
        ("X A", "1"), ("", "1"), ("X-A\n", "1"), ("X-A", "a\nb"), ("X-A", "a\r"), ("X-A", "\0"), ("X-É", "1"),
        ("X-A", "\u20ac"), (b"X-A", "1"), ("X-A", b"1"), ("X-A", 1), ("Content-Length", "-1"),
        ("Content-Length", "\u0662"), ("Content-Length", ""), ("Content-Length", "1, 1"), ("X-A", "a\x7f"),
        ("Connection", "a\r\nX: b"), ("X-A", "a\x0bb"),
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(answer: Any, header: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        answer(responding([], header))


def test_two_lengths_are_refused_and_the_same_length_twice_is_sent_once(answer: Any) -> None:
    with pytest.raises(ValueError, match="two lengths"):
        answer(responding([b"x"], ("Content-Length", "1"), ("content-length", "2")))
    caller = answer(responding([b"x"], ("Content-Length", "1"), ("content-length", "1")))
    assert caller.headers == [(b"content-length", b"1")]


def test_headers_keep_order_and_repetition_and_lose_what_is_the_connections(answer: Any) -> None:
    hop_by_hop = [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Keep-Alive", "1"), ("Upgrade", "h2c")]
    caller = answer(
        responding([], ("Set-Cookie", "a=1"), *hop_by_hop, ("Set-Cookie", " b=é "), ("Content-Length", "0"))
    )
    assert caller.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=\xe9"), (b"content-length", b"0")]


def test_the_head_waits_for_the_first_bytes_so_that_an_error_can_still_replace_it(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1")])
        yield b""
        try:
            raise KeyError("late")
        except KeyError:
            start_response("500 Oops", [("X-Second", "1")], sys.exc_info())
        yield b"sorry"

    caller = answer(app)
    assert (caller.status, caller.header, caller.body) == (500, {b"x-second": b"1"}, b"sorry")


def test_exc_info_after_the_head_raises_that_exception_into_the_app(answer: Any) -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"x"
        try:
            raise KeyError("late")
        except KeyError:
            try:
                start_response("500 Oops", [], sys.exc_info())
            except KeyError as exc:
                seen.append(exc.args)
                raise

    with pytest.raises(KeyError, match="late"):
        answer(app)
    assert seen == [("late",)]


def test_a_second_start_response_without_exc_info_is_an_error(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="second time"):
        answer(app)


@pytest.mark.parametrize("body", [[b"x"], Chunks(b"x"), [], Chunks()])
def test_a_body_without_start_response_is_an_error(answer: Any, body: Any) -> None:
    with pytest.raises(AssertionError, match="start_response was not called"):
        answer(lambda environ, start_response: body)


def test_write_goes_before_the_iterable(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return [b"c", b"d"]

    caller = answer(app)
    assert (caller.body, caller.header, caller.whole) == (b"abcd", {}, True)


def test_write_past_the_content_length_is_an_error_in_the_app(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "3")])
        with pytest.raises(AssertionError, match="Content-Length"):
            write(b"four")
        write(b"abc")
        return []

    caller = answer(app)
    assert (caller.body, caller.whole) == (b"abc", True)


@pytest.mark.parametrize("chunk", ["text", None, bytearray(b"x"), 1])
def test_a_chunk_that_is_not_bytes_is_an_error(answer: Any, chunk: Any) -> None:
    for body in ([chunk], Chunks(chunk)):
        with pytest.raises(TypeError, match="bytes"):
            answer(responding(body))


def test_what_goes_past_the_content_length_is_cut_off_and_logged(answer: Any, caplog: Any) -> None:
    for body in (Chunks(b"abc", b"def", b"ghi"), Chunks(b"abcd", b"ef"), [b"abcdef"]):
        caplog.clear()
        caller = answer(responding(body, ("Content-Length", "4")))
        assert (caller.body, caller.whole) == (b"abcd", True)
        assert "more than its Content-Length" in caplog.text


@pytest.mark.parametrize("body", [[b"ab"], Chunks(b"ab"), [], Chunks()])
def test_less_than_the_content_length_is_an_error_and_never_a_whole_response(
    answer: Any, client: Any, drive: Any, body: Any
) -> None:
    caller = client()
    with pytest.raises(RuntimeError, match="bytes it declared"):
        drive(responding(body, ("Content-Length", "4")), caller.call)
    assert all(message["more_body"] for message in caller.sent[1:])


@pytest.mark.parametrize("body", [[b"ab"], (b"a", b"b"), [], Chunks(), [b"x" * 50_000] * 2])
def test_less_than_the_content_length_is_noticed_before_the_head_leaves_where_the_body_is_known(
    client: Any, drive: Any, body: Any
) -> None:
    """So that the server can still answer 500."""
    caller = client()
    with pytest.raises(RuntimeError, match="bytes it declared"):
        drive(responding(body, ("Content-Length", "200000")), caller.call)
    assert caller.sent == []


def test_the_code_behind_the_last_yield_is_run_also_when_the_length_was_declared(answer: Any) -> None:
    done = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "3")])
        yield b"abc"
        done.append("commit")

    assert answer(app).whole
    assert done == ["commit"]


@pytest.mark.parametrize("body", [[b"hello"], Chunks(b"he", b"llo")])
def test_head_has_the_headers_of_get_and_no_body(answer: Any, body: Any) -> None:
    caller = answer(responding(body, ("Content-Length", "5")), method="HEAD")
    assert (caller.header, caller.body, caller.whole) == ({b"content-length": b"5"}, b"", True)


def test_head_of_an_endless_response_ends(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        while True:
            yield b"x"

    assert answer(app, method="HEAD").whole


def test_head_with_an_empty_list_makes_up_no_length(answer: Any) -> None:
    assert answer(responding([]), method="HEAD").header == {}


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_status_without_body_has_none_and_no_length(answer: Any, status: Any) -> None:
    for body in ([b"x"], Chunks(b"x", b"y"), []):
        caller = answer(responding(body, ("Content-Length", "1"), ("ETag", "a"), status=status))
        assert (caller.header, caller.body, caller.whole) == ({b"etag": b"a"}, b"", True)


def test_close_is_called_once_at_the_end(answer: Any) -> None:
    body = Chunks(b"a", b"b")
    assert answer(responding(body)).whole
    assert body.closed == 1


@pytest.mark.parametrize("chunks", [(), (b"a",), (b"a", b"b")])
def test_close_is_called_once_when_the_iterable_fails_and_the_error_comes_out(
    drive: Any, client: Any, chunks: Any
) -> None:
    body, caller = Chunks(*chunks, error=KeyError("broken")), client()
    with pytest.raises(KeyError, match="broken"):
        drive(responding(body), caller.call)
    assert body.closed == 1
    assert caller.body == b"".join(chunks)
    assert not any(message.get("more_body") is False for message in caller.sent)


def test_an_app_that_fails_before_the_head_has_sent_nothing(drive: Any, client: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        raise KeyError("early")

    caller = client()
    with pytest.raises(KeyError, match="early"):
        drive(app, caller.call)
    assert caller.sent == []


def test_a_failing_close_comes_out_after_a_whole_response(drive: Any, client: Any) -> None:
    class Failing(Chunks):
        def close(self) -> None:
            raise KeyError("close")

    caller = client()
    with pytest.raises(KeyError, match="close"):
        drive(responding(Failing(b"a")), caller.call)
    assert caller.body == b"a"
    assert caller.whole


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration()])
def test_an_app_that_exits_ends_its_request_and_not_the_host(drive: Any, client: Any, error: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise error

    async def scenario(bridge: Any) -> None:
        caller = client()
        with pytest.raises(RuntimeError):
            await caller.call(bridge)
        assert caller.sent == []

    drive(app, scenario)
