"""The document that the decorator was first described in, and its Python blocks, each as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parent / "pywatt-sdk.md").read_text(encoding="utf-8")
# In the order of the document.
(
    QUICK_START,
    SIMPLE_API,
    SECRETS,
    DISCOVERY,
    METRICS,
    JWT,
    STORES,
    STATE_BUILDER,
    CHANNELS,
    MESSAGES,
    FASTAPI,
    FLASK,
    TESTING,
) = BLOCKS = tuple(re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
