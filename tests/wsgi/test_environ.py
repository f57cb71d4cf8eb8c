"""The environ: that of a2wsgi for an ordinary request, and what is mended in it."""

import logging
import wsgiref.validate
from typing import Any

import pytest
from a2wsgi.wsgi import build_environ as a2wsgi_environ


def test_an_ordinary_request_has_the_environ_of_a2wsgi(environ_of: Any, client: Any) -> None:
    scope = {"path": "/a/b", "query_string": b"x=1&y=2", "method": "PUT", "headers": [("host", "h"), ("accept", "*/*")]}
    ours = environ_of(**scope)
    theirs = a2wsgi_environ(client(**scope).scope, ours["wsgi.input"])
    apart = {"wsgi.errors", "wsgi.input", "wsgi.multiprocess", "asgi.scope"}
    assert {k: v for k, v in ours.items() if k not in apart} == {
        **{k: v for k, v in theirs.items() if k not in apart},
        "wsgi.input_terminated": True,
    }


@pytest.mark.parametrize(
    ("root_path", "path", "script_name", "path_info"),
    [
        ("", "/x", "", "/x"),
        ("/app", "/app/x", "/app", "/x"),
        ("/app/", "/app/x", "/app", "/x"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/application/x", "/app", "/application/x"),
        ("/app", "/x", "/app", "/x"),
        ("/", "/x", "", "/x"),
        ("/é", "/é/ü", "/Ã©", "/Ã¼"),
    ],
)
def test_the_path_is_split_at_a_segment_border_and_holds_bytes(
    environ_of: Any, root_path: Any, path: Any, script_name: Any, path_info: Any
) -> None:
    environ = environ_of(root_path=root_path, path=path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_script_name_is_not_read_from_the_environment_of_the_process(environ_of: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/elsewhere")
    assert environ_of(path="/x")["SCRIPT_NAME"] == ""


def test_a_header_with_an_underscore_cannot_pass_for_one_with_a_dash(environ_of: Any) -> None:
    environ = environ_of(headers=[("x-user", "alice"), ("x_user", "root"), ("x_other", "1")])
    assert environ["HTTP_X_USER"] == "alice"
    assert "HTTP_X_OTHER" not in environ


def test_the_header_proxy_does_not_become_http_proxy(environ_of: Any) -> None:
    assert "HTTP_PROXY" not in environ_of(headers=[("proxy", "http://evil")])


def test_repeated_headers_are_joined_and_cookies_stay_cookies(environ_of: Any) -> None:
    environ = environ_of(headers=[("accept", "a"), ("cookie", "a=1"), ("accept", "b"), ("cookie", "b=2")])
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


def test_content_headers_have_their_own_keys_and_transfer_encoding_overrides_the_length(environ_of: Any) -> None:
    environ = environ_of(headers=[("content-type", "text/plain"), ("content-length", "0")])
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/plain", "0")
    assert "HTTP_CONTENT_TYPE" not in environ
    environ = environ_of(headers=[("content-length", "5"), ("transfer-encoding", "chunked")])
    assert environ["CONTENT_LENGTH"] == "0", "the length of the body that was received"


def test_bytes_outside_ascii_in_the_query_are_kept(environ_of: Any) -> None:
    assert environ_of(query_string=b"q=\xc3\xa9")["QUERY_STRING"] == "q=Ã©"


def test_a_unix_socket_has_a_server_name_and_no_client(environ_of: Any) -> None:
    environ = environ_of(server=("/run/app.sock", None), client=None)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("localhost", "80", "")
    assert environ_of(server=None, scheme="https")["SERVER_PORT"] == "443"


def test_every_cgi_value_is_a_native_string_and_the_wsgi_keys_say_what_is_true(environ_of: Any) -> None:
    environ = environ_of(root_path="/é", path="/é/ü", query_string=b"\xff", headers=[("x-name", "é")])
    assert all(type(value) is str for key, value in environ.items() if key.isupper())
    assert [environ[f"wsgi.{key}"] for key in ("version", "url_scheme", "multithread", "multiprocess", "run_once")] == [
        (1, 0),
        "http",
        True,
        False,
        False,
    ]
    assert environ["wsgi.input_terminated"] is True


def test_the_state_of_the_host_is_handed_on_when_there_is_one(environ_of: Any) -> None:
    state = object()
    environ = environ_of(state={"pywatt": state})
    assert environ["pywatt.state"] is state
    assert environ["asgi.scope"]["state"] == {"pywatt": state}
    assert "pywatt.state" not in environ_of(state={})


def test_wsgi_errors_is_one_log_record_a_line_and_nothing_on_stdout(answer: Any, caplog: Any, capfd: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        errors = environ["wsgi.errors"]
        print("first", 1, file=errors)
        errors.writelines(["sec", "ond\nthi", "rd\n\n"])
        errors.write("é flushed")
        errors.flush()
        errors.write("left at the end")
        with pytest.raises(TypeError):
            errors.write(b"bytes")
        start_response("200 OK", [])
        return []

    answer(app)
    records = [record for record in caplog.records if record.name == "pywatt.wsgi"]
    assert [r.getMessage() for r in records] == ["first 1", "second", "third", "é flushed", "left at the end"]
    assert {record.levelno for record in records} == {logging.ERROR}
    assert capfd.readouterr().out == ""


def test_a_line_that_never_ends_is_logged_in_pieces(answer: Any, caplog: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        for _ in range(100):
            environ["wsgi.errors"].write("x" * 1000)
        start_response("200 OK", [])
        return []

    answer(app)
    assert sum(len(record.getMessage()) for record in caplog.records) == 100_000
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator_of_the_standard_library_finds_no_fault(answer: Any, method: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read(100)
        environ["wsgi.errors"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"<", body, b">"])

    uploads = (b"one", b"two") if method == "POST" else ()
    caller = answer(wsgiref.validate.validator(app), *uploads, method=method, path="/p", root_path="")
    assert caller.body == (b"" if method == "HEAD" else b"<" + b"".join(uploads) + b">")
    assert caller.whole
