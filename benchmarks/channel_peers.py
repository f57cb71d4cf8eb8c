"""The peers that the channels are compared with: `python -m benchmarks.channel_peers raw|nats answer|ask PLACE ...`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.apps.peer import MESSAGE


async def rate(ask: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> float:
    """How many are answered a second, with so many asked at the same time."""
    began = time.perf_counter()

    async def again() -> int:
        count = 0
        while time.perf_counter() - began < seconds:
            assert (await ask())["id"] == MESSAGE["id"]
            count += 1
        return count

    counts = await asyncio.gather(*(again() for _ in range(in_flight)))
    return sum(counts) / (time.perf_counter() - began)


async def answer_raw(path: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(json.loads(line)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass

    server = await asyncio.start_unix_server(serve, path)
    print("answering", flush=True)
    await server.serve_forever()


async def ask_raw(path: str, in_flight: int, seconds: float) -> float:
    """Answers come in the order of the questions, so that the oldest waiter has the next line."""
    reader, writer = await asyncio.open_unix_connection(path)
    waiting: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    async def read() -> None:
        while line := await reader.readline():
            waiting.get_nowait().set_result(json.loads(line))

    async def ask() -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting.put_nowait(answer)
        writer.write(json.dumps(MESSAGE).encode() + b"\n")
        await writer.drain()
        return await answer

    async def ask_alone() -> Any:
        writer.write(json.dumps(MESSAGE).encode() + b"\n")
        await writer.drain()
        return json.loads(await reader.readline())

    if in_flight == 1:
        return await rate(ask_alone, 1, seconds)
    reading = asyncio.create_task(read())
    try:
        return await rate(ask, in_flight, seconds)
    finally:
        reading.cancel()


async def answer_nats(url: str) -> None:
    import nats

    client = await nats.connect(url)

    async def take(message: Any) -> None:
        await message.respond(json.dumps(json.loads(message.data)).encode())

    await client.subscribe("orders", cb=take)
    await client.flush()
    print("answering", flush=True)
    await asyncio.Event().wait()


async def ask_nats(url: str, in_flight: int, seconds: float) -> float:
    import nats

    client = await nats.connect(url)

    async def ask() -> Any:
        return json.loads((await client.request("orders", json.dumps(MESSAGE).encode(), timeout=10)).data)

    try:
        return await rate(ask, in_flight, seconds)
    finally:
        await client.close()


def main(arguments: list[str]) -> None:
    kind, role, place, *more = arguments
    if role == "answer":
        asyncio.run({"raw": answer_raw, "nats": answer_nats}[kind](place))
    else:
        asking = {"raw": ask_raw, "nats": ask_nats}[kind]
        print(asyncio.run(asking(place, int(more[0]), float(more[1]))))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
