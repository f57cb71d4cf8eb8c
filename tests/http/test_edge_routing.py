"""Which requests reach the application: strict paths, declared endpoints, methods, WebSockets."""

from __future__ import annotations

from typing import Any

import pytest

from pywatt_host.types import Message, Receive, Scope, Send
from tests.hosting import MODULE, Hosted, Recorder, hello, hosted, run, websocket

# raw path -> (path as a server decodes it, rule)
AMBIGUOUS = {
    b"/a%2Fb": ("/a/b", "encoded-slash"),
    b"/a%2fb": ("/a/b", "encoded-slash"),
    b"/a\\b": ("/a\\b", "backslash"),
    b"/a%5Cb": ("/a\\b", "backslash"),
    b"/a%00b": ("/a\0b", "nul"),
    b"/a%0Ab": ("/a\nb", "control-character"),
    b"/a%7fb": ("/a\x7fb", "control-character"),
    b"/a/../b": ("/a/../b", "dot-segment"),
    b"/a/%2e%2e/b": ("/a/../b", "dot-segment"),
    b"/a/.": ("/a/.", "dot-segment"),
    b"/..": ("/..", "dot-segment"),
    b"/a//b": ("/a//b", "empty-segment"),
    b"//a": ("//a", "empty-segment"),
    b"/a%zz": ("/a%zz", "bad-escape"),
    b"/a%2": ("/a%2", "bad-escape"),
    b"/a%252Fb": ("/a%2Fb", "double-encoding"),
    b"/a%252e%252e": ("/a%2e%2e", "double-encoding"),
    b"/a%ff": ("/a�", "not-utf8"),
    b"*": ("*", "not-a-path"),
    b"http://h/": ("http://h/", "not-a-path"),
}
PLAIN = {
    b"/": "/",
    b"/a/": "/a/",
    b"/a.b/..c/c..": "/a.b/..c/c..",
    b"/a%20b": "/a b",
    b"/%C3%A9": "/é",
    b"/%EF%BF%BD": "/�",
    b"/a%25b": "/a%b",
    b"/a;b=c,d:e@f": "/a;b=c,d:e@f",
}


@pytest.mark.parametrize("raw", AMBIGUOUS, ids=repr)
def test_an_ambiguous_path_is_refused_before_the_application_and_the_rule_is_logged(raw: bytes) -> None:
    path, rule = AMBIGUOUS[raw]

    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            answer = await host.get(path, raw_path=raw)
            assert answer.status == 400
            assert answer.header("content-type") == "application/problem+json"
            assert rule not in answer.body.decode()
            assert app.scopes == []
            assert host.access()[-1]["reason"] == f"{rule} (server.paths)"

    run(main)


@pytest.mark.parametrize("raw", PLAIN, ids=repr)
def test_a_path_with_one_reading_reaches_the_application_unchanged(raw: bytes) -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            assert (await host.get(PLAIN[raw], raw_path=raw)).status == 200
            assert (app.scopes[-1]["path"], app.scopes[-1]["raw_path"]) == (PLAIN[raw], raw)

    run(main)


def test_without_a_raw_path_the_decoded_one_decides() -> None:
    async def main() -> None:
        async with hosted({}, hello) as host:
            assert (await host.get("/a/../b", raw_path=None)).status == 400
            assert (await host.get("/a b", raw_path=None)).status == 200
            assert (await host.get("/é", raw_path=None)).status == 200

    run(main)


def test_lenient_paths_are_passed_on() -> None:
    async def main() -> None:
        async with hosted({"server": {"paths": "lenient"}}, hello) as host:
            for raw, (path, rule) in AMBIGUOUS.items():
                if rule != "not-a-path":
                    assert (await host.get(path, raw_path=raw)).status == 200

    run(main)


def test_a_mount_may_be_lenient_by_itself_and_strict_by_itself() -> None:
    async def main() -> None:
        mounts = [{"route_prefix": "/legacy", "import_path": f"{MODULE}:legacy", "paths": "lenient"}]
        async with hosted({"mounts": mounts}, hello, legacy=hello) as host:
            assert (await host.get("/legacy/a//b")).status == 200
            assert (await host.get("/a//b")).status == 400
        mounts[0]["paths"] = "strict"
        async with hosted({"mounts": mounts, "server": {"paths": "lenient"}}, hello, legacy=hello) as host:
            assert (await host.get("/legacy/a//b")).status == 400
            assert (await host.get("/a//b")).status == 200

    run(main)


def test_an_ambiguous_path_cannot_choose_a_lenient_mount_from_outside() -> None:
    async def main() -> None:
        mounts = [{"route_prefix": "/legacy", "import_path": f"{MODULE}:legacy", "paths": "lenient"}]
        async with hosted({"mounts": mounts}, hello, legacy=hello) as host:
            assert (await host.get("/x/../legacy/a")).status == 400
            assert (await host.get("//legacy/a")).status == 400

    run(main)


def test_a_websocket_with_an_ambiguous_path_is_refused_before_it_is_accepted() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({}, app) as host:
            extensions: dict[str, Any] = {"websocket.http.response": {}}
            sent = await websocket(host.app, "/a//b", extensions=extensions)
            assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 400)
            assert (await websocket(host.app, "/a//b"))[0] == {"type": "websocket.close", "code": 1008}
            assert app.scopes == []

    run(main)


# A list of endpoints --------------------------------------------------------------------------------------------------

LISTED = {
    "endpoints": [
        {"path": "/users", "methods": ["GET", "POST"]},
        {"path": "/users/{id}"},
        {"path": "/users/me", "methods": ["PUT"]},
        {"path": "/files/{rest:path}", "methods": ["*"]},
        {"path": "/files/{name}/meta", "methods": ["DELETE"]},
    ],
    "metrics": True,
}


def route_of(host: Hosted) -> str:
    return str(host.access()[-1]["route"])


def test_a_list_of_endpoints_is_these_and_nothing_else() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted(LISTED, app) as host:
            for path in ("/", "/other", "/users/", "/users/1/2", "/Users"):
                answer = await host.get(path)
                assert (answer.status, answer.header("content-type")) == (404, "application/problem+json"), path
            assert app.scopes == []
            assert (await host.get("/users")).status == 200
            assert (await host.request("POST", "/users")).status == 200

    run(main)


def test_another_method_is_405_and_allow_names_the_declared_ones() -> None:
    async def main() -> None:
        async with hosted(LISTED, Recorder()) as host:
            answer = await host.request("DELETE", "/users")
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, POST")
            answer = await host.request("BREW", "/users/7")
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
            assert route_of(host) == "/users/{id}"

    run(main)


def test_get_brings_head_with_it_and_put_does_not() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted(LISTED, app) as host:
            assert (await host.request("HEAD", "/users")).status == 200
            assert app.scopes[-1]["method"] == "HEAD"
            assert (await host.request("HEAD", "/users/me")).status == 405

    run(main)


def test_literal_wins_over_a_segment_and_that_over_the_rest_segment_by_segment() -> None:
    async def main() -> None:
        async with hosted(LISTED, Recorder()) as host:
            assert (await host.request("PUT", "/users/me")).status == 200
            assert route_of(host) == "/users/me"
            assert (await host.get("/users/me")).status == 405  # the laxer template takes nothing over
            assert (await host.get("/users/you")).status == 200
            assert route_of(host) == "/users/{id}"
            assert (await host.request("DELETE", "/files/a/meta")).status == 200
            assert route_of(host) == "/files/{name}/meta"
            for path in ("/files/a/b/c", "/files/a/other", "/files/"):
                assert (await host.request("PATCH", path)).status == 200
                assert route_of(host) == "/files/{rest:path}"

    run(main)


def test_a_segment_matches_neither_nothing_nor_more_than_itself() -> None:
    async def main() -> None:
        async with hosted({"endpoints": [{"path": "/a/{x}/c"}]}, Recorder()) as host:
            assert (await host.get("/a/b/c")).status == 200
            assert (await host.get("/a/c")).status == 404
            assert (await host.get("/a/b/b/c")).status == 404
            assert (await host.get("/a/{x}/c")).status == 200

    run(main)


async def echo_socket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def test_a_websocket_reaches_its_endpoint_and_no_other() -> None:
    async def main() -> None:
        listed = {
            "endpoints": [{"path": "/ws", "methods": ["WEBSOCKET"]}, {"path": "/plain", "methods": ["GET", "POST"]}]
        }
        async with hosted(listed, echo_socket) as host:
            sent = await websocket(host.app, "/ws", "one", "two")
            assert sent[0]["type"] == "websocket.accept"
            assert any(name == b"x-request-id" for name, _ in sent[0]["headers"])
            assert [message.get("text") for message in sent[1:]] == ["one", "two"]
            assert (host.access()[-1]["method"], host.access()[-1]["status"]) == ("WEBSOCKET", 101)
            for path in ("/plain", "/other", "/health"):
                refused: list[Message] = await websocket(host.app, path)
                assert refused == [{"type": "websocket.close", "code": 1008}], path
            answer = await host.get("/ws")
            assert (answer.status, answer.header("allow")) == (405, "")

    run(main)


def test_a_star_in_a_list_is_for_websockets_too() -> None:
    """As in a rule; what is declared for WebSockets alone has priority."""

    async def main() -> None:
        listed = {"endpoints": [{"path": "/any", "methods": ["*"]}, {"path": "/plain"}]}
        async with hosted(listed, echo_socket) as host:
            sent = await websocket(host.app, "/any", "one")
            assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send"]
            assert await websocket(host.app, "/plain") == [{"type": "websocket.close", "code": 1008}]

    run(main)


# auto and rules -------------------------------------------------------------------------------------------------------


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await request.body()))

    return Starlette(
        routes=[
            Route("/users/{id:int}", show),
            Route("/upload", show, methods=["POST"]),
            Route("/public/{rest:path}", show, methods=["GET", "POST"]),
        ]
    )


def test_auto_names_requests_by_the_applications_own_routes_and_serves_the_rest() -> None:
    async def main() -> None:
        async with hosted({"endpoints": "auto"}, starlette_app()) as host:
            assert (await host.get("/users/7")).status == 200
            assert route_of(host) == "/users/{id}"
            answer = await host.get("/nowhere")
            assert (answer.status, answer.body, route_of(host)) == (404, b"Not Found", "unmatched")
            answer = await host.get("/upload")
            assert (answer.status, answer.header("content-type")) == (405, "text/plain; charset=utf-8")
            assert route_of(host) == "/upload"

    run(main)


def test_a_rule_bounds_the_routes_below_it_and_covers_a_trailing_slash() -> None:
    rules = [{"path": "/upload", "body": "1MiB"}, {"path": "/public/{p:path}", "methods": ["POST"], "body": "1B"}]

    async def main() -> None:
        manifest = {"endpoints": {"from": "auto", "rules": rules}, "server": {"limits": {"body": "2B"}}}
        async with hosted(manifest, starlette_app()) as host:
            assert (await host.request("POST", "/upload", body=[b"12345"])).status == 200
            assert (await host.request("POST", "/upload/", body=[b"12345"])).status != 413
            assert (await host.request("POST", "/public/a/b", body=[b"12"])).status == 413
            assert route_of(host) == "/public/{rest}" or route_of(host) == "/public/{rest:path}"
            assert (await host.request("PUT", "/public/a/b", body=[b"12"])).status == 405
            assert (await host.request("PUT", "/elsewhere", body=[b"123"])).status == 413

    run(main)


def test_the_hosts_own_paths_win_and_take_get_and_head_only() -> None:
    async def main() -> None:
        app = Recorder()
        async with hosted({"metrics": True, "endpoints": []}, app) as host:
            for path in ("/livez", "/readyz", "/health", "/metrics"):
                assert (await host.get(path)).status == 200
                assert (await host.request("HEAD", path)).status == 200
                answer = await host.request("POST", path)
                assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
            assert app.scopes == []

    run(main)
