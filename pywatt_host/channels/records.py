"""Logs records that are not part of the protocol: a bounded number of lines, each of bounded length."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.channels")

_MAX_LINES_PER_MINUTE = 100
_MINUTE = 60.0  # seconds
_SHOWN = 80  # bytes of a bad record that a log line shows
_SEARCHED_FOR_SECRETS = 64 * 1024  # bytes


class BadRecords:
    """Logs at most 100 bad records a minute, then how many more there were.

    There is one for each peer, or a `shared` one for all connections of a kind: then the end of a connection does not
    log the number of suppressed lines. `mask` removes secrets from a text.
    """

    def __init__(
        self,
        peer: str,
        clock: Callable[[], float] = time.monotonic,
        mask: Callable[[str], str] | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self.peer = peer
        self.count = 0
        self._mask = mask
        self._shared = shared
        self._clock = clock
        self._since = 0.0
        self._logged = 0
        self._suppressed = 0

    def add(self, why: str, data: bytes = b"") -> None:
        """Log one more bad record. The log shows `data` escaped and cut."""
        if self._may_log():
            shown = f": {self._shown(data)}" if data else ""
            logger.warning(
                "%s sent data that is not part of the protocol: %s%s", self.peer, why, shown, extra={"peer": self.peer}
            )

    def refused(self, why: str) -> None:
        """Log that the peer, or one of them, was refused."""
        if self._may_log():
            logger.warning("%s was refused: %s", self.peer, why, extra={"peer": self.peer})

    def _may_log(self) -> bool:
        self.count += 1
        now = self._clock()
        if now - self._since >= _MINUTE:
            self.summary()
            self._since, self._logged = now, 0
        if self._logged >= _MAX_LINES_PER_MINUTE:
            self._suppressed += 1
            return False
        self._logged += 1
        return True

    def _shown(self, data: bytes) -> str:
        if self._mask is None:
            return cut(data[: _SHOWN + 1].decode("latin-1"), _SHOWN)
        # Masked before it is cut and escaped: half of a secret would not be recognised.
        return cut(self._mask(data[:_SEARCHED_FOR_SECRETS].decode("utf-8", "backslashreplace")), _SHOWN)

    def summary(self) -> None:
        """Log how many lines were suppressed, if any."""
        if self._suppressed:
            logger.warning("%s: %d more such records", self.peer, self._suppressed, extra={"peer": self.peer})
            self._suppressed = 0

    def connection_ended(self) -> None:
        """A connection that these records are about has ended."""
        if not self._shared:
            self.summary()
