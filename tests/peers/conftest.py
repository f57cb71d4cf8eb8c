"""Each test of peers runs on both event loops, and on each kind of channel."""

from __future__ import annotations

from tests.channels.conftest import certificates, folder, place, quick, run

__all__ = ["certificates", "folder", "place", "quick", "run"]
