"""From the manifest's `channels` and an init message to the connections that this module opens and accepts."""

from __future__ import annotations

from pathlib import Path

from pywatt_host.channels.sockets import UnixTarget, parse_target
from pywatt_host.exceptions import BindError, ChannelError
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.channels import IpcChannel, TcpChannel
from pywatt_host.manifest.values import UnixAddress
from pywatt_host.net.listeners import bind
from pywatt_host.net.private_folders import HINT, make_private
from pywatt_host.net.tls import client_context, server_context
from pywatt_host.peers.acceptor import PeerListener
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.peers.server import PeerServer
from pywatt_host.peers.token import ChannelToken
from pywatt_host.protocol.messages import Init, IpcChannelOffer, TcpChannelOffer


def connectors(manifest: Manifest, init: Init | None, token: ChannelToken) -> list[Connector]:
    """The channels to the orchestrator: those that init offers, with what the manifest says about them, and those that
    only the manifest names. Raises ChannelError."""
    channels = manifest.channels
    found: list[Connector] = []
    ipc, offered_ipc = channels.ipc, init.ipc_channel if init is not None else None
    path = ipc.connect if ipc is not None else None
    if path is not None or offered_ipc is not None:
        where = str(manifest.resolve(path)) if path is not None else offered_ipc.socket_path  # type: ignore[union-attr]
        required = _required(ipc if path is not None else None, offered_ipc)
        found.append(Connector(UnixTarget(where), token.offered, required))
    tcp, offered_tcp = channels.tcp, init.tcp_channel if init is not None else None
    address = tcp.connect if tcp is not None else None
    if address is not None or offered_tcp is not None:
        tls = tcp.tls if tcp is not None else None
        if init is not None and init.security_level == "Mtls" and (tls is None or tls.cert is None):
            raise ChannelError("tcp", "", "the orchestrator asks for client certificates: give channels.tcp.tls.cert")
        wants_tls = (address is not None and tls is not None) or bool(offered_tcp and offered_tcp.tls_enabled)
        target = parse_target(
            str(address) if address is not None else offered_tcp.address,  # type: ignore[union-attr]
            client_context(tls, manifest.resolve) if wants_tls else None,
            tls.server_name if tls is not None else None,
        )
        required = _required(tcp if address is not None else None, offered_tcp)
        found.append(Connector(target, token.own, required, needs_secrets=bool(token.names)))
    return found


def _required(*found: IpcChannel | TcpChannel | IpcChannelOffer | TcpChannelOffer | None) -> bool:
    return any(each.required for each in found if each is not None)


def bind_listeners(manifest: Manifest, server: PeerServer, token: ChannelToken) -> None:
    """Bind the addresses in `channels` where peers connect. Raises BindError and ChannelError; nothing stays bound
    then."""
    ipc, tcp, directory = manifest.channels.ipc, manifest.channels.tcp, manifest.directory
    try:
        if ipc is not None and ipc.listen is not None:
            own = directory / ".pywatt"  # where a decorator listens that names no path
            if own in (directory / ipc.listen).parents:
                _make_private(own, directory / ipc.listen)
            address = UnixAddress(ipc.listen, int(ipc.mode, 8))
            for listener in bind([address], key="channels.ipc.listen", directory=directory, backlog=128):
                server.listeners.append(PeerListener("ipc", listener))
        if tcp is not None and tcp.listen is not None:
            context = server_context(tcp.tls, manifest.resolve) if tcp.tls is not None else None
            for listener in bind([tcp.listen], key="channels.tcp.listen", directory=directory, backlog=128):
                server.listeners.append(PeerListener("tcp", listener, token.accepted, context))
    except BaseException:
        server.close()
        raise


def _make_private(folder: Path, path: Path) -> None:
    """Make the folder of the socket at `path`. Raises BindError if other users may change what is in it."""
    try:
        reason = make_private(folder)
    except OSError:
        return  # binding reports the reason
    if reason:
        raise BindError(f"unix:{path}", "channels.ipc.listen", f"the folder {folder} is not private: {reason}", HINT)
