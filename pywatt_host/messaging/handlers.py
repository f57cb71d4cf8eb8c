"""The application's handlers for messages, by message type, and what a handler is given."""

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
from secrets import token_hex
from typing import Any, NamedTuple, TypeAlias

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.context import Vouch, context_with, verified_claims
from pywatt_host.messaging.spans import HandlerSpans, error_type
from pywatt_host.observability.context import active_trace, current_request
from pywatt_host.observability.spans import NO_TRACER, UNRECORDED, AnySpan, AnyTracer, Tracer

logger = logging.getLogger("pywatt.messages")

Handler: TypeAlias = Callable[[Any], Awaitable[Any] | Any]
Convert: TypeAlias = Callable[[Any], Any]

MAX_ERROR_LENGTH = 300  # characters of an error in an answer


class MessageInfo(NamedTuple):
    """What the host knows about the message that is being handled, beside its content.

    `source` is the id of the module that sent the message. `vouched_by` tells who confirms that: `orchestrator`, `nats`
    (whose permissions tie subjects to users), `certificate` (the peer's client certificate names the module), `process`
    (the message is from this process), or empty where only the sender says so. `channel` is the channel over which the
    message arrived, or `process`. `deadline` is in seconds since the epoch; None where there is none. `attempt` counts
    deliveries where `channels.nats.delivery` is `at_least_once`, from 1.
    """

    source: str
    channel: str
    vouched_by: str = ""
    deadline: float | None = None
    attempt: int = 1


current_message: ContextVar[MessageInfo | None] = ContextVar("pywatt_message", default=None)


@dataclass(slots=True, eq=False)
class RegisteredHandler:
    """A handler of the application. It runs in a thread where it is not a coroutine function.

    `auth` are the schemes of which a message must have a credential; empty where it needs none. `convert` turns the
    content of a message into the type that the handler's parameter is annotated with. At most `concurrency` calls run
    at the same time; None allows any number.
    """

    handler: Handler
    is_async: bool
    convert: Convert | None = None
    concurrency: int | None = None
    auth: tuple[str, ...] = ()
    running: int = field(default=0)
    semaphore: asyncio.Semaphore | None = None  # made with the first call through `call_limited`

    async def call_limited(self, content: Any) -> Any:
        """Call the handler once fewer than `concurrency` calls run."""
        if self.concurrency is None:
            return await self(content)
        if self.semaphore is None:
            self.semaphore = asyncio.Semaphore(self.concurrency)
        async with self.semaphore:
            return await self(content)

    def __call__(self, content: Any) -> Awaitable[Any]:
        """Call the handler. Raises MessagingError `invalid_message` where the content does not fit its annotation."""
        if self.convert is not None:
            content = self.convert(content)
        return self.handler(content) if self.is_async else _threaded(self.handler, content)

    @classmethod
    def of(
        cls,
        handler: Handler,
        concurrency: int | None = None,
        names: Mapping[str, Any] | None = None,
        auth: tuple[str, ...] = (),
    ) -> RegisteredHandler:
        """`names` are local names that the handler's annotation may use. Raises ValueError where `concurrency` is not a
        whole number from 1 on."""
        if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
            raise ValueError(f"concurrency is {concurrency!r}: give a whole number, 1 or more")
        return cls(handler, inspect.iscoroutinefunction(handler), _converter(handler, names or {}), concurrency, auth)


async def _threaded(handler: Handler, content: Any) -> Any:
    result = await asyncio.to_thread(handler, content)
    return await result if inspect.isawaitable(result) else result


class Handlers:
    """The handlers of one module: one for each message type. `vouch` verifies the credentials of messages; without it
    they are not looked at."""

    def __init__(self, vouch: Vouch | None = None, tracer: AnyTracer = NO_TRACER, module_id: str = "") -> None:
        self.vouch = vouch
        self._spans = HandlerSpans(tracer, module_id) if isinstance(tracer, Tracer) else None
        self._by_type: dict[str, RegisteredHandler] = {}

    def on(
        self,
        type: str,
        handler: Handler,
        concurrency: int | None = None,
        names: Mapping[str, Any] | None = None,
        auth: tuple[str, ...] = (),
    ) -> None:
        """Register a handler. Raises ValueError where the type already has one."""
        if type in self._by_type:
            raise ValueError(f"messages of type {type!r} already have a handler")
        self._by_type[type] = RegisteredHandler.of(handler, concurrency, names, auth)

    def get(self, type: str) -> RegisteredHandler | None:
        return self._by_type.get(type)

    def __bool__(self) -> bool:
        return bool(self._by_type)

    async def deliver(
        self,
        type: str,
        content: Mapping[str, Any],
        timeout: float,
        info: MessageInfo | None = None,
        authorization: str | None = None,
    ) -> Any:
        """Call the handler of a message that does not arrive over a channel, such as one from the control socket, and
        return its reply. Raises MessagingError: no_handler, invalid_message, unauthorized, handler_failed, timeout."""
        handler = self._by_type.get(type)
        if handler is None:
            known = ", ".join(sorted(self._by_type)) or "none"
            raise MessagingError("no_handler", f"there is no handler for {type[:60]!r} (registered: {known})")
        token, context = current_message.set(info), current_request.get()
        entered = current_request.set(context)
        span: AnySpan = UNRECORDED
        if self._spans is not None:
            span = self._spans.begin(type, "process", info.source if info is not None else "", 1, active_trace())
        try:
            async with asyncio.timeout(timeout):
                if handler.auth or (authorization is not None and self.vouch is not None):
                    source = info.source if info is not None else ""
                    claims = await verified_claims(self.vouch, authorization, handler.auth, source)
                    current_request.set(context_with(context, claims))
                return to_jsonable(await handler.call_limited({**content, "type": type}))
        except TimeoutError:
            span.fail("timeout")
            raise MessagingError("timeout", f"no answer within {timeout:g}s") from None
        except MessagingError as error:
            span.fail(error_type(error))
            raise
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            span.fail(error_type(error))
            error_id = new_error_id()
            logger.exception("the handler for %r raised (error %s)", type[:60], error_id, extra={"error_id": error_id})
            raise MessagingError("handler_failed", failure_text(error_id)) from error
        finally:
            if span is not UNRECORDED:
                span.end()
            current_request.reset(entered)
            current_message.reset(token)


def new_error_id() -> str:
    """An id for an exception of a handler: its sender is told the id, and the log has it beside the traceback."""
    return token_hex(6)


def failure_text(error_id: str) -> str:
    """What the sender of a message is told about an exception of its handler. The text of the exception is not in it:
    it may quote a secret, a query, or the data of another user."""
    return f"the handler raised an exception (error {error_id} in the log of its module)"


# Typed content --------------------------------------------------------------------------------------------------------

_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))


def to_jsonable(content: Any) -> Any:
    """Content that can be written as JSON: a pydantic model or a dataclass becomes the mapping of its fields."""
    if content.__class__ in _PLAIN:
        return content
    if hasattr(content, "__pydantic_serializer__") or dataclasses.is_dataclass(content):
        return import_module("pydantic_core").to_jsonable_python(content)
    return content


def message_type(message: Any) -> str:
    """The type of a message. Raises MessagingError where it has none."""
    type = message.get("type") if isinstance(message, dict) else None
    if not isinstance(type, str):
        raise MessagingError("invalid_message", 'a message is a dict with a "type", such as {"type": "ping"}')
    return type


def caller_names(depth: int) -> Mapping[str, Any]:
    """The local names of the function `depth` frames above the caller, where a decorator is applied. Models are often
    defined within the application factory, and annotations name them."""
    return sys._getframe(depth + 1).f_locals


def _converter(handler: Handler, names: Mapping[str, Any]) -> Convert | None:
    """A function from content to the pydantic model or dataclass that the handler's first parameter is annotated with;
    None where it is annotated with neither."""
    try:
        first = next(iter(inspect.signature(handler).parameters.values()), None)
    except (TypeError, ValueError):  # a callable without a signature
        return None
    wanted = first.annotation if first is not None else None
    if isinstance(wanted, str):
        scope = {**getattr(handler, "__globals__", {}), **names}
        try:
            wanted = typing.get_type_hints(_AnnotationHolder(wanted), globalns=scope)["it"]
        except (NameError, SyntaxError, TypeError):
            name = getattr(handler, "__qualname__", "")
            logger.debug("%s: the annotation %r cannot be resolved; its messages are not converted", name, wanted)
            return None
    if not inspect.isclass(wanted) or not (hasattr(wanted, "model_fields") or dataclasses.is_dataclass(wanted)):
        return None
    has_type = "type" in (getattr(wanted, "model_fields", None) or {each.name for each in _fields(wanted)})
    adapter = import_module("pydantic").TypeAdapter(wanted)
    return lambda content: _converted(adapter, content, has_type)


def _fields(wanted: Any) -> Any:
    return dataclasses.fields(wanted) if dataclasses.is_dataclass(wanted) else ()


class _AnnotationHolder:
    """An object with one annotation, for `get_type_hints`."""

    def __init__(self, annotation: str) -> None:
        self.__annotations__ = {"it": annotation}


def _converted(adapter: Any, content: Any, has_type: bool) -> Any:
    if not has_type and content.__class__ is dict and "type" in content:
        content = {name: value for name, value in content.items() if name != "type"}
    try:
        return adapter.validate_python(content)
    except ValueError as error:  # pydantic's ValidationError; the values of the message stay out of the answer
        faults = error.errors(include_url=False, include_context=False, include_input=False)  # type: ignore[attr-defined]
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'message'}: {each['msg']}" for each in faults[:5])
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise MessagingError("invalid_message", f"{told[:MAX_ERROR_LENGTH]}{more}") from None
