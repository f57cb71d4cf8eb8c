"""`explain`: what the code of a fault means, with an example and what to do. The text is that of docs/errors.md."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pywatt_host.cli.terminal import echo_json
from pywatt_host.manifest.problems import near_miss

PAGE = Path(__file__).with_name("errors.md")  # a link to docs/errors.md in a checkout, its text in a wheel
_MAX_WIDTH = 100  # characters

_SECTION = re.compile(r"^## (.*)\n", re.MULTILINE)
_CODE = re.compile(r"`([a-z0-9-]+)`\Z")
_GIVEN = re.compile(r"(?:.*\[)?([A-Za-z0-9_-]+)\]?\s*\Z", re.DOTALL)
_CURE = "*What to do:*"
_BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]*\)")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means, an example of what it is about, and what to do. The texts are Markdown without links."""

    code: str
    meaning: str
    example: str
    cure: str

    @property
    def summary(self) -> str:
        """The first sentence of the meaning."""
        return re.split(r"(?<=\.)\s", self.meaning, maxsplit=1)[0]


def explanations(page: Path = PAGE) -> dict[str, Explanation]:
    """All explanations by their code, in the order of the page."""
    titles_and_texts = _SECTION.split(page.read_text(encoding="utf-8"))[1:]
    found = {}
    for title, text in zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True):
        code = _CODE.match(title.strip())
        if code is not None:
            found[code[1]] = _explanation(code[1], text)
    return found


def _explanation(code: str, text: str) -> Explanation:
    before, _, cure = text.partition(_CURE)
    examples = [block["text"] for block in _BLOCK.finditer(before)]
    meaning = _BLOCK.sub("", before)
    return Explanation(code, _plain(meaning), "\n".join(examples).rstrip(), _plain(cure))


def _plain(markdown: str) -> str:
    """Markdown without links, and with one line for each paragraph."""
    paragraphs = re.split(r"\n{2,}", _LINK.sub(r"\1", markdown).strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


@click.command()
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print {code, meaning, example, cure}, or a list of all of them.")
def explain(code: str | None, as_json: bool) -> None:
    """Explain the code of a fault: what it means, an example, and what to do.

    Each line that `validate` and other commands print about a fault ends with its code in brackets. Without CODE, the
    command lists all codes.

    \b
    Examples:
      pywatt-host explain unknown-key
      pywatt-host explain
    """
    known = explanations()
    if code is None:
        if as_json:
            echo_json([asdict(each) for each in known.values()], ascii=False)
        else:
            click.echo(_listed(known))
        return
    found = known[_known(code, known)]
    if as_json:
        echo_json(asdict(found), ascii=False)
    else:
        click.echo(_shown(found))


def _known(given: str, known: Mapping[str, Explanation]) -> str:
    """The code that an argument names: a code, a code in brackets, or a line that ends with one."""
    match = _GIVEN.match(given)
    code = match[1].lower().replace("_", "-") if match is not None else ""
    if code in known:
        return code
    meant = near_miss(code, known)
    hint = f'did you mean "{meant}"?' if meant else "`pywatt-host explain` lists all codes"
    raise click.UsageError(f'there is no code "{given[:60]}" ({hint})')


def _listed(known: Mapping[str, Explanation]) -> str:
    width = max(map(len, known)) + 2
    room = max(20, shutil.get_terminal_size().columns - width)
    lines = [
        f"{code:{width}}{textwrap.shorten(each.summary, room, placeholder=' ...')}" for code, each in known.items()
    ]
    return "\n".join(lines)


def _shown(found: Explanation) -> str:
    width = min(_MAX_WIDTH, shutil.get_terminal_size().columns)
    parts = [click.style(found.code, bold=True), _filled(found.meaning, width)]
    if found.example:
        parts.append("Example:\n\n" + textwrap.indent(found.example, "    "))
    parts.append(_filled(f"What to do: {found.cure}", width))
    return "\n\n".join(parts)


def _filled(text: str, width: int) -> str:
    return "\n\n".join(
        textwrap.fill(paragraph, width, break_long_words=False, break_on_hyphens=False)
        for paragraph in text.split("\n\n")
    )
