"""Handlers: what they get where they are annotated, and what is said where a message does not fit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from pywatt_host.app.state import AppState
from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import Handlers, to_jsonable
from tests.hosting import hello, hosted, run


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int
    articles: list[str] = []


@dataclass
class Note:
    type: str
    text: str


class WithType(BaseModel):
    type: str
    number: int


def delivered(handler: Any, content: dict[str, Any], names: dict[str, Any] | None = None) -> Any:
    handlers = Handlers()
    handlers.on("it", handler, None, names)
    return asyncio.run(handlers.deliver("it", content, 5))


def test_a_handler_gets_the_model_or_dataclass_that_it_is_annotated_with() -> None:
    def of_model(order: Order) -> Any:
        assert order.__class__ is Order
        return order.number

    async def of_dataclass(note: Note) -> Any:
        assert note.__class__ is Note
        return [note.type, note.text]

    def of_model_with_type(one: WithType) -> Any:
        return [one.type, one.number]

    def of_mapping(message: dict[str, Any]) -> Any:
        return message

    def of_anything(message):  # type: ignore[no-untyped-def]
        return message["number"]

    assert delivered(of_model, {"number": 7}) == 7
    assert delivered(of_dataclass, {"text": "x"}) == ["it", "x"]
    assert delivered(of_model_with_type, {"number": 1}) == ["it", 1]
    assert delivered(of_mapping, {"number": 1}) == {"type": "it", "number": 1}
    assert delivered(of_anything, {"number": 1}) == 1


def test_what_does_not_fit_is_said_field_by_field_without_the_values() -> None:
    def handler(order: Order) -> None:
        raise AssertionError("it is not called")

    with pytest.raises(MessagingError) as raised:
        delivered(handler, {"number": "secret-1", "articles": [1, "a", 2], "more": "secret-2"})
    assert raised.value.code == "invalid_message"
    told = raised.value.message
    assert told.startswith("number: Input should be a valid integer")
    assert "articles.0: Input should be a valid string" in told
    assert "more: Extra inputs are not permitted" in told
    assert "secret" not in told
    with pytest.raises(MessagingError, match=r"\(and 3 more\)"):
        delivered(handler, {"articles": list(range(7))})


def test_a_model_that_is_made_in_the_factory_is_found() -> None:
    async def main() -> None:
        def create_app(state: AppState) -> Any:
            class Local(BaseModel):
                number: int

            @state.on_message("local")
            async def handle(message: Local) -> Any:
                return {"number": message.number, "class": type(message).__name__}

            @state.on_message("unknown")
            async def plainly(message: NowhereToBeFound) -> Any:  # type: ignore[name-defined]  # noqa: F821
                return message

            return hello

        async with hosted(app=create_app) as host:
            me = host.state.module_id
            assert await host.state.request(me, {"type": "local", "number": "4"}) == {"number": 4, "class": "Local"}
            assert await host.state.request(me, {"type": "unknown", "n": 1}) == {"type": "unknown", "n": 1}

    run(main)


def test_models_and_dataclasses_may_be_sent_and_replied() -> None:
    assert to_jsonable(Order(number=1)) == {"number": 1, "articles": []}
    assert to_jsonable(Note("note", "x")) == {"type": "note", "text": "x"}
    assert to_jsonable([1, "a", None]) == [1, "a", None]

    def handler(order: Order) -> Order:
        return order

    assert delivered(handler, {"number": 1}) == {"number": 1, "articles": []}


@pytest.mark.parametrize("concurrency", [0, -1, True, 1.5])
def test_a_concurrency_is_a_number_of_handlers(concurrency: Any) -> None:
    with pytest.raises(ValueError, match="a whole number, 1 or more"):
        Handlers().on("it", lambda message: None, concurrency)
