"""Background tasks and `app_state.draining` in a real process that is told to stop."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks
from tests.processes import ROOT, Project

STUBBORN = """
    import asyncio, os

    async def stubborn():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    async def create_app(state):
        state.spawn(stubborn)
        await asyncio.sleep(0)
        if "FAIL" in os.environ:
            raise LookupError("no such table")

        async def app(scope, receive, send):
            raise RuntimeError("declined")

        return app
"""


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_task_that_ignores_its_cancellation_does_not_keep_the_process(project: Project, fails: bool) -> None:
    project.write("main.py", STUBBORN)
    project.manifest(app="main:create_app", server={"timeouts": {"shutdown": "500ms"}})
    host = project.host(env={"FAIL": "1"} if fails else {})
    if fails:
        host.wait_for("the factory raised LookupError: no such table")
    else:
        assert host.ready
        host.signal()
    assert host.wait() == 1
    assert any("the task stubborn was cancelled, but does not end" in line for line in host.lines)


def test_a_task_that_cleans_up_after_itself_is_waited_for(project: Project) -> None:
    project.write(
        "main.py",
        """
        import asyncio, sys

        def create_app(state):
            @state.on_startup
            async def begin():
                state.spawn(work)

            async def work():
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.1)
                    print("put away", file=sys.stderr, flush=True)

            async def app(scope, receive, send):
                raise RuntimeError("declined")

            return app
        """,
    )
    project.manifest(app="main:create_app")
    host = project.host()
    assert host.ready
    assert host.stop() == 0
    assert "put away" in host.lines


def test_the_endless_stream_of_the_documents_ends_when_draining_begins(project: Project) -> None:
    (shown,) = [block for block in blocks(ROOT / "docs" / "app-state.md") if "state.draining" in block.text]
    project.write("main.py", shown.text)
    project.manifest(app="main:create_app")
    host = project.host()
    with host.connect() as connection:
        connection.head("GET", "/events")
        status, headers = connection.response_head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert connection.chunk() == b"data: 1\n\n"
        host.signal()
        while connection.chunk():
            pass
        assert connection.closed()
    assert host.wait() == 0
