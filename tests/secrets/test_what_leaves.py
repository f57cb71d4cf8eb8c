"""No text that leaves the process has a secret in it, wherever it leaves and however the secret is spelt there."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from pywatt_host.exceptions import MessagingError, SecretError, StoreError
from tests.hosting import Call, Hosted, hello, hosted, http_scope, run

SECRET = "Zq1xWv9\"k'\n/ü\\ Jp7Lm3&Tb5"
TOKEN = "a-token-of-the-channel"
PIECES = ("Zq1xWv9", "Jp7Lm3", "Tb5")

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "repr in repr": lambda value: repr({"a": repr([value])}),
    "JSON": json.dumps,
    "JSON in JSON": lambda value: json.dumps({"body": json.dumps({"password": value})}),
    "percent-coded": quote,
    "percent-coded in small letters, twice": lambda value: quote(quote(value, safe="").replace("%2F", "%2f")),
    "of a form": quote_plus,
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 among other bytes": lambda value: base64.urlsafe_b64encode(f"me:{value}!".encode()).decode(),
}
BASE64 = [base64.b64encode(b"\0" * shift + SECRET.encode()).decode()[4:-4] for shift in range(3)]


# Where text leaves --------------------------------------------------------------------------------------------------


async def log_message(host: Hosted, text: str) -> str:
    logging.getLogger("app").warning("a message with %s", text)
    return host._log.read_text()


async def log_field(host: Hosted, text: str) -> str:
    logging.getLogger("app").warning("a message", extra={"field": {"of": [text]}})
    return host._log.read_text()


async def log_traceback(host: Hosted, text: str) -> str:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logging.getLogger("app").exception("it raised")
    return host._log.read_text()


async def _failing_check(host: Hosted, text: str) -> None:
    def check() -> None:
        raise RuntimeError(text)

    host.host._checks.add("own", check)
    await host.host._checks._once(host.host._checks._checks["own"])


async def health_report(host: Hosted, text: str) -> str:
    await _failing_check(host, text)
    return (await host.get("/health")).body.decode()


async def health_for_the_orchestrator(host: Hosted, text: str) -> str:
    await _failing_check(host, text)
    return json.dumps(dict(host.host.channels._health()))  # type: ignore[attr-defined]


async def _posted(host: Hosted, error: Exception) -> str:
    def handler(message: Any) -> None:
        raise error

    host.state.on_message("it")(handler)
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {TOKEN}")]
    scope = http_scope("POST", "/_pywatt/messages", headers)
    answer = await Call(host.app, scope, [json.dumps({"type": "it"}).encode()]).answer()
    assert answer.status == 200
    return answer.body.decode()


async def error_of_a_message(host: Hosted, text: str) -> str:
    return await _posted(host, MessagingError("invalid_message", text))


async def error_of_a_message_to_itself(host: Hosted, text: str) -> str:
    def handler(message: Any) -> None:
        raise MessagingError("invalid_message", text)

    host.state.on_message("it")(handler)
    with pytest.raises(MessagingError) as raised:
        await host.state.request("users", {"type": "it"})
    return raised.value.message


async def acknowledgement_of_a_rotation(host: Hosted, text: str) -> str:
    def hook(secret: Any) -> None:
        raise SecretError(text)

    host.state.on_rotation("KEY")(hook)
    host.host.rotation.store._sources[0]._environ["KEY"] = "another value of it"  # type: ignore[attr-defined]
    return await host.host.rotation.rotated("1", ["KEY"])


async def _control(host: Hosted, method: str, path: str, body: Any = None) -> str:
    return (
        await Call(host.host.control(()), http_scope(method, path), [json.dumps(body).encode()]).answer()
    ).body.decode()


async def status_on_the_control_socket(host: Hosted, text: str) -> str:
    await _failing_check(host, text)
    return await _control(host, "GET", "/status")


async def reply_to_send(host: Hosted, text: str) -> str:
    host.state.on_message("it")(lambda message: {"text": [text], text: 1})
    return await _control(host, "POST", "/send", {"type": "it"})


async def error_of_send(host: Hosted, text: str) -> str:
    def handler(message: Any) -> None:
        raise MessagingError("invalid_message", text)

    host.state.on_message("it")(handler)
    return await _control(host, "POST", "/send", {"type": "it"})


async def refused_rotation_on_the_control_socket(host: Hosted, text: str) -> str:
    def hook(secret: Any) -> None:
        raise SecretError(text)

    host.state.on_rotation("KEY")(hook)
    host.host.rotation.store._sources[0]._environ["KEY"] = "another value of it"  # type: ignore[attr-defined]
    return await _control(host, "POST", "/rotate", {"name": "KEY"})


Place = Callable[[Hosted, str], Awaitable[str]]
PLACES: list[Place] = [
    log_message, log_field, log_traceback, health_report, health_for_the_orchestrator, error_of_a_message,
    error_of_a_message_to_itself, acknowledgement_of_a_rotation, status_on_the_control_socket, reply_to_send,
    error_of_send, refused_rotation_on_the_control_socket,
]  # fmt: skip

MANIFEST = {
    "module": {"id": "users"},
    "secrets": {"sources": ["env"], "rotate": True, "keys": {"KEY": {}}},
    "channels": {"http": {"token": TOKEN}},
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_secret_leaves_however_it_is_spelt(place: Place) -> None:
    async def main() -> None:
        for name, spell in SPELLINGS.items():
            async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:
                text = spell(SECRET)
                told = await place(host, text)
                assert "***" in told, name
                hidden = [*PIECES, *BASE64] if name.startswith("base64") else PIECES
                assert not [piece for piece in hidden if piece in told], name

    run(main)


# What handlers raise ------------------------------------------------------------------------------------------------


class OwnError(Exception):
    """An exception of the application."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("SELECT * FROM users WHERE name = 'ada'"),
        OwnError("SELECT"),
        KeyError("SELECT"),
        OSError(13, "SELECT"),
        StoreError("databases.default", "statement", "SELECT"),
        SecretError("SELECT"),
        MessagingError("unavailable", "http://10.0.0.5:80/SELECT cannot be reached", "billing"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_handler_raises_stays_here_and_its_sender_gets_an_id(error: Exception) -> None:
    async def main() -> None:
        async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:
            content = json.loads(await _posted(host, error))["content"]
            error_id = content["message"].partition("(error ")[2].partition(" ")[0]
            assert len(error_id) == 12
            assert content == {
                "type": "error",
                "code": "handler_failed",
                "message": f"the handler raised an exception (error {error_id} in the log of its module)",
            }
            records = [json.loads(line) for line in host._log.read_text().splitlines()]
            (record,) = [each for each in records if each.get("error_id") == error_id]
            assert "SELECT" in record["exception"]

    run(main)


def test_a_reply_that_is_not_json_is_answered_without_its_text() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:
            host.state.on_message("own")(lambda message: {"a": object()})
            headers = [("content-type", "application/json"), ("authorization", f"Bearer {TOKEN}")]
            scope = http_scope("POST", "/_pywatt/messages", headers)
            answer = await Call(host.app, scope, [b'{"type": "own"}']).answer()
            assert answer.json()["content"]["message"].startswith("the handler raised an exception (error ")

    run(main)


@pytest.mark.parametrize("code", ["invalid_message", "handler_failed", "unknown_target"])
def test_the_text_of_a_messaging_error_is_meant_for_the_sender(code: str) -> None:
    async def main() -> None:
        async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:
            content = json.loads(await _posted(host, MessagingError(code, "the order is closed")))["content"]
            assert content == {"type": "error", "code": code, "message": "the order is closed"}

    run(main)


def test_by_hand_and_to_itself_the_text_stays_in_the_log_as_well() -> None:
    async def main() -> None:
        async with hosted({"module": {"id": "users"}}, hello) as host:

            def handler(message: Any) -> None:
                raise ValueError("SELECT")

            host.state.on_message("it")(handler)
            told = json.loads(await _control(host, "POST", "/send", {"type": "it"}))["error"]
            assert (told["code"], "SELECT" in told["message"]) == ("handler_failed", False)
            with pytest.raises(MessagingError) as raised:
                await host.state.request("users", {"type": "it"})
            assert "SELECT" not in str(raised.value)
            assert "SELECT" in host._log.read_text()

    run(main)


def test_other_modules_get_the_states_of_checks_and_not_their_errors() -> None:
    async def main() -> None:
        async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:
            await _failing_check(host, "10.0.0.7 refused the user ada")
            channels: Any = host.host.channels
            for tell in (channels._peer_handlers().health, channels.server._health):
                assert tell()["checks"]["own"].keys() == {"status"}
            assert "10.0.0.7" in channels._health()["checks"]["own"]["error"]

    run(main)


def test_a_rotation_hook_passes_on_the_text_of_a_secret_error_only() -> None:
    async def main() -> None:
        for error, told in (
            (SecretError("the key is too short"), "the key is too short"),
            (StoreError("databases.default", "statement", "SELECT"), "the rotation hook for KEY raised StoreError"),
            (ValueError("SELECT"), "the rotation hook for KEY raised ValueError"),
        ):
            async with hosted(MANIFEST, hello, environ={"KEY": SECRET}) as host:

                def hook(secret: Any, error: Exception = error) -> None:
                    raise error

                host.state.on_rotation("KEY")(hook)
                sources: Any = host.host.rotation.store._sources
                sources[0]._environ["KEY"] = "another value of it"
                assert await host.host.rotation.rotated("1", ["KEY"]) == told

    run(main)
