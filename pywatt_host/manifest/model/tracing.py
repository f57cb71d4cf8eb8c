"""`tracing`: where spans are sent, and of which traces."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from pywatt_host.manifest.model.auth import HeaderName
from pywatt_host.manifest.model.base import Section, key
from pywatt_host.manifest.values import Bool, Float, Format, SecretToken, SensitiveUrl
from pywatt_host.manifest.values.scalars import SPACE

_USER = rf"([^{SPACE}/?#@]*@)?"
_HOST = rf"(\[[0-9A-Fa-f:.]+\]|[^{SPACE}/?#@:\[\]]+)"
_PORT = r"(:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
ENDPOINT = f"^https?://{_USER}{_HOST}{_PORT}(/[^{SPACE}?#]*)?$"
AttributeName: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,127}$"),
    Format("the name of an attribute", "use letters, digits, dots, dashes and underscores; start with a letter"),
]


class Tracing(Section):
    """Traces: which are recorded, and the OTLP endpoint that takes their spans."""

    enabled: Bool = key(
        True,
        "Whether spans are recorded. `tracing: false` is short for `{enabled: false}`, and wins over variables OTEL_*.",
        False,
    )
    endpoint: (
        Annotated[
            str,
            Field(pattern=ENDPOINT),
            SensitiveUrl(),
            Format("an OTLP endpoint", "write its http or https URL, such as http://127.0.0.1:4318"),
        ]
        | None
    ) = key(
        None,
        "URL of an OTLP/HTTP endpoint. `/v1/traces` is appended, unless the URL ends with it. If omitted, the endpoint"
        " is that of the variables OTEL_EXPORTER_OTLP_*, else http://localhost:4318.",
        "http://127.0.0.1:4318",
        "https://otel.example/v1/traces",
    )
    sample: Annotated[Float, Field(ge=0, le=1)] | None = key(
        None,
        "Ratio of the traces that are recorded, of those that begin in this module. For a request with a `traceparent`,"
        " the caller decides. If omitted, OTEL_TRACES_SAMPLER decides, else all traces are recorded.",
        0.1,
    )
    headers: dict[HeaderName, SecretToken] = key(
        dict,
        "Headers of the requests to the endpoint, such as credentials.",
        {"authorization": "${secret:OTLP_TOKEN}"},
    )
    resource: dict[AttributeName, str] = key(
        dict, "Attributes of the module that are sent with its spans.", {"deployment.environment.name": "prod"}
    )
