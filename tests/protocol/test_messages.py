"""Messages: the way out and back, anything as a document, and what their texts do not show."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol import codec
from pywatt_host.protocol.messages import (
    EXTENSIONS,
    MESSAGES,
    HttpRequest,
    HttpResponse,
    Identify,
    Init,
    RouteToModule,
    SecretValue,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    Unknown,
    message_of,
    service_type_of,
)
from pywatt_host.protocol.payload import Envelope, Payload
from tests.protocol import cases, shapes

EVERY = pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: str(kind.op))
# Members that only a peer which agreed on an extension is told.
OPTIONAL = {"target_endpoint": "target_endpoint", "health": "health"}


def outcome(document: Any) -> Any:
    """The message that a document is, or the error that it leads to."""
    try:
        return message_of(document)
    except ProtocolError as error:
        return error


def told(message: Any, extensions: frozenset[str]) -> Any:
    """The message without what a peer with these extensions does not learn."""
    hidden = {}
    for field in dataclasses.fields(message):
        if field.name == "request_id" and field.default is None and message.op != "error":
            hidden[field.name] = "request_id"
        elif field.name in OPTIONAL and field.default is None:
            hidden[field.name] = OPTIONAL[field.name]
    return dataclasses.replace(message, **{name: None for name, wanted in hidden.items() if wanted not in extensions})


@EVERY
@settings(max_examples=20)
@given(data=st.data(), some=shapes.extension_sets)
def test_every_message_is_read_as_it_was_sent(kind: Any, data: st.DataObject, some: frozenset[str]) -> None:
    message = data.draw(shapes.messages_of(kind))
    for extensions in (frozenset[str](), EXTENSIONS, some):
        read = codec.read(codec.line(message, extensions))
        assert type(read) is kind
        assert read == told(message, extensions)


@EVERY
@settings(max_examples=15)
@given(data=st.data())
def test_a_message_in_an_envelope_is_the_same_message(kind: Any, data: st.DataObject) -> None:
    message = data.draw(shapes.messages_of(kind))
    document = message.wire(EXTENSIONS)
    for more in ({}, {"metadata": None}, {"id": "x", "metadata": {"source": "m", "properties": {"deadline": 1}}}):
        assert message_of({"content": document, **more}) == message


@EVERY
@settings(max_examples=15)
@given(data=st.data(), name=shapes.texts, value=shapes.json_documents)
def test_members_that_nobody_knows_change_nothing(kind: Any, data: st.DataObject, name: str, value: Any) -> None:
    message = data.draw(shapes.messages_of(kind))
    document = message.wire(EXTENSIONS)
    assert message_of({f"x-{name}": value, **document}) == message


@EVERY
@settings(max_examples=30)
@given(data=st.data())
def test_members_of_any_type_give_a_message_or_an_error_of_one_line(kind: Any, data: st.DataObject) -> None:
    document = dict(data.draw(shapes.messages_of(kind)).wire(EXTENSIONS))
    members = st.sampled_from([*document, "request_id", "payload", "listen", "service_type", "extensions"])
    for name in data.draw(st.lists(members.filter(lambda name: name != "op"), min_size=1, max_size=3)):
        document[name] = data.draw(shapes.json_documents)
    message = outcome(document)
    if isinstance(message, ProtocolError):
        assert message.code == "message"
        assert str(message).startswith(f"{kind.op}: ")
        assert len(str(message)) < 200
        assert "\n" not in str(message)
        return
    assert type(message) is kind
    # What was accepted can be sent on and is then read as the same, but for bytes said to be JSON that are none.
    try:
        line = codec.line(message, EXTENSIONS)
    except ProtocolError:
        assert message.payload.format == "Json"
    else:
        again = codec.read(line)
        assert type(again) is kind
        assert again == message or kind is Init  # whose log level is not sent


wire_words = st.sampled_from(["op", "content", "identify", "module_id", "listen", "endpoints", "orchestrator_api"])


@given(shapes.json_documents | st.dictionaries(wire_words, shapes.json_documents | wire_words, max_size=4))
def test_any_document_is_a_message_or_refused(document: Any) -> None:
    message = outcome(document)
    assert isinstance(message, (Unknown, *MESSAGES)) or message.code == "message"


@given(
    st.recursive(st.just({"op": "shutdown"}), lambda inner: st.builds(lambda x: {"content": x}, inner), max_leaves=9)
)
def test_one_envelope_is_opened_and_no_second(document: Any) -> None:
    if "op" in document or "op" in document["content"]:
        assert message_of(document).op == "shutdown"
    else:
        with pytest.raises(ProtocolError, match="a message has no op"):
            message_of(document)


# What texts do not show ---------------------------------------------------------------------------------------------

SECRET = "hunter2-hunter2"
BYTE_CASES = SECRET.encode()
HIDING = [
    SecretValue("DB", SECRET),
    Init("http://a", "m", {"DB": SECRET}, auth_token=SECRET),
    Identify("m", SECRET),
    HttpRequest("1", "POST", "/", {"authorization": SECRET}, BYTE_CASES),
    HttpResponse("1", 200, {"set-cookie": SECRET}, BYTE_CASES),
    RouteToModule("m", "", "1", Payload.of({"password": SECRET})),
    RouteToModule("m", "", "1", Payload(BYTE_CASES, "Binary")),
    ServiceRequest("1", "Database", {"password": SECRET}),
    ServiceOperation("c", "Cache", "set", ["k", SECRET]),
    ServiceOperationResult(True, SECRET),
    Envelope({"password": SECRET}),
]


@pytest.mark.parametrize("message", HIDING, ids=lambda message: type(message).__name__)
def test_no_text_of_a_message_shows_values_tokens_or_bodies(message: Any) -> None:
    for text in (repr(message), str(message), f"{message}", repr([message])):
        assert SECRET not in text
        assert repr(list(BYTE_CASES))[1:20] not in text


@pytest.mark.parametrize("op", sorted(cases.CLASSES))
@settings(max_examples=15)
@given(data=st.data())
def test_no_error_shows_the_value_that_is_wrong(op: str, data: st.DataObject) -> None:
    values = st.sampled_from([SECRET, [SECRET], {SECRET: SECRET}, {"a": [SECRET]}, 7355608])
    names = [field.name for field in dataclasses.fields(cases.CLASSES[op])] or ["reason"]
    document = {"op": op, **{name: data.draw(values) for name in names}}
    error = outcome(document)
    if isinstance(error, ProtocolError):
        assert SECRET not in str(error)
        assert "7355608" not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


# Payloads and envelopes ---------------------------------------------------------------------------------------------


@given(shapes.json_documents)
def test_a_payload_is_the_same_document_inline_and_in_byte_numbers(document: Any) -> None:
    payload = Payload.of(document)
    for inline in (True, False):
        read = Payload.read(json.loads(json.dumps(payload.wire(inline=inline))))
        assert read == payload
        assert hash(read) == hash(payload)
        assert read.document() == document
        assert json.loads(read.to_bytes()) == document


@given(st.binary(max_size=50), st.sampled_from(["Binary", "Auto"]))
def test_bytes_stay_as_they_are(encoded: bytes, format: Any) -> None:
    payload = Payload(encoded, format)
    for inline in (True, False):
        read = Payload.read(payload.wire(inline=inline))
        assert read == payload
        assert read.to_bytes() == encoded


def test_base64_is_bytes_and_what_is_not_base64_can_be_passed_on_and_compared_but_not_read() -> None:
    assert Payload.read({"data": list(b"aGk="), "format": "Base64"}).to_bytes() == b"hi"
    bad = Payload.read({"data": list(b"*"), "format": "Base64"})
    assert bad == Payload(b"*", "Base64") != Payload(b"+", "Base64")
    assert hash(bad) == hash(Payload(b"*", "Base64"))
    assert bad.wire(inline=True) == {"data": [42], "format": "Base64"}
    with pytest.raises(ProtocolError, match=r"payload\.data is not base64"):
        _ = bad.to_bytes()


@pytest.mark.parametrize("format", ["Binary", "Base64"])
def test_bytes_that_are_no_document_are_not_read_as_one(format: Any) -> None:
    with pytest.raises(ProtocolError, match=f"the payload is {format} and not a JSON document"):
        Payload(b"{}", format).document()


@pytest.mark.parametrize("encoded", [b'{"a":1,"a":2}', b"[" * 65 + b"]" * 65, b"NaN", b"\xff"], ids=repr)
def test_a_document_inside_a_payload_is_read_as_strictly_as_the_message_around_it(encoded: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Payload.read({"data": list(encoded), "format": "Json"}).document()
    assert caught.value.code == "json"


def test_an_envelope_is_told_from_content_of_its_own_type() -> None:
    assert Envelope.open({"type": "t", "content": 1}).content == {"type": "t", "content": 1}
    assert Envelope.open([1]).content == [1]
    envelope = Envelope.open({"id": "1", "content": {"type": "t"}, "metadata": {"properties": {"deadline": 2}}})
    assert envelope == Envelope({"type": "t"}, {"deadline": 2}, "1")
    assert envelope.deadline == 2.0


@pytest.mark.parametrize("metadata", [None, 1, [], {"properties": []}, {"properties": {"deadline": "soon"}}, {}])
def test_metadata_of_any_shape_says_nothing_and_breaks_nothing(metadata: Any) -> None:
    envelope = Envelope.open({"content": {"type": "t"}, "metadata": metadata, "id": 5})
    assert envelope.content == {"type": "t"}
    assert envelope.deadline is None
    assert envelope.id is None


@given(shapes.json_documents, st.dictionaries(shapes.texts, shapes.scalars, max_size=3), shapes.maybe)
def test_a_sealed_envelope_opens_as_it_was(content: Any, properties: Any, id: str | None) -> None:
    envelope = Envelope(content, properties, id)
    if envelope.seal() is not content:
        assert Envelope.open(envelope.seal()) == envelope


def test_service_types_of_the_wire_are_known_in_any_case() -> None:
    assert [service_type_of(text) for text in ("database", "CACHE", "Jwt", "api", "Api")] == [
        "Database",
        "Cache",
        "Jwt",
        "api",
        "Api",
    ]
