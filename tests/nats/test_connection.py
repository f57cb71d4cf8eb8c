"""The connection to NATS: TLS, credentials that rotate, a private server, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
import trustme

from pywatt_host.cli import execute
from pywatt_host.devservices import DEV_SERVICES
from pywatt_host.exceptions import ChannelError, MessagingError, SecretError
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.messaging.incoming import message_context
from pywatt_host.observability.context import current_request
from tests import servers
from tests.hosting import PATIENCE, Hosted, hello, hosted, run
from tests.servers import MissingServerError, Server


@contextmanager
def nats(folder: Path, settings: str = "", jetstream: bool = True) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    try:
        server = servers.nats(folder, settings, jetstream)
    except MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def manifest(url: str, **more: Any) -> dict[str, Any]:
    return {"module": {"id": "users"}, "channels": {"nats": {"servers": url, "required": True, **more}}}


async def echoes(host: Hosted) -> bool:
    if host.state._messages.handlers.get("echo") is None:
        host.state.on_message("echo")(lambda message: message["n"])
    answer = await host.state.request("users", {"type": "echo", "n": 7}, timeout=PATIENCE, channel="nats")
    return bool(answer == 7)


def test_with_tls_both_sides_show_who_they_are(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    for name, ca in (("ca", authority), ("stranger", stranger)):
        ca.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    authority.issue_cert("users").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "users.pem"))
    pem = tmp_path / "server.pem"
    settings = f'tls {{ cert_file: "{pem}", key_file: "{pem}", ca_file: "{tmp_path / "ca.pem"}", verify: true }}\n'

    async def main(url: str) -> None:
        own = {"cert": "users.pem", "key": "users.pem"}
        async with hosted(manifest(url, tls={"ca": "ca.pem", **own}), hello, directory=tmp_path) as host:
            assert await echoes(host)
        for wrong in ({"ca": "stranger.pem", **own}, {"ca": "ca.pem"}):
            keys = manifest(url, tls=wrong)
            keys["channels"]["limits"] = {"handshake": "1s"}
            with pytest.raises(ChannelError, match="it is required") as raised:
                async with hosted(keys, hello, directory=tmp_path):
                    raise AssertionError("it has started")
            assert raised.value.exit_code == 4
        with pytest.raises(ChannelError, match=r"channels\.nats\.tls\.ca cannot be used"):
            async with hosted(manifest(url, tls={"ca": "missing.pem"}), hello, directory=tmp_path):
                raise AssertionError("it has started")

    with nats(tmp_path / "nats", settings) as server:
        run(lambda: main(f"tls://localhost:{server.port}"))


@pytest.mark.parametrize("required", [True, False])
def test_a_server_that_never_answers_the_tls_handshake_keeps_no_host(tmp_path: Path, required: bool) -> None:
    info = {"server_id": "x", "version": "2.10.0", "proto": 1, "max_payload": 1024, "tls_required": True}

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        await asked.wait()
        writer.close()

    async def main() -> None:
        asked.clear()
        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            keys = manifest(f"tls://127.0.0.1:{port}", required=required)
            keys["channels"]["limits"] = {"handshake": "200ms"}
            try:
                async with asyncio.timeout(PATIENCE / 2):
                    with pytest.raises(ChannelError, match="it is required") if required else nullcontext():
                        async with hosted(keys, hello, directory=tmp_path):
                            await asyncio.sleep(0.3)  # it is connecting again
            finally:
                asked.set()

    asked = asyncio.Event()
    run(main)


def test_a_token_that_rotates_makes_a_new_connection_before_the_old_one_goes(tmp_path: Path) -> None:
    def allow(*users: str) -> str:
        listed = ", ".join(f"{{ user: {user.split(':')[0]}, password: {user.split(':')[1]} }}" for user in users)
        return f"authorization {{ users: [{listed}] }}\n"

    def put(text: str) -> None:
        (tmp_path / ".staged").write_text(text)
        os.replace(tmp_path / ".staged", tmp_path / "PASSWORD")

    async def main(server: Server) -> None:
        put("first-password")
        keys = {
            **manifest(server.url, user="users", password=SecretTemplate.parse("${secret:PASSWORD}")),
            "secrets": {"rotate": True, "sources": [{"directory": "."}]},
        }
        async with hosted(keys, hello, directory=tmp_path) as host:
            assert await echoes(host)
            put("wrong-password")
            assert host.host.channels.nats is not None  # type: ignore[attr-defined]
            host.host.channels.nats.connection._timeout = 1.0  # type: ignore[attr-defined]
            with pytest.raises(SecretError):
                await host.host.rotation.rotate(["PASSWORD"], "a test")
            assert await echoes(host)  # the one that was there is kept
            text = server.configuration.read_text()
            server.configuration.write_text(text.replace("first-password", "second-password"))
            server.tell(signal.SIGHUP)  # read anew: who has the old password is turned away
            host.host.channels.nats.connection._timeout = PATIENCE  # type: ignore[attr-defined]
            put("second-password")
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await host.host.rotation.rotate(["PASSWORD"], "a test")
                        break
                    except SecretError:  # the server has not read its configuration yet
                        await asyncio.sleep(0.05)
                while True:
                    try:
                        assert await echoes(host)
                        break
                    except MessagingError:  # the new connection is on its way
                        await asyncio.sleep(0.05)
            assert not any("-password" in line for line in host.lines())

    with nats(tmp_path / "nats", allow("users:first-password")) as server:
        run(lambda: main(server))


def test_without_jetstream_messages_go_and_the_registry_says_what_it_needs(tmp_path: Path) -> None:
    async def main(url: str) -> None:
        async with hosted(manifest(url), hello) as host:
            assert await echoes(host)
            with pytest.raises(MessagingError, match="it needs JetStream") as raised:
                await host.state.discover_services("api")
            assert raised.value.code == "unavailable"
            assert any("cannot be used" in line and "it needs JetStream" in line for line in host.lines())

    with nats(tmp_path / "nats", jetstream=False) as server:
        run(lambda: main(server.url))


def test_a_private_server_is_started_in_dev_and_refused_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        keys = manifest("nats+dev://", delivery="at_least_once")
        async with hosted(keys, hello, directory=tmp_path, environ={DEV_SERVICES: str(tmp_path)}) as host:
            assert await echoes(host)
            assert await host.state.register_service("users-api", "api", "10.0.0.1:1")
            assert [each.name for each in await host.state.discover_services("api")] == ["users-api"]
        with pytest.raises(ChannelError, match="is for `pywatt-host dev` and `up` only"):
            async with hosted(keys, hello, directory=tmp_path):
                raise AssertionError("it has started")

    run(main)
    assert (tmp_path / ".pywatt" / "dev" / "nats" / "nats.conf").stat().st_mode & 0o777 == 0o600


def test_validate_live_says_whether_a_server_takes_us(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def validated(url: str, **more: str) -> str:
        keys = "".join(f", {name}: {value}" for name, value in more.items())
        file = tmp_path / "pywatt.yaml"
        text = f"app: main:app\nserver: {{listen: '127.0.0.1:0'}}\nchannels: {{nats: {{servers: '{url}'{keys}}}}}\n"
        file.write_text(text)
        execute(["validate", "--live", "--no-import", str(file)])
        said = capsys.readouterr()
        return said.out + said.err

    with nats(tmp_path / "nats", "authorization { user: users, password: of-users }\n") as server:
        assert "channels.nats" not in validated(server.url, user="users", password="of-users")
        refused = validated(server.url, user="users", password="another")
        assert "pywatt.yaml:3:" in refused
        assert "authorization violation" in refused
        assert "another" not in refused.replace("password: another", "")
    gone = validated(f"nats://127.0.0.1:{server.port}").lower()
    assert "channels.nats.servers" in gone
    assert "connect" in gone


def test_what_credentials_may_be(tmp_path: Path) -> None:
    async def main() -> None:
        keys = manifest("nats://127.0.0.1:1", credentials="missing.creds")
        keys["channels"]["limits"] = {"handshake": "300ms"}
        with pytest.raises(ChannelError, match=r"channels\.nats\.credentials: .*missing\.creds cannot be read"):
            async with hosted(keys, hello, directory=tmp_path):
                raise AssertionError("it has started")

    run(main)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_trace_and_request_id_are_headers_and_reach_the_handler(flags: str, nats_server: Server) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    prefix = f"trace{flags}"  # subjects of its own: the server is shared
    seen: list[tuple[str, dict[str, str]]] = []

    async def main() -> None:
        async with hosted(manifest(nats_server.url, prefix=prefix), hello) as host:

            @host.state.on_message("echo")
            async def echo(message: dict[str, Any]) -> Any:
                current = current_request.get()
                assert current is not None
                assert current.trace is not None
                return [current.request_id.decode(), current.trace.trace_id, current.trace.flags, message["n"]]

            client = await nats_py.connect(nats_server.url)
            try:
                listening = await client.subscribe(f"{prefix}.message.>")
                await client.flush()
                properties = {"request_id": "abc", "traceparent": f"00-{trace}-b7ad6b7169203331-{flags}"}
                current_request.set(message_context(properties))
                answer = await host.state.request("users", {"type": "echo", "n": 7}, channel="nats")
                assert answer == ["abc", trace, int(flags), 7]
                message = await listening.next_msg(PATIENCE)
                seen.append((message.subject, dict(message.headers or {})))
            finally:
                await client.close()

    run(main)
    ((subject, headers),) = seen
    assert subject == f"{prefix}.message.users.users"
    assert headers["X-Request-ID"] == "abc"
    assert re.fullmatch(f"00-{trace}-[0-9a-f]{{16}}-{flags}", headers["traceparent"])
