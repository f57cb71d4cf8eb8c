"""What `run` does before it loads the manifest: decides whether there is an orchestrator, and reads its init."""

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
    """Whether the command line or the environment says that an orchestrator has started this process."""
    return orchestrated or "PYWATT_MODULE_ID" in os.environ


def greet(selection: Selection, *, insist: bool, descriptors: Descriptors | None = None) -> Handshake | None:
    """Do the handshake and return it with the orchestrator's init. Afterwards file descriptors 0 and 1 no longer belong
    to the protocol. Returns None if the manifest has `channels.stdio: off`, unless `insist` is set. `descriptors` are
    the protocol's private descriptors, if they exist already. Raises ProtocolError.

    The timeout of the handshake is in the manifest, whose variables may come with the init. The manifest is therefore
    loaded before the handshake and again after it.
    """
    try:
        channels = selection.load(allow_unset=True).manifest.channels
    except ManifestError:
        channels = Channels()  # the errors are shown when the manifest is loaded again, after the handshake
    if channels.stdio == "off" and not insist:
        return None
    stdio = import_module("pywatt_host.channels.stdio")
    handshake: Handshake = stdio.handshake(descriptors or stdio.private_descriptors(), channels.limits.handshake)
    return handshake


def layer_of(handshake: Handshake | None) -> InitLayer | None:
    """The layer of the manifest that the init provides."""
    if handshake is None:
        return None
    init = handshake.init
    return InitLayer(init.listen, init.module_id, dict(init.env), init.log_level, init.auth_token is not None)
