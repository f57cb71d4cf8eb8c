"""The application's handlers for messages, by type: what may be asked of them, whoever asks."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import sys
import typing
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from pywatt_host.exceptions import MessagingError

logger = logging.getLogger("pywatt.messages")

Handler: TypeAlias = Callable[[Any], Awaitable[Any] | Any]
Convert: TypeAlias = Callable[[Any], Any]

LONGEST_TEXT = 300  # characters of an error that is answered


class Delivery(NamedTuple):
    """What is known of the message that is being handled, beside its content.

    `source` is the id of the module that sent it, as `vouched_by` says: `orchestrator`, `nats` (whose permissions tie
    subjects to users), `certificate` (the peer's client certificate names it), `process` (this process itself), or
    empty where it is the sender's own word. `deadline` is in seconds since the epoch; `attempt` counts deliveries
    where `delivery` is `at_least_once`, from 1.
    """

    source: str
    channel: str
    vouched_by: str = ""
    deadline: float | None = None
    attempt: int = 1


current_delivery: ContextVar[Delivery | None] = ContextVar("pywatt_delivery", default=None)


@dataclass(slots=True, eq=False)
class Found:
    """A handler. One that is no coroutine function runs in a thread. `convert` makes what it is annotated with of a
    message; `most` of it may run at the same time, None: as many as there are."""

    handler: Handler
    is_async: bool
    convert: Convert | None = None
    most: int | None = None
    running: int = field(default=0)
    turns: asyncio.Semaphore | None = None  # of those that wait for it within this process

    async def in_turn(self, content: Any) -> Any:
        """Handle it when fewer than `most` are handled."""
        if self.most is None:
            return await self(content)
        if self.turns is None:
            self.turns = asyncio.Semaphore(self.most)
        async with self.turns:
            return await self(content)

    def __call__(self, content: Any) -> Awaitable[Any]:
        """Raises MessagingError `invalid_message` where the content is not what the handler is annotated with."""
        if self.convert is not None:
            content = self.convert(content)
        return self.handler(content) if self.is_async else _threaded(self.handler, content)

    @classmethod
    def of(cls, handler: Handler, most: int | None = None, names: Mapping[str, Any] | None = None) -> Found:
        """`names`: local ones that the handler's annotation may use. Raises ValueError where `most` is no number of
        handlers."""
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError("concurrency is a number of handlers, 1 at least")
        return cls(handler, inspect.iscoroutinefunction(handler), _converter(handler, names or {}), most)


async def _threaded(handler: Handler, content: Any) -> Any:
    result = await asyncio.to_thread(handler, content)
    return await result if inspect.isawaitable(result) else result


class Handlers:
    """One for each type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Found] = {}

    def on(
        self, type: str, handler: Handler, concurrency: int | None = None, names: Mapping[str, Any] | None = None
    ) -> None:
        """Raises ValueError where the type has one already."""
        if type in self._by_type:
            raise ValueError(f"there is a handler for messages of type {type!r} already")
        self._by_type[type] = Found.of(handler, concurrency, names)

    def get(self, type: str) -> Found | None:
        return self._by_type.get(type)

    def __bool__(self) -> bool:
        return bool(self._by_type)

    async def deliver(
        self, type: str, content: Mapping[str, Any], timeout: float, delivery: Delivery | None = None
    ) -> Any:
        """What the handler makes of a message that comes from nobody in particular, such as the control socket. Raises
        MessagingError: no_handler, invalid_message, handler_failed, timeout."""
        found = self._by_type.get(type)
        if found is None:
            known = ", ".join(sorted(self._by_type)) or "none"
            raise MessagingError("no_handler", f"there is no handler for {type[:60]!r} (there are: {known})")
        token = current_delivery.set(delivery)
        try:
            async with asyncio.timeout(timeout):
                return plain(await found.in_turn({**content, "type": type}))
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s") from None
        except MessagingError:
            raise
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            logger.exception("the handler for %r raised", type[:60])
            raise MessagingError("handler_failed", (str(error) or error.__class__.__name__)[:LONGEST_TEXT]) from error
        finally:
            current_delivery.reset(token)


# Typed content --------------------------------------------------------------------------------------------------------

_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))


def plain(content: Any) -> Any:
    """Content as what JSON holds: a pydantic model or a dataclass as the mapping of its fields."""
    if content.__class__ in _PLAIN:
        return content
    if hasattr(content, "__pydantic_serializer__") or dataclasses.is_dataclass(content):
        return import_module("pydantic_core").to_jsonable_python(content)
    return content


def message_type(message: Any) -> str:
    """The type of a message. Raises MessagingError where it is none."""
    type = message.get("type") if isinstance(message, dict) else None
    if not isinstance(type, str):
        raise MessagingError("invalid_message", 'a message is a dict with a "type", such as {"type": "ping"}')
    return type


def caller_names(depth: int) -> Mapping[str, Any]:
    """Local names where a decorator stands, so many frames above who asks: models are often made in the factory."""
    return sys._getframe(depth + 1).f_locals


def _converter(handler: Handler, names: Mapping[str, Any]) -> Convert | None:
    """From content to the model (pydantic) or dataclass that the handler's parameter is annotated with; None where it
    is annotated with neither."""
    try:
        first = next(iter(inspect.signature(handler).parameters.values()), None)
    except (TypeError, ValueError):  # a callable that says nothing of its parameters
        return None
    wanted = first.annotation if first is not None else None
    if isinstance(wanted, str):
        scope = {**getattr(handler, "__globals__", {}), **names}
        try:
            wanted = typing.get_type_hints(_Holder(wanted), globalns=scope)["it"]
        except (NameError, SyntaxError, TypeError):
            logger.debug("%s: what %r stands for is not to be found", getattr(handler, "__qualname__", ""), wanted)
            return None
    if not inspect.isclass(wanted) or not (hasattr(wanted, "model_fields") or dataclasses.is_dataclass(wanted)):
        return None
    has_type = "type" in (getattr(wanted, "model_fields", None) or {each.name for each in _fields(wanted)})
    adapter = import_module("pydantic").TypeAdapter(wanted)
    return lambda content: _converted(adapter, content, has_type)


def _fields(wanted: Any) -> Any:
    return dataclasses.fields(wanted) if dataclasses.is_dataclass(wanted) else ()


class _Holder:
    """Has one annotation, for get_type_hints."""

    def __init__(self, annotation: str) -> None:
        self.__annotations__ = {"it": annotation}


def _converted(adapter: Any, content: Any, has_type: bool) -> Any:
    if not has_type and content.__class__ is dict and "type" in content:
        content = {name: value for name, value in content.items() if name != "type"}
    try:
        return adapter.validate_python(content)
    except ValueError as error:  # pydantic's own says what is wrong where, and is told without the values
        faults = error.errors(include_url=False, include_context=False, include_input=False)  # type: ignore[attr-defined]
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'message'}: {each['msg']}" for each in faults[:5])
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise MessagingError("invalid_message", f"{told[:LONGEST_TEXT]}{more}") from None
