"""Strings that refer to secrets. The values are filled in when the host starts and when a secret rotates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from pywatt_host.manifest.values.scalars import Format, fault, text_of

SECRET_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"
SecretName: TypeAlias = Annotated[
    str,
    Field(pattern=SECRET_NAME),
    Format(
        "a secret name",
        "use letters, digits, dots, dashes and underscores; start with a letter or underscore; at most 128 characters",
    ),
]
_REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{secret:(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,127})\}")
_BEFORE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
# RFC 3986 section 3.2.1, and what drivers take in the query.
_PASSWORD = re.compile(
    r"(\A[A-Za-z][A-Za-z0-9+.-]*:(?://)?[^/?#@:]*:)([^/?#]+)(?=@)|([?&](?:password|passwd|sslpassword)=)([^&#]+)", re.I
)
_USER_INFO = re.compile(r"[^/?#,@]*@")


class SecretReference(NamedTuple):
    """The place of one secret in a string."""

    name: str


class SecretTemplate:
    """A frozen string with at least one `${secret:NAME}`. `parts` are its literal texts and its references, in order.

    `str()` gives the text as a manifest contains it. It never contains the value of a secret.
    """

    # Not a dataclass, because pydantic would dump one as a mapping.
    __slots__ = ("parts",)

    parts: tuple[str | SecretReference, ...]

    def __init__(self, parts: tuple[str | SecretReference, ...]) -> None:
        object.__setattr__(self, "parts", parts)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a SecretTemplate is frozen, so {name} cannot be set")

    def __reduce__(self) -> tuple[type[SecretTemplate], tuple[tuple[str | SecretReference, ...]]]:
        return SecretTemplate, (self.parts,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretTemplate) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    @classmethod
    def parse(cls, text: str) -> SecretTemplate | None:
        """Parse a text; None if it contains no `${secret:NAME}`. `$${` is a literal `${`."""
        parts: list[str | SecretReference] = []
        at = 0
        for match in _REFERENCE.finditer(text):
            parts.append(text[at : match.start()])
            parts.append(SecretReference(match["name"]) if match["name"] else "${")
            at = match.end()
        return cls.joined([*parts, text[at:]])

    @classmethod
    def joined(cls, parts: Sequence[str | SecretReference]) -> SecretTemplate | None:
        """Make a template of these parts and merge adjacent texts; None if none of the parts is a reference."""
        if not any(isinstance(part, SecretReference) for part in parts):
            return None
        merged: list[str | SecretReference] = []
        for part in parts:
            if isinstance(part, str) and merged and isinstance(merged[-1], str):
                merged[-1] += part
            elif part:
                merged.append(part)
        return cls(tuple(merged))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the secrets in the template, each once, in order."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, SecretReference)))

    def render(self, values: Mapping[str, str]) -> str:
        """The text with the values filled in. Raises KeyError, with the name of the secret, for a missing value.

        In the user, password or query of a URL, a value is percent-encoded (RFC 3986), so that it cannot end that part.
        """
        encoded = self._encoded()
        texts = []
        for number, part in enumerate(self.parts):
            if isinstance(part, SecretReference):
                value = values[part.name]
                texts.append(quote(value, safe="") if number in encoded else value)
            else:
                texts.append(part)
        return "".join(texts)

    def _encoded(self) -> set[int]:
        """The numbers of the parts that are in the user, password or query of a URL."""
        first = self.parts[0]
        if isinstance(first, SecretReference) or not _BEFORE_SCHEME.match(first):
            return set()
        return {
            number
            for number, part in enumerate(self.parts)
            if isinstance(part, SecretReference)
            and _delimits(_literal(self.parts[:number]), _literal(self.parts[number + 1 :]))
        }

    def __str__(self) -> str:
        return "".join(
            f"${{secret:{part.name}}}" if isinstance(part, SecretReference) else part.replace("${", "$${")
            for part in self.parts
        )

    def __repr__(self) -> str:
        return f"SecretTemplate({str(self)!r})"


def _literal(parts: Sequence[str | SecretReference]) -> str:
    """The parts as one text, with a letter in place of each secret."""
    return "".join("s" if isinstance(part, SecretReference) else part for part in parts)


def _delimits(before: str, after: str) -> bool:
    """Whether a value between the two texts is in the user, password or query of a URL."""
    inside = before.rpartition("://")[2]
    if "#" in inside:
        return False
    if "?" in inside:
        return True
    return "/" not in inside and "@" not in inside and _USER_INFO.match(after) is not None


class SecretCapable:
    """Marks a value that may contain `${secret:NAME}`."""


class Sensitive:
    """Marks a value that is itself a secret when the manifest contains it as plain text. It is shown as ***."""

    def shown(self, text: str) -> str:
        return "***"

    def secrets(self, text: str) -> list[str]:
        """The secret parts of the text."""
        return [text]


class SensitiveUrl(Sensitive):
    """Marks a URL whose password is a secret when the manifest contains it as plain text."""

    def shown(self, text: str) -> str:
        return _PASSWORD.sub(lambda match: f"{match[1] or match[3]}***", text)

    def secrets(self, text: str) -> list[str]:
        return [match[2] or match[4] for match in _PASSWORD.finditer(text)]


def _secret_text(value: Any) -> str | SecretTemplate:
    if isinstance(value, SecretTemplate):
        return value
    return str(text_of(value, "a string", "${secret:NAME}"))


def without_nul(text: str) -> str:
    """The text of an environment variable. Raises PydanticCustomError if it contains NUL, which ends such a text."""
    if "\0" in text:
        raise fault("control-character", "the value of an environment variable cannot contain NUL (remove it)")
    return text


def _env_text(value: Any) -> str | SecretTemplate:
    if isinstance(value, SecretTemplate):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return without_nul(str(value))
    raise fault("type", "expected a string, a number or a bool, such as prod")


ENV_NAME_PATTERN = r"^[^=\u0000]+$"
ENV_VALUE_PATTERN = r"^[^\u0000]*$"

_AS_TEXT = PlainSerializer(str, when_used="json")  # a dump to Python keeps the template

SecretText: TypeAlias = Annotated[
    str | SecretTemplate, PlainValidator(_secret_text), _AS_TEXT, WithJsonSchema({"type": "string"}), SecretCapable()
]
# Scalars become the text that YAML would print for them, because environment variables are text.
SecretEnvText: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_env_text),
    _AS_TEXT,
    WithJsonSchema({"type": ["string", "number", "boolean"], "pattern": ENV_VALUE_PATTERN}),
    SecretCapable(),
]
EnvName: TypeAlias = Annotated[
    str,
    Field(pattern=ENV_NAME_PATTERN),
    Format("a name of an environment variable", "it has at least one character, and no ="),
]


def _token(value: Any) -> str | SecretTemplate:
    token = _secret_text(value)
    if token == "":
        raise fault("length", "the value is empty")
    return token


SecretToken: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_token),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "minLength": 1}),
    SecretCapable(),
    Sensitive(),
]
