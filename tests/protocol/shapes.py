"""Hypothesis strategies: JSON documents, messages of every operation, and bytes in any pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pywatt_host.protocol.messages import (
    EXTENSIONS,
    MESSAGES,
    Announce,
    AnnouncedEndpoint,
    Discover,
    Discovered,
    Error,
    GetHostPath,
    GetSecret,
    HeartbeatAck,
    HostPathAnswer,
    HttpRequest,
    HttpResponse,
    Identify,
    Init,
    IpcChannelOffer,
    PortRequest,
    PortResponse,
    Provider,
    Register,
    Registered,
    RotationAck,
    SecretValue,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
    Snapshot,
    TcpChannelOffer,
    WorkerFailed,
    WorkerSpans,
)
from pywatt_host.protocol.payload import Payload

texts = st.text(st.characters(codec="utf-8"), max_size=12)
some = texts.filter(bool)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(['a":b', '\\"', "\\", ":", "{[", "]}", '"', "a\u2028b", "\n", "é", "😀", "http://a:1/"])
)
json_documents: SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
extension_sets = st.frozensets(st.sampled_from(sorted(EXTENSIONS)))
mappings = st.dictionaries(texts, texts, max_size=3)
payloads = st.builds(Payload.of, json_documents) | st.builds(
    Payload, st.binary(max_size=20), st.sampled_from(["Binary", "Auto", "Base64"])
)
service_types = st.sampled_from(["Database", "Cache", "Jwt"]) | texts
maybe = st.none() | texts
ports = st.integers(0, 65535)
flags = st.booleans()
providers = st.builds(Provider, texts, texts, service_types, texts, maybe, texts, mappings, flags)
endpoints = st.builds(AnnouncedEndpoint, texts, st.lists(texts, max_size=3).map(tuple), maybe)
names = st.lists(texts, max_size=3).map(tuple)

# Where the type of a field is not all there is to say.
_FIELDS: dict[Any, dict[str, SearchStrategy[Any]]] = {
    Announce: {"listen": some, "endpoints": st.lists(endpoints, max_size=3).map(tuple), "extensions": names},
    Discover: {"service_type": service_types, "all_providers": st.none() | flags},
    Discovered: {"providers": st.lists(providers, max_size=3).map(tuple)},
    # An empty code is read as the code `error`.
    Error: {"code": some},
    GetSecret: {},
    HeartbeatAck: {"health": st.none() | st.dictionaries(texts, json_documents, max_size=3)},
    HttpRequest: {"headers": mappings, "body": st.none() | st.binary(max_size=20)},
    HttpResponse: {
        "status_code": st.integers(100, 999),
        "headers": mappings,
        "body": st.none() | st.binary(max_size=20),
    },
    Identify: {"extensions": names},
    Init: {
        "env": mappings,
        "listen": st.none() | some,
        "tcp_channel": st.none() | st.builds(TcpChannelOffer, texts, flags, flags),
        "ipc_channel": st.none() | st.builds(IpcChannelOffer, texts, flags),
        "log_level": st.none(),
        "extensions": names,
    },
    PortRequest: {"specific_port": st.none() | ports},
    PortResponse: {"success": flags, "port": st.none() | ports},
    Register: {"service_type": service_types, "metadata": st.none() | mappings},
    Registered: {"success": flags},
    RotationAck: {"status": st.sampled_from(["success", "error"])},
    SecretValue: {},
    ServiceOperation: {"service_type": service_types, "params": json_documents},
    ServiceOperationResult: {"success": flags, "result": json_documents},
    ServiceRequest: {"service_type": service_types, "config": json_documents},
    ServiceResponse: {"service_type": service_types, "success": flags},
    WorkerFailed: {"exit_code": st.integers(0, 255)},
    WorkerSpans: {"spans": st.integers(0, 1000), "dropped": st.integers(0, 1000)},
    Snapshot: {"families": st.lists(json_documents, max_size=3)},
    GetHostPath: {"details": st.none() | flags},
    HostPathAnswer: {"status": st.integers(100, 599), "headers": mappings},
}


def messages_of(kind: Any) -> SearchStrategy[Any]:
    """Messages of one class, every field drawn."""
    fields: dict[str, SearchStrategy[Any]] = {}
    for name, field in kind.__dataclass_fields__.items():
        if name in _FIELDS.get(kind, {}):
            fields[name] = _FIELDS[kind][name]
        elif name == "payload":
            fields[name] = payloads
        elif name == "keys":
            fields[name] = names
        elif field.type == "str":
            fields[name] = texts
        elif field.type == "str | None":
            fields[name] = maybe
        elif field.type == "bool":
            fields[name] = flags
        elif field.type == "bytes":
            fields[name] = st.binary(max_size=20)
        elif field.type.startswith("ClassVar"):
            continue
        else:
            raise AssertionError(f"{kind.__name__}.{name}: no strategy for {field.type}")
    return st.builds(kind, **fields)


messages = st.one_of([messages_of(kind) for kind in MESSAGES])


@st.composite
def cuts(draw: st.DrawFn, encoded: bytes) -> list[bytes]:
    """The bytes in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(encoded)), max_size=10)))
    ends = [0, *places, len(encoded)]
    return [encoded[start:end] for start, end in pairwise(ends)]
