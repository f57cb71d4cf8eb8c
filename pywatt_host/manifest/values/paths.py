"""What a prefix and a path template stand for. Mounts, the endpoint table, rules, `routes` and `validate` all use these
definitions, so that they cannot disagree.

- A prefix covers itself and everything below it: `/admin` covers `/admin`, `/admin/` and `/admin/users`, but not
  `/administrator`.
- `{rest:path}` stands for the rest of a path, which may be missing: `/admin/{rest:path}` matches what the prefix
  `/admin` covers.
- A path with a slash at its end and the same path without it are two spellings of one path. A template for one of them
  also stands for the other, unless that has a template of its own.
- Upper and lower case make no difference where `fold` gives the same text.
"""

from __future__ import annotations


def covers(prefix: str, path: str) -> bool:
    """Whether a path is the prefix or below it."""
    root = prefix.rstrip("/")
    return not root or path == root or path.startswith(root + "/")


def below(prefix: str, path: str) -> str:
    """The part of a path after a prefix that covers it, such as `/users`; empty for the prefix itself. A path that the
    prefix does not cover is returned as it is."""
    root = prefix.rstrip("/")
    return path[len(root) :] if root and covers(root, path) else path


def everything_below(prefix: str) -> str:
    """The template that matches what the prefix covers."""
    return f"{prefix.rstrip('/')}/{{path:path}}"


def is_parameter(segment: str) -> bool:
    """Whether a segment of a template is `{name}` or `{name:path}`."""
    return segment.startswith("{")


def is_rest(segment: str) -> bool:
    """Whether a segment of a template is `{name:path}`, which stands for the rest of the path."""
    return segment.startswith("{") and segment.endswith(":path}")


def shape(template: str) -> str:
    """The template without the names of its parameters, which make no difference for matching."""
    return "/".join(
        ("{x:path}" if is_rest(part) else "{x}") if is_parameter(part) else part for part in template.split("/")
    )


def other_spelling(template: str) -> str | None:
    """The template with a slash at its end where it has none, and without it where it has one. None where the template
    stands for both spellings already, and for `/`."""
    if template == "/" or is_rest(template.rpartition("/")[2]):
        return None
    return template[:-1] if template.endswith("/") else template + "/"


def overlap(one: str, other: str) -> bool:
    """Whether any path, in either spelling, matches both templates."""
    parts, others = _segments(one), _segments(other)
    for number in range(max(len(parts), len(others))):
        part = parts[number] if number < len(parts) else None
        another = others[number] if number < len(others) else None
        if (part is not None and is_rest(part)) or (another is not None and is_rest(another)):
            return True
        if part is None or another is None:
            return False
        if part != another and not is_parameter(part) and not is_parameter(another):
            return False
    return True


def _segments(template: str) -> list[str]:
    """The segments of a template, without the empty one after a slash at its end."""
    segments = template.split("/")[1:]
    return segments[:-1] if segments[-1] == "" else segments


def fold(text: str) -> str:
    """The text without the difference between upper and lower case: equal for texts that `str.casefold`, `str.lower`,
    `str.upper` or `re.IGNORECASE` takes for equal.

    Regular expressions and `str.upper` also take the Turkish letters for an i: without a dot (U+0131), and as a
    capital with one (U+0130), whose lower case has its dot as a character of its own.
    """
    folded = text.casefold()
    return folded if folded.isascii() else folded.replace("\u0131", "i").replace("i\u0307", "i")
