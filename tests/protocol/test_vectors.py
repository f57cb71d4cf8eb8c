"""The conformance vectors: exactly what is sent, all that is accepted, and what is said of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol import codec
from pywatt_host.protocol.messages import MESSAGES, Unknown, message_of
from tests.protocol import cases
from tests.protocol.cases import Accepted, Refused, Sent

BYTE_CASES = cases.byte_cases()


def named(case: Any) -> str:
    return case["why"] if isinstance(case, dict) else str(case.name)


def test_every_operation_has_its_vectors_in_each_kind() -> None:
    files = cases.files()
    assert set(files) == {message.op for message in MESSAGES}
    for op, file in files.items():
        assert file["op"] == op
        assert set(file) == {"op", "sent", "accepted", "refused"}
        assert all(file.values()), op


@pytest.mark.parametrize("case", cases.sent(), ids=named)
def test_a_message_is_sent_in_exactly_this_shape(case: Sent) -> None:
    assert case.message.wire(case.extensions) == case.document
    # Byte by byte, in the order of the tables as well.
    compact = json.dumps(case.document, separators=(",", ":"), ensure_ascii=False).encode()
    assert codec.line(case.message, case.extensions) == compact + b"\n"
    assert codec.frame(case.message, case.extensions) == len(compact).to_bytes(4, "big") + b"\x01" + compact


@pytest.mark.parametrize("case", cases.sent(), ids=named)
def test_what_is_sent_is_read_as_the_same_message(case: Sent) -> None:
    read = message_of(case.document)
    assert type(read) is type(case.message)
    if not case.lossy:
        assert read == case.message
    assert read.wire(case.extensions) == case.document


@pytest.mark.parametrize("case", cases.sent(), ids=named)
def test_a_module_sends_its_frames_in_an_envelope_that_is_read_as_well(case: Sent) -> None:
    (unit,) = codec.Frames(16 * 1024**2).feed(codec.EnvelopeFrames()(case.message, case.extensions))
    envelope = json.loads(unit)
    assert list(envelope) == ["id", "content", "metadata"]
    assert envelope["content"] == case.document
    assert codec.read(unit) == message_of(case.document)


@pytest.mark.parametrize("case", cases.accepted(), ids=named)
def test_every_variant_is_accepted_as_the_same_message(case: Accepted) -> None:
    assert message_of(case.document) == case.message


@pytest.mark.parametrize("case", cases.refused(), ids=named)
def test_a_refusal_names_the_operation_the_member_and_what_is_wanted(case: Refused) -> None:
    with pytest.raises(ProtocolError) as caught:
        message_of(case.document)
    assert case.error in str(caught.value)
    assert caught.value.code == "message"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BYTE_CASES["units"], ids=named)
def test_a_unit_that_is_no_operation_is_refused_or_set_aside(case: dict[str, str]) -> None:
    unit = case["bytes"].encode()
    if "unknown" in case:
        assert codec.read(unit) == Unknown(case["unknown"])
        return
    with pytest.raises(ProtocolError) as caught:
        codec.read(unit)
    assert case["error"] in str(caught.value)
    assert caught.value.code == case["code"]


# The members of the tables, for a peer that offered no extensions.
TABLES = {
    "init": "orchestrator_api module_id env listen tcp_channel ipc_channel auth_token security_level extensions",
    "secret": "name value rotation_id",
    "rotated": "keys rotation_id",
    "shutdown": "",
    "heartbeat": "",
    "register_service_provider_response": "success provider_id error",
    "discover_service_providers_response": "success providers error",
    "service_response": "id service_type success error connection_id",
    "service_operation_result": "success result error",
    "http_request": "request_id method uri headers body",
    "port_response": "request_id success port error_message",
    "routed_module_message": "source_module_id original_request_id payload",
    "routed_module_response": "source_module_id request_id payload",
    "announce": "listen endpoints extensions",
    "identify": "module_id auth_token",
    "get_secret": "name",
    "rotation_ack": "rotation_id status message",
    "register_service_provider": "service_type name version address metadata",
    "discover_service_providers": "service_type all_providers",
    "service_request": "id service_type config",
    "service_operation": "connection_id service_type operation params",
    "http_response": "request_id status_code headers body",
    "port_request": "request_id specific_port",
    "route_to_module": "target_module_id target_endpoint request_id payload",
    "heartbeat_ack": "",
}


@pytest.mark.parametrize("case", [case for case in cases.sent() if case.message.op in TABLES], ids=named)
def test_a_peer_without_extensions_is_sent_the_members_of_the_tables_and_no_other(case: Sent) -> None:
    document = case.message.wire(frozenset())
    assert set(document) <= {"op", *TABLES[case.message.op].split()}
    if "payload" in document:
        assert set(document["payload"]) == {"data", "format"}
        assert all(type(byte) is int for byte in document["payload"]["data"])
