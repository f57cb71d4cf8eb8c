"""build(): from a frozen manifest to a Host. It makes objects and touches nothing of the world."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywatt_host.app.state import InitData
from pywatt_host.build.parts import HostParts
from pywatt_host.build.services import services
from pywatt_host.manifest.model import Manifest
from pywatt_host.net.limits import Limits
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import standard_error
from pywatt_host.runtime.host import Host

if TYPE_CHECKING:
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.http.host_answers import HostAnswers
    from pywatt_host.peers.client import WorkerHandlers


def build(
    manifest: Manifest,
    environ: Mapping[str, str] | None = None,
    stream: LogStream | None = None,
    *,
    handshake: Handshake | None = None,
    trace: Path | None = None,
    objects: Mapping[str, Any] = MappingProxyType({}),
    init: InitData | None = None,
    explain: bool = False,
    limits: Limits | None = None,
    host_answers: HostAnswers | None = None,
    worker: WorkerHandlers | None = None,
) -> Host:
    """Make the Host that a manifest describes.

    `environ` (default: os.environ) is read for FORWARDED_ALLOW_IPS, for the sockets that systemd passes, for the place
    of the control socket, and by the secret source `env`. `stream` (default: standard error) takes the access log, and
    masks secrets from now on. `handshake` is what an orchestrator said on standard input; `trace` is a file to which
    everything said to it and to other modules is written, masked. `objects` maps import paths of the manifest to
    objects that need not be imported, such as a function decorated in this process. `init` is what the application sees
    as `app_state.init`, where it does not come from `handshake`. With `explain`, refusals of the host say which
    manifest key would change them. `limits` makes the limits on requests and their rates; by default they hold for this
    process. Where this host is a worker, `handshake` leads to its supervisor, `worker` answers it, and `host_answers`
    asks it for the answer to health, probes and metrics, so that every listener gives the answer of the whole host.

    Raises ChannelError for channels that cannot be made (such as missing TLS files), OSError for a trace that cannot be
    written.
    """
    environ = os.environ if environ is None else environ
    if handshake is not None:
        environ = {**environ, **handshake.init.env}
    parts = HostParts(
        manifest,
        environ,
        stream or standard_error(),
        handshake=handshake,
        trace=trace,
        objects=objects,
        init=init,
        explain=explain,
        limits=limits,
        host_answers=host_answers,
        worker=worker,
    )
    return Host(
        manifest,
        services=services(parts),
        edge=parts.edge,
        shutdown=parts.shutdown,
        channels=parts.channels,
        rotation=parts.rotation,
        schemes=parts.schemes,
        applications=parts.applications,
        state=parts.state,
        checks=parts.checks,
        tls=parts.tls,
        failed_handshakes=parts.failed_handshakes,
        status=parts.status,
        environ=environ,
        spans=parts.start_spans,
    )
