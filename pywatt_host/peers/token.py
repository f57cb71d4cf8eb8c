"""The token of the TCP channel, and what happens to connections when it rotates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.peers.client import Connector, PeerClient, Replacement
from pywatt_host.protocol.messages import Init
from pywatt_host.service import Prepared

if TYPE_CHECKING:
    pass


class ChannelToken:
    """The token of the TCP channel: written out, from secrets, or the orchestrator's own."""

    def __init__(self, manifest: Manifest, init: Init | None, secret_values: Callable[[], Mapping[str, str]]) -> None:
        tcp = manifest.channels.tcp
        self._given = tcp.token if tcp is not None else None
        self._offered = init.auth_token if init is not None else None
        self._texts = secret_values

    def own(self) -> str | None:
        """`channels.tcp.token`, else the orchestrator's."""
        return self.render(self._texts()) if self._given is not None else self._offered

    def render(self, secret_values: Mapping[str, str]) -> str | None:
        if isinstance(self._given, SecretTemplate):
            return self._given.render(secret_values)
        return self._given

    @property
    def names(self) -> frozenset[str]:
        """The secrets that it is made of."""
        return frozenset(self._given.names) if isinstance(self._given, SecretTemplate) else frozenset()

    def offered(self) -> str | None:
        """The orchestrator's."""
        return self._offered

    def accepted(self) -> tuple[str, ...]:
        """Those that peers may present."""
        token = self.own()
        return () if token is None else (token,)


class TokenDependant:
    """A connection made with the token is made anew with the new one, before the old one goes. Peers that connect to us
    are asked for the new one from the swap on."""

    name = "channels.tcp.token"

    def __init__(self, uplink: PeerClient, token: ChannelToken) -> None:
        self.names = token.names
        self._uplink = uplink
        self._token = token

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        pairs: list[tuple[Connector, Replacement | None]] = []
        for connector in self._uplink.connectors:
            if connector.target.channel == "tcp":
                pairs.append((connector, await self._uplink.prepare(connector, self._token.render(secret_values))))
        return _Replacements(self._uplink, pairs)


class _Replacements:
    def __init__(self, uplink: PeerClient, pairs: list[tuple[Connector, Replacement | None]]) -> None:
        self._uplink = uplink
        self._pairs = pairs

    def commit(self) -> None:
        for connector, replacement in self._pairs:
            self._uplink.replace(connector, replacement)

    def discard(self) -> None:
        for _, replacement in self._pairs:
            if replacement is not None:
                replacement.conversation.wire.close()
