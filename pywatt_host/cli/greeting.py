"""Before a module under an orchestrator loads its manifest: whether it is under one, and what that says first."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from pywatt_host.cli.options import Selection
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.load import InitLayer
from pywatt_host.manifest.model import Channels

if TYPE_CHECKING:
    from pywatt_host.channels.stdio import Descriptors, Handshake


def asked_for(orchestrated: bool) -> bool:
    """Whether the command line or the environment says that there is an orchestrator."""
    return orchestrated or "PYWATT_MODULE_ID" in os.environ


def greet(selection: Selection, *, insist: bool, descriptors: Descriptors | None = None) -> Handshake | None:
    """The orchestrator's init. From then on descriptors 0 and 1 lead nowhere near the protocol. None where the manifest
    has `channels.stdio: off`, unless to `insist`. `descriptors` are those of the protocol, where they are private
    already. Raises ProtocolError.

    How long to wait is in the manifest, whose variables may come with the init: so it is looked at before and after.
    """
    try:
        channels = selection.load(allow_unset=True).manifest.channels
    except ManifestError:
        channels = Channels()  # its faults are shown once everything is known
    if channels.stdio == "off" and not insist:
        return None
    stdio = import_module("pywatt_host.channels.stdio")
    handshake: Handshake = stdio.handshake(descriptors or stdio.private_descriptors(), channels.limits.handshake)
    return handshake


def layer_of(handshake: Handshake | None) -> InitLayer | None:
    """What the init says of the manifest."""
    if handshake is None:
        return None
    init = handshake.init
    return InitLayer(init.listen, init.module_id, dict(init.env), init.log_level)
