"""HTTP requests that arrive over a channel of the supervisor: a worker answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import quote

from pywatt_host.exceptions import HostError
from pywatt_host.http.problem import send_problem
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.messages import HttpRequest, HttpResponse
from pywatt_host.types import Receive, Scope, Send
from pywatt_host.workers.worker_process import WorkerProcess

_TIMEOUT = 60.0  # seconds for a whole response where server.timeouts.request is off


class ChannelRequestsToWorkers:
    """The ASGI application for requests over channels. Each goes to one healthy worker as a whole, and so does its
    response."""

    def __init__(self, candidates: Callable[[], Sequence[WorkerProcess]], timeout: Callable[[], float | None]) -> None:
        """`timeout` gives `server.timeouts.request`."""
        self._candidates = candidates
        self._timeout = timeout
        self._ids = Ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        workers = self._candidates()
        if not workers:
            await send_problem(send, 503)
            return
        query = scope["query_string"].decode("latin-1")
        path = scope.get("raw_path")
        uri = path.decode("latin-1") if path else quote(scope["path"])
        request = HttpRequest(
            self._ids(),
            scope["method"],
            f"{uri}?{query}" if query else uri,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            bytes(body) or None,
        )
        try:
            answer: HttpResponse = await workers[0].connection.session.request(request, self._timeout() or _TIMEOUT)
        except HostError:
            await send_problem(send, 502)
            return
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body or b""})
