"""The start order of a host: every service once, with its phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pywatt_host.runtime.phases import Phase, PhasedService
from pywatt_host.service import Service

if TYPE_CHECKING:
    from pywatt_host.build.parts import HostParts


def services(parts: HostParts) -> list[PhasedService]:
    """Every service of a host in the order in which they start; they stop in the reverse order. None stands for a
    service that the manifest does not need.

    The host adds those that exist only where it serves on its own sockets: CERTIFICATES, which starts after SECRETS,
    CONTROL, ADMIN and HTTP, which start between HEALTH and PEER_SERVER, and SYSTEMD, which starts last.
    """
    channels = parts.channels
    order: list[tuple[Phase, Sequence[Service | None]]] = [
        (Phase.CHANNELS, [channels]),
        (Phase.TRACES, [parts.tracing.service]),
        (Phase.SECRETS, [parts.rotation]),
        (Phase.PRIVATE_SERVERS, [parts.private_servers]),
        (Phase.CONNECTIONS, channels.connections),
        (Phase.AUTH, [parts.schemes]),
        (Phase.STORES, [parts.bridge, parts.stores]),
        (Phase.CLIENTS, [parts.tokens, parts.outbound]),
        (Phase.STATE, [parts.wsgi_threads, parts.user_state]),
        (Phase.APPLICATION, [parts.applications]),
        (Phase.HOOKS, [parts.hooks]),
        (Phase.TASKS, [parts.tasks]),
        (Phase.MESSAGES, channels.answering),
        (Phase.EDGE, [parts.edge]),
        (Phase.HEALTH, [parts.checks]),
        (Phase.PEER_SERVER, [channels.server]),
    ]
    return [PhasedService(phase, service) for phase, listed in order for service in listed if service is not None]
