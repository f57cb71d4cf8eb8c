"""Texts with secrets in them, which are filled in when the host starts and when a secret rotates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias
from urllib.parse import quote

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from pywatt_host.manifest.values.scalars import fault, text_of

SECRET_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$"
_REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{secret:(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,127})\}")
_BEFORE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
# RFC 3986 section 3.2.1, and what drivers take in the query.
_PASSWORD = re.compile(
    r"(\A[A-Za-z][A-Za-z0-9+.-]*:(?://)?[^/?#@:]*:)([^/?#]+)(?=@)|([?&](?:password|passwd|sslpassword)=)([^&#]+)", re.I
)
_USER_INFO = re.compile(r"[^/?#,@]*@")


class SecretReference(NamedTuple):
    """The place of one secret in a text."""

    name: str


class SecretTemplate:
    """A text with at least one `${secret:NAME}`: `parts` are its literal texts and its references, in order. Frozen.

    `str()` is the text as a manifest writes it; the values are nowhere in it.
    """

    # No dataclass: pydantic would dump that as a mapping.
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
        """The template that a text spells; None when there is no `${secret:NAME}` in it. `$${` is a literal `${`."""
        parts: list[str | SecretReference] = []
        at = 0
        for match in _REFERENCE.finditer(text):
            parts.append(text[at : match.start()])
            parts.append(SecretReference(match["name"]) if match["name"] else "${")
            at = match.end()
        return cls.joined([*parts, text[at:]])

    @classmethod
    def joined(cls, parts: Sequence[str | SecretReference]) -> SecretTemplate | None:
        """The template of these parts, texts that stand side by side made one; None when they are texts alone."""
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
        """The secrets in it, each once, in order."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, SecretReference)))

    def render(self, values: Mapping[str, str]) -> str:
        """The text with the values in it. Raises KeyError, whose argument is the name, for a value that is not there.

        In the user, password or query of a URL a value is percent-encoded (RFC 3986), so that it cannot end its part.
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
        """Which parts stand in the user, password or query of a URL."""
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
    """The parts as one text, with a letter for each secret."""
    return "".join("s" if isinstance(part, SecretReference) else part for part in parts)


def _delimits(before: str, after: str) -> bool:
    """Whether what stands between the two is in the user, password or query of a URL."""
    inside = before.rpartition("://")[2]
    if "#" in inside:
        return False
    if "?" in inside:
        return True
    return "/" not in inside and "@" not in inside and _USER_INFO.match(after) is not None


class SecretCapable:
    """Marks a value in which `${secret:NAME}` may stand."""


class Sensitive:
    """Marks a value that is a secret itself where it is written out: it is shown as ***."""

    def shown(self, text: str) -> str:
        return "***"

    def secrets(self, text: str) -> list[str]:
        """What in it is secret."""
        return [text]


class SensitiveUrl(Sensitive):
    """Marks a URL whose password is a secret where it is written out."""

    def shown(self, text: str) -> str:
        return _PASSWORD.sub(lambda match: f"{match[1] or match[3]}***", text)

    def secrets(self, text: str) -> list[str]:
        return [match[2] or match[4] for match in _PASSWORD.finditer(text)]


def _secret_text(value: Any) -> str | SecretTemplate:
    if isinstance(value, SecretTemplate):
        return value
    return str(text_of(value, "a text", "${secret:NAME}"))


def _env_text(value: Any) -> str | SecretTemplate:
    if isinstance(value, SecretTemplate):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise fault("type", "a text, a number or a bool is wanted, such as prod")


_AS_TEXT = PlainSerializer(str, when_used="json")  # in Python it stays a template

SecretText: TypeAlias = Annotated[
    str | SecretTemplate, PlainValidator(_secret_text), _AS_TEXT, WithJsonSchema({"type": "string"}), SecretCapable()
]
# Scalars become the text that YAML would print for them; the environment knows nothing else.
SecretEnvText: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_env_text),
    _AS_TEXT,
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
    SecretCapable(),
]


def _token(value: Any) -> str | SecretTemplate:
    token = _secret_text(value)
    if token == "":
        raise fault("length", "the text is empty")
    return token


SecretToken: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_token),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "minLength": 1}),
    SecretCapable(),
    Sensitive(),
]
