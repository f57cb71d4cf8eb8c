"""The order in which the services of a host start."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pywatt_host.service import Service


class Phase(IntEnum):
    """When a service starts. Phases start in the order in which they stand here and stop in the reverse order; services
    of one phase start in the order of the list that the host is given.

    Which service is in which phase is written in `build/services.py`. The phases CERTIFICATES, CONTROL, ADMIN, HTTP and
    SYSTEMD have services only where the host serves on its own sockets, see `Host.serve`.
    """

    CHANNELS = 1  # channels to the orchestrator that need no secret
    TRACES = 2  # spans are sent; at the stop the last ones leave, those of workers over their channel
    SECRETS = 3  # all declared secrets are fetched, and watched where they rotate
    CERTIFICATES = 4  # the certificates of the TLS listeners
    PRIVATE_SERVERS = 5  # database, cache and NATS servers for development
    CONNECTIONS = 6  # channels whose credentials are secrets, connections to other modules, NATS
    AUTH = 7  # keys that credentials are verified with
    STORES = 8  # databases and caches
    CLIENTS = 9  # HTTP clients and their OAuth tokens
    STATE = 10  # the state that the manifest's `state` function makes
    APPLICATION = 11  # the applications: imported, made, their lifespans started
    HOOKS = 12  # the application's start-up hooks
    TASKS = 13  # background tasks
    MESSAGES = 14  # from here on, messages and requests over channels are handled
    EDGE = 15  # the routes of the applications become the table of the edge
    HEALTH = 16  # health checks run
    CONTROL = 17  # the control socket
    ADMIN = 18  # the admin listener
    HTTP = 19  # the public listeners, and the one that redirects to them
    PEER_SERVER = 20  # the sockets where other modules connect
    SYSTEMD = 21  # systemd is told that the service is ready


class PhasedService(NamedTuple):
    """A service and the phase in which it starts."""

    phase: Phase
    service: Service
