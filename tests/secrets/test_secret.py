"""A Secret shows its value to nobody but who asks for it."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, TypeAdapter

from pywatt_host.secrets import Secret

VALUE = "hunter2-and-more"


def secret() -> Secret[str]:
    return Secret("DATABASE_PASSWORD", VALUE)


class Model(BaseModel):
    password: Secret[str]


@dataclasses.dataclass
class Holder:
    password: Secret[str]


def msgspec(encoder: str) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        return pytest.importorskip(f"msgspec.{encoder}").encode(value)

    return encode


SHOWN: dict[str, Callable[[Secret[str]], str]] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value:>20} {value!r} {value!s}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031
    "within a list": lambda value: repr([value]),
    "within a dataclass": lambda value: repr(Holder(value)),
    "within a model": lambda value: repr(Model(password=value)),
    "pprint": pprint.pformat,
    "dir": lambda value: repr([(name, getattr(value, name, None)) for name in dir(value) if name != "__dict__"]),
    "json with default=str": lambda value: json.dumps(value, default=str),
    "orjson with default=str": lambda value: orjson.dumps(value, default=str).decode(),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_text_forms_do_not_have_the_value(shown: Callable[[Secret[str]], str]) -> None:
    text = shown(secret())
    assert VALUE not in text
    assert "***" in text


def test_a_log_record_does_not_have_the_value(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("app").warning("password %s %r", secret(), secret())
    assert caplog.messages == ["password *** Secret('DATABASE_PASSWORD', ***)"]


REFUSED: dict[str, Callable[[Any], Any]] = {
    "json": json.dumps,
    "orjson": orjson.dumps,
    "orjson of a list": lambda value: orjson.dumps([value]),
    "orjson of a dataclass": lambda value: orjson.dumps(Holder(value)),
    "msgspec json": msgspec("json"),
    "msgspec msgpack": msgspec("msgpack"),
    "pickle": pickle.dumps,
    "the first pickle": lambda value: pickle.dumps(value, protocol=0),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "asdict": lambda value: dataclasses.asdict(Holder(value)),
    "vars": vars,
    "iteration": list,
    "hash": hash,
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_what_would_store_or_send_it_raises_a_type_error(refused: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        refused(secret())
    assert VALUE not in "".join(traceback.format_exception(caught.value))


# These wrap what stopped them in errors of their own, none of which has the value.
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "FastAPI": jsonable_encoder,
    "FastAPI, within a dict": lambda value: jsonable_encoder({"password": value}),
    "FastAPI, within a model": lambda value: jsonable_encoder(Model(password=value)),
    "model_dump": lambda value: Model(password=value).model_dump(),
    "model_dump_json": lambda value: Model(password=value).model_dump_json(),
    "a type adapter": lambda value: TypeAdapter(Any).dump_json(value),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_frameworks_refuse_it_in_their_own_words(wrapped: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        wrapped(secret())
    assert VALUE not in "".join(traceback.format_exception(caught.value))


def test_a_model_takes_a_secret_and_no_text() -> None:
    assert Model(password=secret()).password.expose_secret() == VALUE
    with pytest.raises(ValueError) as caught:
        Model(password=VALUE)  # type: ignore[arg-type]
    assert "Secret" in str(caught.value)


def test_secrets_are_equal_by_value_to_other_secrets_only() -> None:
    assert secret() == Secret("OTHER", VALUE)
    assert secret() != Secret("DATABASE_PASSWORD", "another value")
    assert secret() != VALUE
    assert Secret("A", "täglich") == Secret("B", "täglich")
    assert Secret("A", 1) == Secret("B", 1)


def test_a_secret_is_true_where_there_is_something_in_it() -> None:
    assert secret()
    assert not Secret("EMPTY", "")


def test_the_value_is_there_for_who_asks() -> None:
    assert secret().expose_secret() == VALUE
    assert secret().name == "DATABASE_PASSWORD"
    assert Secret("J", {"a": 1}).expose_secret() == {"a": 1}
