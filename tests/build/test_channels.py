"""What `channels` declares, in a started host: peers, tokens made of secrets, health and metrics."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import ChannelError, MessagingError
from pywatt_host.manifest import SecretTemplate
from pywatt_host.messaging.handlers import Handlers
from tests.hosting import PATIENCE, Hosted, hosted, run


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Peer:
    """Frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, **document: Any) -> None:
        payload = json.dumps(document).encode()
        self._writer.write(struct.pack(">IB", len(payload), 1) + payload)

    async def hear(self) -> dict[str, Any] | None:
        """The next operation; None where the host has closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                length, _ = struct.unpack(">IB", await self._reader.readexactly(5))
                document: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        content: dict[str, Any] = document.get("content", document)
        return content

    def close(self) -> None:
        self._writer.close()


async def peer(host: Hosted, token: str | None = None) -> Peer:
    address = host.host.channels.server.listeners[0].listener.sock.getsockname()  # type: ignore[attr-defined]
    if isinstance(address, str):
        made = Peer(*await asyncio.open_unix_connection(address))
    else:
        made = Peer(*await asyncio.open_connection(*address[:2]))
    made.say(op="identify", module_id="billing", **({"auth_token": token} if token else {}))
    return made


async def echoed(guest: Peer) -> Any:
    payload = {"data": list(b'{"type": "echo", "n": 1}'), "format": "Json"}
    guest.say(op="route_to_module", target_module_id="users", target_endpoint="", request_id="1", payload=payload)
    answer = await guest.hear()
    return None if answer is None else json.loads(bytes(answer["payload"]["data"]))


def echo(host: Hosted) -> None:
    @host.state.on_message("echo")
    async def reply(message: Any) -> Any:
        return message["n"]


def test_peers_are_heard_and_counted(tmp_path: Path) -> None:
    async def main() -> None:
        manifest = {"module": {"id": "users"}, "metrics": True, "channels": {"ipc": {"listen": "peers.sock"}}}
        async with hosted(manifest, app, directory=tmp_path) as host:
            echo(host)
            assert oct((tmp_path / "peers.sock").stat().st_mode & 0o777) == "0o600"
            guest = await peer(host)
            assert await echoed(guest) == 1
            metrics = (await host.get("/metrics")).body.decode()
            assert "pywatt_channel_peers 1.0" in metrics
            assert 'pywatt_messages_total{direction="in",result="ok"} 1.0' in metrics
            assert 'pywatt_secret_rotations_total{result="success"} 0.0' in metrics
            guest.say(op="get_secret", name="KEY")
            guest.say(op="heartbeat")
            assert await guest.hear() == {"op": "heartbeat_ack"}
            guest.close()
        assert not (tmp_path / "peers.sock").exists()

    run(main)


def test_a_token_made_of_a_secret_lets_in_and_follows_its_rotation(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "TOKEN").write_text("first-token")
        token = SecretTemplate.parse("${secret:TOKEN}")
        manifest = {
            "module": {"id": "users"},
            "secrets": {"rotate": True, "sources": [{"directory": "."}]},
            "channels": {"tcp": {"listen": "127.0.0.1:0", "token": token}},
        }
        async with hosted(manifest, app, directory=tmp_path) as host:
            echo(host)
            for wrong in (None, "second-token", "first-token-and-more"):
                refused = await peer(host, wrong)
                assert await refused.hear() is None
                refused.close()
            guest = await peer(host, "first-token")
            assert await echoed(guest) == 1
            staged = tmp_path / ".staged"
            staged.write_text("second-token")
            os.replace(staged, tmp_path / "TOKEN")
            await host.host.rotation.rotate(["TOKEN"], "a test")
            assert await echoed(guest) == 1  # who is in stays
            late = await peer(host, "first-token")
            assert await late.hear() is None
            newer = await peer(host, "second-token")
            assert await echoed(newer) == 1
            for each in (guest, late, newer):
                each.close()
            assert not any("-token" in line for line in host.lines())

    run(main)


def test_a_channel_that_is_down_degrades_and_one_that_is_required_fails_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        manifest: dict[str, Any] = {"channels": {"ipc": {"connect": "nobody.sock"}}, "metrics": True}
        async with hosted(manifest, app, directory=tmp_path) as host:
            assert (await host.get("/health")).json()["checks"].keys() == {"channel:ipc"}
            metrics = (await host.get("/metrics")).body.decode()
            assert 'pywatt_channel_connected{channel="ipc"} 0.0' in metrics
            with pytest.raises(MessagingError) as caught:
                await host.state.request("anyone", {"type": "t"}, timeout=0.01)
            assert caught.value.code == "unavailable"
        manifest["channels"] = {"ipc": {"connect": "nobody.sock", "required": True}, "limits": {"handshake": "100ms"}}
        with pytest.raises(ChannelError) as refused:
            async with hosted(manifest, app, directory=tmp_path):
                raise AssertionError("it has started")
        assert refused.value.exit_code == 4
        manifest["channels"] = {"tcp": {"connect": "127.0.0.1:1", "tls": {"cert": "no.pem", "key": "no.key"}}}
        with pytest.raises(ChannelError, match=r"channels\.tcp\.tls"):
            async with hosted(manifest, app, directory=tmp_path):
                raise AssertionError("it has started")

    run(main)


def test_what_an_operator_sends_by_hand_reaches_the_handler() -> None:
    async def main() -> None:
        handlers = Handlers()

        async def double(message: Any) -> Any:
            return message["n"] * 2

        def crash(message: Any) -> None:
            raise ValueError("too hot")

        async def never(message: Any) -> None:
            await asyncio.Event().wait()

        for name, handler in {"double": double, "crash": crash, "never": never}.items():
            handlers.on(name, handler)
        assert await handlers.deliver("double", {"n": 4}, PATIENCE) == 8
        for type, code in (("crash", "handler_failed"), ("never", "timeout"), ("other", "no_handler")):
            with pytest.raises(MessagingError) as caught:
                await handlers.deliver(type, {}, 0.05)
            assert caught.value.code == code
        with pytest.raises(ValueError, match="double"):
            handlers.on("double", double)

    run(main)
