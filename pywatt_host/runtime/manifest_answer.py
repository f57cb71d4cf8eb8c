"""What a running host tells about its manifest over the control socket, for `pywatt-host diff`."""

from __future__ import annotations

from typing import Any

from pywatt_host.manifest import Manifest, dump


def manifest_answer(manifest: Manifest, generation: int) -> dict[str, Any]:
    """The answer to `GET /manifest`: the manifest in effect with every default, in which secrets in plain text are ***,
    what follows from it, and the number of the generation that serves."""
    return {
        "manifest": dump(manifest, masked=True),
        "module_id": manifest.module_id,
        "reload": manifest.server.reload_mode,
        "generation": generation,
    }
