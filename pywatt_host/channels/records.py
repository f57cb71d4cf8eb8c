"""What a peer sends that is not the protocol: a bounded number of log records, each of bounded length."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.channels")

_MOST_A_MINUTE = 100
_MINUTE = 60.0
_SHOWN = 80  # octets of a bad record that a log line shows
_LOOKED_AT = 64 * 1024  # octets in which secrets are looked for


class BadRecords:
    """Logs at most 100 bad records a minute, then how many more there were. One for each peer."""

    def __init__(
        self, peer: str, clock: Callable[[], float] = time.monotonic, mask: Callable[[str], str] | None = None
    ) -> None:
        self.peer = peer
        self.mask = mask
        self._clock = clock
        self._since = 0.0
        self._logged = 0
        self._held_back = 0
        self.count = 0

    def add(self, why: str, octets: bytes = b"") -> None:
        """One more. `octets` are shown escaped and cut."""
        self.count += 1
        now = self._clock()
        if now - self._since >= _MINUTE:
            self.summary()
            self._since, self._logged = now, 0
        if self._logged >= _MOST_A_MINUTE:
            self._held_back += 1
            return
        self._logged += 1
        extra = {"peer": self.peer}
        if octets:
            if self.mask is None:
                text = octets[: _SHOWN + 1].decode("latin-1")
            else:  # before it is cut and escaped: the half of a secret is known to nobody
                text = self.mask(octets[:_LOOKED_AT].decode("utf-8", "backslashreplace"))
            shown = cut(text, _SHOWN)
            logger.warning("%s sent what is not the protocol: %s: %s", self.peer, why, shown, extra=extra)
        else:
            logger.warning("%s sent what is not the protocol: %s", self.peer, why, extra=extra)

    def summary(self) -> None:
        """Say how many were not logged, if any."""
        if self._held_back:
            logger.warning("%s: %d more such records", self.peer, self._held_back, extra={"peer": self.peer})
            self._held_back = 0
