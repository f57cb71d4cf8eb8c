"""What the manifest's `tracing` and the variables `OTEL_*` say together. The manifest wins.

The variables are those of the OpenTelemetry specification ("Environment Variable Specification" and "OpenTelemetry
Protocol Exporter"). An empty one counts as one that is not set. What cannot be used is a warning, and the default is
used.
"""

from __future__ import annotations

import hmac
import math
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote
from uuid import uuid4

from pywatt_host.manifest.model.tracing import ENDPOINT, Tracing
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.spans import Attributes, Value

# Where `pywatt-host up` collects the spans of its modules: its URL, its token, and the fingerprints of the destinations
# to which it passes everything on, with blanks between them.
COLLECTOR = "PYWATT_COLLECTOR"
TOKEN_HEADER = "x-pywatt-token"

_SLICE = 512  # spans
_DEFAULT_ENDPOINT = "http://localhost:4318"
_PATH = "/v1/traces"
_is_endpoint = re.compile(ENDPOINT).fullmatch
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_USER_INFO = re.compile(r"(?<=://)[^/?#]*@")
_CREDENTIALS_IN_URL = "a user or a password in its URL is not sent; use headers"


@dataclass(frozen=True, slots=True)
class Destination:
    """An OTLP/HTTP endpoint. `url` is the whole one, without user and password. `timeout` is that of one request, in
    seconds; the files are for TLS, empty where the default is used."""

    url: str
    headers: Mapping[str, str | SecretTemplate] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    compress: bool = False
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""

    def fingerprint(self, key: str, *, headers: bool = True) -> str:
        """Tells whether two destinations are the same, without saying where they are and what their headers have. Those
        made with another key are others. Without `headers`, it is that of the URL alone."""
        sent = sorted((name, str(value)) for name, value in self.headers.items()) if headers else None
        return hmac.digest(key.encode(), repr((self.url, sent)).encode(), "sha256").hex()

    def is_among(self, fingerprints: Collection[str], key: str) -> bool:
        """Whether one of these destinations is this one. Where this one has no headers, its URL decides."""
        return self.fingerprint(key, headers=bool(self.headers)) in fingerprints


@dataclass(frozen=True, slots=True)
class Batching:
    """How spans are collected before they are sent. Times in seconds; `queue`, and `batch` for one request, are numbers
    of spans."""

    queue: int = 8192
    delay: float = 1.0
    batch: int = 8192
    give_up: float = 30.0

    @property
    def slice(self) -> int:
        """Spans that are encoded at a time: more would hold up the event loop for too long."""
        return min(self.batch, self.queue, _SLICE)


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """How a host traces. `destinations` is empty where the spans go to nobody."""

    destinations: tuple[Destination, ...]
    ratio: float
    parent_based: bool
    resource: Attributes
    batching: Batching
    longest: int | None  # characters of a text; None: the default
    warnings: tuple[str, ...]


def read_settings(
    tracing: Tracing | None, environ: Mapping[str, str], *, name: str, version: str, directory: Path, sdk: str
) -> TraceSettings:
    """The settings of a host. `name` and `version` are those of the module, `sdk` is the version of this package. Paths
    in variables are relative to `directory`."""
    return _Reader(tracing, environ, directory).read(name, version, sdk)


class _Reader:
    def __init__(self, tracing: Tracing | None, environ: Mapping[str, str], directory: Path) -> None:
        self._tracing = tracing or Tracing.model_construct()
        self._asked = tracing is not None and tracing.enabled
        self._environ = environ
        self._directory = directory
        self._warnings: list[str] = []

    def read(self, name: str, version: str, sdk: str) -> TraceSettings:
        own, collector = self._destination(), self._collector()
        if own is not None and collector is not None and self._is_passed_on(own):
            own = None
        destinations = [each for each in (own, collector) if each is not None]
        ratio, parent_based = self._sampler()
        longest = self._get("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
        return TraceSettings(
            tuple(destinations),
            ratio,
            parent_based,
            self._resource(name, version, sdk),
            self._batching(),
            self._number(*longest, 0, 1, 10**6) or None,
            tuple(self._warnings),
        )

    # Variables ------------------------------------------------------------------------------------------------------

    def _get(self, *names: str) -> tuple[str, str]:
        """The first of these variables that is set, and its value; both are empty where none is."""
        for name in names:
            value = self._environ.get(name, "").strip()
            if value:
                return name, value
        return "", ""

    def _exporter(self, what: str) -> tuple[str, str]:
        return self._get(f"OTEL_EXPORTER_OTLP_TRACES_{what}", f"OTEL_EXPORTER_OTLP_{what}")

    def _warn(self, name: str, value: str, used: str, why: str = "is not known") -> None:
        self._warnings.append(f"{name}={value[:80]} {why}; {used}")

    def _number(self, name: str, value: str, default: int, low: int, high: int) -> int:
        if not value:
            return default
        if value.isascii() and value.isdigit() and low <= int(value[:20]) <= high:
            return int(value)
        self._warn(name, value, f"{default or 'the default'} is used", f"is not a number from {low} to {high}")
        return default

    # Where to -------------------------------------------------------------------------------------------------------

    def _destination(self) -> Destination | None:
        url = self._url()
        if not url:
            return None
        if not _is_endpoint(_USER_INFO.sub("", url)):
            self._warnings.append(f"{self._url_name()} is not an http or https URL; no spans are sent there")
            return None
        if _USER_INFO.search(url):
            self._warnings.append(f"{self._url_name()}: {_CREDENTIALS_IN_URL}")
            url = _USER_INFO.sub("", url)
        return Destination(
            url,
            MappingProxyType({**self._headers(), **{key.lower(): each for key, each in self._tracing.headers.items()}}),
            self._number(*self._exporter("TIMEOUT"), 10_000, 1, 10**7) / 1000,
            self._compression(),
            self._file("CERTIFICATE"),
            self._file("CLIENT_CERTIFICATE"),
            self._file("CLIENT_KEY"),
        )

    def _url_name(self) -> str:
        return "tracing.endpoint" if self._tracing.endpoint is not None else self._exporter("ENDPOINT")[0]

    def _url(self) -> str:
        if self._tracing.endpoint is not None:
            return _with_path(self._tracing.endpoint)
        if self._switched_off() or not self._protocol():
            return ""
        name, value = self._exporter("ENDPOINT")
        if name == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT":
            return value
        return _with_path(value or _DEFAULT_ENDPOINT)

    def _switched_off(self) -> bool:
        """Whether variables switch traces off, or nothing switches them on."""
        exporters = _exporters(self._environ)
        others = [each for each in exporters if each not in ("otlp", "none")]
        if others:
            self._warn("OTEL_TRACES_EXPORTER", ",".join(others), "the exporters are otlp and none")
        if switched_off(self._environ):
            return True
        if exporters:
            return "otlp" not in exporters
        return not self._asked and not self._exporter("ENDPOINT")[1]

    def _protocol(self) -> bool:
        name, value = self._exporter("PROTOCOL")
        if value == "grpc":
            hint = "no spans are sent; set it to http/protobuf, and the endpoint to the port for that (usually 4318)"
            self._warn(name, value, hint, "is not supported")
            return False
        if value not in ("", "http/protobuf"):
            self._warn(name, value, "http/protobuf is used", "is not supported")
        return True

    def _headers(self) -> dict[str, str]:
        """Those of the variables: `name=value` with commas between them, and the values percent-encoded."""
        if self._tracing.endpoint is not None:
            return {}  # they may be credentials for another endpoint
        name, value = self._exporter("HEADERS")
        found = {}
        for pair in filter(None, (each.strip() for each in value.split(","))):
            key, separator, text = (part.strip() for part in pair.partition("="))
            if not separator or not _HEADER(key):
                self._warnings.append(f"{name} has an entry that is not NAME=VALUE; it is ignored")
                continue
            found[key.lower()] = unquote(text)
        return found

    def _compression(self) -> bool:
        name, value = self._exporter("COMPRESSION")
        if value not in ("", "none", "gzip"):
            self._warn(name, value, "nothing is compressed")
        return value == "gzip"

    def _file(self, what: str) -> str:
        value = self._exporter(what)[1]
        return os.fspath(self._directory / value) if value else ""

    def _collector(self) -> Destination | None:
        """The collector of `pywatt-host up`, where this module is one of its own and does not switch traces off."""
        if switched_off(self._environ):
            return None
        url, token, *_ = (*self._environ.get(COLLECTOR, "").split(), "", "")
        return Destination(f"{url}{_PATH}", {TOKEN_HEADER: token}, timeout=2.0) if token else None

    def _is_passed_on(self, destination: Destination) -> bool:
        """Whether that collector passes everything on to the same place: the module itself need not send it there."""
        _, token, *passed_on = self._environ[COLLECTOR].split()
        return destination.is_among(passed_on, token)

    # What -----------------------------------------------------------------------------------------------------------

    def _sampler(self) -> tuple[float, bool]:
        """The ratio of traces that are recorded, and whether the caller decides about its own."""
        if self._tracing.sample is not None:
            return self._tracing.sample, True
        name, value = self._get("OTEL_TRACES_SAMPLER")
        parent_based = value.startswith("parentbased_")
        kind = value.removeprefix("parentbased_")
        if not value or kind == "always_on":
            return 1.0, parent_based or not value
        if kind == "always_off":
            return 0.0, parent_based
        if kind == "traceidratio":
            return self._ratio(), parent_based
        self._warn(name, value, "parentbased_always_on is used")
        return 1.0, True

    def _ratio(self) -> float:
        name, value = self._get("OTEL_TRACES_SAMPLER_ARG")
        try:
            ratio = float(value or 1)
        except ValueError:
            ratio = math.nan
        if 0 <= ratio <= 1:
            return ratio
        self._warn(name, value, "1 is used", "is not a number from 0 to 1")
        return 1.0

    def _resource(self, name: str, version: str, sdk: str) -> Attributes:
        found: dict[str, Value] = {"service.name": name}
        if version:
            found["service.version"] = version
        found |= {
            "service.instance.id": str(uuid4()),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            "telemetry.sdk.name": "pywatt-host",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": sdk,
        }
        variable, value = self._get("OTEL_RESOURCE_ATTRIBUTES")
        for pair in filter(None, (each.strip() for each in value.split(","))):
            key, separator, text = (part.strip() for part in pair.partition("="))
            if separator and key:
                found[unquote(key)] = unquote(text)
            else:
                self._warnings.append(f"{variable} has an entry that is not NAME=VALUE; it is ignored")
        if service := self._get("OTEL_SERVICE_NAME")[1]:
            found["service.name"] = service
        return MappingProxyType({**found, **self._tracing.resource})

    def _batching(self) -> Batching:
        usual = Batching()
        queue = self._number(*self._get("OTEL_BSP_MAX_QUEUE_SIZE"), usual.queue, 1, 10**6)
        batch = self._number(*self._get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), usual.batch, 1, 10**6)
        return Batching(
            queue,
            self._number(*self._get("OTEL_BSP_SCHEDULE_DELAY"), round(usual.delay * 1000), 1, 10**6) / 1000,
            batch,
            self._number(*self._get("OTEL_BSP_EXPORT_TIMEOUT"), round(usual.give_up * 1000), 1, 10**7) / 1000,
        )


def switched_off(environ: Mapping[str, str]) -> bool:
    """Whether variables say that this process sends no traces to anybody."""
    exporters = _exporters(environ)
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or ("none" in exporters and "otlp" not in exporters)


def _exporters(environ: Mapping[str, str]) -> list[str]:
    return [each.strip().lower() for each in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if each.strip()]


def _with_path(url: str) -> str:
    return url if url.endswith(_PATH) else f"{url.rstrip('/')}{_PATH}"


SecretValues = Callable[[], Mapping[str, str]]


def rendered(headers: Mapping[str, str | SecretTemplate], secret_values: Mapping[str, str]) -> dict[str, str] | None:
    """The headers with the values of secrets; None where one of these was not fetched yet."""
    try:
        return {
            name: value.render(secret_values) if isinstance(value, SecretTemplate) else value
            for name, value in headers.items()
        }
    except KeyError:
        return None
