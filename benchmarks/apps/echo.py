"""The cheapest thing that looks like a server: it answers whatever arrives and parses nothing.

`python -m benchmarks.apps.echo PORT`. The rate that the load reaches against it is what the load can do at least.
"""

from __future__ import annotations

import selectors
import socket
import sys

# As long as what uvicorn answers for the raw application.
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: echo\r\ncontent-type: text/plain\r\n"
    b"content-length: 13\r\n\r\nHello, world!"
)


def serve(port: int) -> None:
    """Serve for ever; one read is taken for one request, so it is good for this load and nothing else."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    client, _address = listener.accept()
                    client.setblocking(False)
                    selector.register(client, selectors.EVENT_READ, client)
                    continue
                client = key.data
                try:
                    if client.recv(65536):
                        client.send(ANSWER)
                        continue
                except ConnectionError:
                    pass  # a client that goes away with an answer due is the same as one that just goes away
                selector.unregister(client)
                client.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
