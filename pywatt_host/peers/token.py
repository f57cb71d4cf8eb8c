"""The token of the TCP channel, and what happens to connections when it rotates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.peers.reconnecting import Connector, Reconnector, Replacement
from pywatt_host.protocol.messages import Init
from pywatt_host.service import Prepared


class ChannelToken:
    """The token of the TCP channel: from the manifest as it is, made of secrets, or the orchestrator's."""

    def __init__(self, manifest: Manifest, init: Init | None, secret_values: Callable[[], Mapping[str, str]]) -> None:
        tcp = manifest.channels.tcp
        self._declared = tcp.token if tcp is not None else None
        self._offered = init.auth_token if init is not None else None
        self._secret_values = secret_values

    def own(self) -> str | None:
        """`channels.tcp.token`, or the orchestrator's token where that is not declared."""
        return self.render(self._secret_values()) if self._declared is not None else self._offered

    def render(self, secret_values: Mapping[str, str]) -> str | None:
        """`channels.tcp.token` with these values of the secrets in it."""
        if isinstance(self._declared, SecretTemplate):
            return self._declared.render(secret_values)
        return self._declared

    @property
    def names(self) -> frozenset[str]:
        """The names of the secrets in it."""
        return frozenset(self._declared.names) if isinstance(self._declared, SecretTemplate) else frozenset()

    def offered(self) -> str | None:
        """The orchestrator's token, from its init message."""
        return self._offered

    def accepted(self) -> tuple[str, ...]:
        """The tokens that peers may present; none where no token is needed."""
        token = self.own()
        return () if token is None else (token,)


class TokenDependant:
    """Follows a rotation of the token: opens a connection with the new token before the old connection closes. Peers
    that connect to this module need the new token from the swap on."""

    name = "channels.tcp.token"

    def __init__(self, reconnector: Reconnector, token: ChannelToken) -> None:
        self.names = token.names
        self._reconnector = reconnector
        self._token = token

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        token = self._token.render(secret_values)
        pairs: list[tuple[Connector, Replacement | None]] = []
        for connector in self._reconnector.connectors:
            if connector.channel == "tcp":
                pairs.append((connector, await self._reconnector.prepare(connector, token)))
        return _Replacements(self._reconnector, pairs)


class _Replacements:
    def __init__(self, reconnector: Reconnector, pairs: list[tuple[Connector, Replacement | None]]) -> None:
        self._reconnector = reconnector
        self._pairs = pairs

    def commit(self) -> None:
        for connector, replacement in self._pairs:
            self._reconnector.replace(connector, replacement)

    def discard(self) -> None:
        for _, replacement in self._pairs:
            if replacement is not None:
                replacement.connection.wire.close()
