"""`wsgi.errors`: the text stream of PEP 3333 for what an application reports, as records of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

log = logging.getLogger("pywatt.wsgi")

_LONGEST_LINE = 8192  # characters that are kept of a line which has not ended; a longer one becomes several records
_LONGEST_RECORD = 64 * 1024  # characters; more lines become several records
_TRACEBACK = "Traceback (most recent call last):"
# What the module `traceback` writes between the tracebacks of an exception and of its cause.
_CHAINS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


class ErrorLog:
    """`wsgi.errors` of one request: a text stream.

    The complete lines of one `write` are one record of level error. A traceback is one record as well, also where it is
    written line by line: it is kept until the next text that does not belong to it, a `flush`, or the end of the
    request. Text without a line end is kept until the line ends, a `flush`, or the end of the request. Blank lines
    alone are no record.
    """

    __slots__ = ("_rest", "_traceback")

    def __init__(self) -> None:
        self._rest = ""  # of a line that has not ended
        self._traceback = ""  # complete lines of a traceback that may go on

    @property
    def unwritten(self) -> bool:
        """Whether text is kept that is not in the log yet."""
        return bool(self._rest or self._traceback)

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors is a text stream: write str, not {type(text).__name__}")
        lines, end, rest = (self._rest + text).rpartition("\n")
        self._rest = rest
        if end:
            self._take(lines + end)
        if len(self._rest) > _LONGEST_LINE:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        rest, self._rest = self._rest, ""
        if rest:
            self._take(rest)
        ended, self._traceback = self._traceback, ""
        _emit(ended)

    def _take(self, lines: str) -> None:
        if self._traceback and not _goes_on(self._traceback, lines):
            ended, self._traceback = self._traceback, ""
            _emit(ended)
        if self._traceback or _TRACEBACK in lines:
            self._traceback += lines
            if len(self._traceback) > _LONGEST_RECORD:
                ended, self._traceback = self._traceback, ""
                _emit(ended)
        else:
            _emit(lines)


def _goes_on(traceback: str, lines: str) -> bool:
    """Whether lines belong to the traceback before them.

    Its frames are indented, and one line that is not indented names the exception. Then only the traceback of the
    exception that follows from this one can come, behind a blank line.
    """
    if lines[0] in " \t\r\n|+" or lines.startswith((_TRACEBACK, *_CHAINS)):
        return True
    last = traceback.rstrip().rpartition("\n")[2]
    return last[:1] in " \t" or last.startswith((_TRACEBACK, *_CHAINS))


def _emit(text: str) -> None:
    text = text.replace("\r\n", "\n").strip("\n")
    while text and not text.isspace():
        piece = text
        if len(text) > _LONGEST_RECORD:
            end = text.rfind("\n", 0, _LONGEST_RECORD)
            piece = text[: end if end > 0 else _LONGEST_RECORD]
        text = text[len(piece) :].lstrip("\n")
        log.error("%s", piece)
