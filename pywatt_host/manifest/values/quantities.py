"""Durations, sizes, rates and counts, and the numbers that they represent."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticKnownError

from pywatt_host.manifest.values.scalars import Format, fault, text_of, text_schema, to_int

# Durations ------------------------------------------------------------------------------------------------------------

# Six decimals: the shortest duration is a nanosecond, so no text that looks positive becomes zero.
DURATION_PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))+$"
_DURATION_PART = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?(ms|s|m|h)")
_DURATION = re.compile(DURATION_PATTERN[1:-1] + r"\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_NANOS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000}


def parse_duration(value: Any) -> float:
    """Convert `500ms`, `15s`, `1m30s` or `2h` to seconds. Raises PydanticCustomError for any other text."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise fault("duration", '{number} has no unit; perhaps "{number}s"', number=value)
    text = text_of(value, "a duration with its unit", "500ms, 15s, 1m30s or 2h")
    if not _DURATION.match(text):
        raise fault("duration", '"{text}" is not a duration{hint}', text=text[:40], hint=_duration_hint(text))
    millionths = sum(
        (int(whole) * 1_000_000 + int((decimals or "").ljust(6, "0"))) * _NANOS[unit]
        for whole, decimals, unit in _DURATION_PART.findall(text)
    )
    return millionths // 1_000_000 / 1_000_000_000


def _duration_hint(text: str) -> str:
    meant = re.sub(
        r"(?<=[0-9])(ms|s|m|h)[a-z]*", r"\1", re.sub(r"(?<=[0-9])msec[a-z]*", "ms", text.replace(" ", "").lower())
    )
    return f'; perhaps "{meant}"' if _DURATION.match(meant) else " (write 500ms, 15s, 1m30s or 2h)"


def format_duration(seconds: float | None) -> str:
    """The shortest text that `parse_duration` converts back to `seconds`; `off` for None."""
    if seconds is None:
        return "off"
    numerator, denominator = seconds.as_integer_ratio()
    left = (numerator * 2_000_000_000 + denominator) // (2 * denominator)  # nanoseconds, rounded
    if left % 1_000_000 or 0 < left < 1_000_000_000:
        whole, rest = divmod(left, 1_000_000_000)
        millis, nanos = divmod(rest, 1_000_000)
        decimals = f".{nanos:06d}".rstrip("0") if nanos else ""
        return (format_duration(float(whole)) if whole else "") + f"{millis}{decimals}ms"
    parts = []
    for unit, size in _NANOS.items():
        amount, left = divmod(left, size)
        # A number has nine digits at most, so a larger amount of a unit is written as several numbers.
        while amount > 999_999_999:
            parts.append(f"999999999{unit}")
            amount -= 999_999_999
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def _positive(parse: Callable[[Any], float]) -> Callable[[Any], float]:
    def checked(value: Any) -> float:
        number = parse(value)
        if number <= 0:
            raise fault("duration", '"{text}" is not longer than zero', text=str(value)[:40])
        return number

    return checked


def _or_off(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value == "off" else parse(value)


_DURATION_FORMAT = Format("a duration", "write 500ms, 15s, 1m30s or 2h")
_POSITIVE_DURATION = r"^(?=.*[1-9])" + DURATION_PATTERN[1:]

Duration: TypeAlias = Annotated[
    float,
    PlainValidator(parse_duration),
    PlainSerializer(format_duration),
    text_schema(DURATION_PATTERN),
    _DURATION_FORMAT,
]
PositiveDuration: TypeAlias = Annotated[
    float,
    PlainValidator(_positive(parse_duration)),
    PlainSerializer(format_duration),
    text_schema(_POSITIVE_DURATION),
    _DURATION_FORMAT,
]
DurationOrOff: TypeAlias = Annotated[
    float | None,
    PlainValidator(_or_off(_positive(parse_duration))),
    PlainSerializer(format_duration),
    text_schema(_POSITIVE_DURATION, off=True),
    _DURATION_FORMAT,
]


# Sizes ----------------------------------------------------------------------------------------------------------------

SIZE_PATTERN = r"^[1-9][0-9]{0,11}(B|KiB|MiB|GiB)$"
_SIZE = re.compile(r"([1-9][0-9]{0,11})(B|KiB|MiB|GiB)\Z")
_UNIT_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def parse_size(value: Any) -> int:
    """Convert `512B`, `64KiB`, `10MiB` or `1GiB` to bytes. The units are the binary ones of IEC 80000-13.

    Raises PydanticCustomError for any other text.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise fault("size", '{number} has no unit; perhaps "{text}"', number=value, text=format_size(value))
    text = text_of(value, "a size with its unit", "64KiB or 10MiB")
    match = _SIZE.match(text)
    if match is None:
        raise fault("size", '"{text}" is not a size{hint}', text=text[:40], hint=_size_hint(text))
    return int(match[1]) * _UNIT_BYTES[match[2]]


def _size_hint(text: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,11}) ?([kmg])(i?b)?", text.lower())
    return f'; perhaps "{match[1]}{match[2].upper()}iB"' if match else " (write 512B, 64KiB, 10MiB or 1GiB)"


def format_size(size: int | None) -> str:
    """The shortest text that `parse_size` converts back to this number of bytes; `off` for None."""
    if size is None:
        return "off"
    for unit in ("GiB", "MiB", "KiB"):
        if size % _UNIT_BYTES[unit] == 0:
            return f"{size // _UNIT_BYTES[unit]}{unit}"
    return f"{size}B"


_SIZE_FORMAT = Format("a size", "write 512B, 64KiB, 10MiB or 1GiB")

Size: TypeAlias = Annotated[
    int, PlainValidator(parse_size), PlainSerializer(format_size), text_schema(SIZE_PATTERN), _SIZE_FORMAT
]
SizeOrOff: TypeAlias = Annotated[
    int | None,
    PlainValidator(_or_off(parse_size)),
    PlainSerializer(format_size),
    text_schema(SIZE_PATTERN, off=True),
    _SIZE_FORMAT,
]


# Rates ----------------------------------------------------------------------------------------------------------------

RATE_PATTERN = r"^[1-9][0-9]{0,8}/(s|m|h)$"
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)\Z")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` events in every `seconds`, with a burst of `count`."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{ {1.0: 's', 60.0: 'm', 3600.0: 'h'}[self.seconds] }"


def parse_rate(value: Any) -> Rate:
    """Convert `100/s`, `20/m` or `1000/h` to a Rate. Raises PydanticCustomError for any other text."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise fault("rate", '{number} has no unit of time; perhaps "{number}/s"', number=value)
    text = text_of(value, "a rate", "100/s, 20/m or 1000/h")
    match = _RATE.match(text)
    if match is None:
        meant = re.sub(r"^([1-9][0-9]*) ?/ ?([smh])[a-z]*\Z", r"\1/\2", text)
        hint = f'; perhaps "{meant}"' if _RATE.match(meant) else " (write 100/s, 20/m or 1000/h)"
        raise fault("rate", '"{text}" is not a rate{hint}', text=text[:40], hint=hint)
    return Rate(int(match[1]), _SECONDS[match[2]])


RateLimit: TypeAlias = Annotated[
    Rate,
    PlainValidator(parse_rate),
    PlainSerializer(str),
    text_schema(RATE_PATTERN),
    Format("a rate", "write 100/s, 20/m or 1000/h"),
]


# Percentages ----------------------------------------------------------------------------------------------------------

PERCENTAGE_PATTERN = r"^([0-9]|[1-4][0-9]|50)%$"
_PERCENTAGE = re.compile(r"([0-9]|[1-4][0-9]|50)%\Z")


def parse_percentage(value: Any) -> float:
    """Convert `0%` to `50%` to a fraction, 0.0 to 0.5. Raises PydanticCustomError for any other text."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise fault("percentage", '{number} has no percent sign; perhaps "{number}%"', number=value)
    text = text_of(value, "a percentage", "10%")
    match = _PERCENTAGE.match(text)
    if match is None:
        raise fault("percentage", '"{text}" is not a percentage (write 0% to 50%, such as 10%)', text=text[:40])
    return int(match[1]) / 100


Percentage: TypeAlias = Annotated[
    float,
    PlainValidator(parse_percentage),
    PlainSerializer(lambda fraction: f"{round(fraction * 100)}%"),
    text_schema(PERCENTAGE_PATTERN),
    Format("a percentage", "write 0% to 50%, such as 10%"),
]


# Counts ---------------------------------------------------------------------------------------------------------------

MAX_COUNT = 1_000_000
MAX_WORKERS = 256


def parse_count(value: Any, most: int = MAX_COUNT) -> int:
    """Return a number of things, from 1 to `most`. Raises PydanticKnownError for any other value."""
    number = to_int(value)
    if type(number) is not int:
        raise PydanticKnownError("int_type")
    if number < 1:
        raise PydanticKnownError("greater_than_equal", {"ge": 1})
    if number > most:
        raise PydanticKnownError("less_than_equal", {"le": most})
    return number


def parse_workers(value: Any) -> int | Literal["auto"]:
    """Return a number of workers, from 1 to MAX_WORKERS, or `auto`. Raises PydanticKnownError for any other value."""
    return "auto" if value == "auto" else parse_count(value, MAX_WORKERS)


WorkerCount: TypeAlias = Annotated[
    int | Literal["auto"],
    PlainValidator(parse_workers),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}]}),
    Format("a number of workers", "write an integer, or auto"),
]

CountOrOff: TypeAlias = Annotated[
    int | None,
    PlainValidator(_or_off(parse_count)),
    PlainSerializer(lambda count: "off" if count is None else count),
    WithJsonSchema({"anyOf": [{"const": "off"}, {"type": "integer", "minimum": 1, "maximum": MAX_COUNT}]}),
    Format("a count", "write an integer, or off"),
]
