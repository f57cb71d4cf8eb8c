"""Which hosts a host answers to: from its manifest, and in a child of `dev` and `up` from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from pywatt_host.http.allowed_hosts import LOCAL_HOSTS, AllowedHosts, AllowedOrigins, HostCheck
from pywatt_host.manifest.model import Manifest


class HostsOf:
    """The hosts of a manifest. In a child of `dev` or `up` (`local`), loopback names are allowed as well, and those
    names alone where the manifest has no list; everywhere else any host is, where it has none."""

    def __init__(self, manifest: Manifest, environ: Mapping[str, str]) -> None:
        further = environ.get(LOCAL_HOSTS)
        self.local = further is not None
        self._manifest = manifest
        self._further = [name for name in (further or "").split(",") if name]
        declared = manifest.server.allowed_hosts
        if declared is None:
            declared = () if self.local else ("*",)
        self.allowed = AllowedHosts([*declared, *self._further], loopback=self.local)

    def public_check(self) -> HostCheck | None:
        """The check of the public listeners; None where any host is allowed."""
        if self.allowed.any:
            return None
        manifest, http = self._manifest, self._manifest.channels.http
        # Modules send messages to an address. The path takes no request of a browser.
        every = [http.path] if http is not None else []
        addresses: list[str] = []
        if manifest.server.admin is None:
            every += _probes(manifest) if manifest.health.enabled else []
            addresses += [manifest.metrics.path] if manifest.metrics.enabled else []
        return HostCheck(self.allowed, every, addresses)

    def admin_check(self) -> HostCheck | None:
        """The check of the admin listener, whose names are not those of the public one."""
        if not self.local:
            return None
        paths = [*_probes(self._manifest), self._manifest.metrics.path]
        return HostCheck(AllowedHosts(self._further, loopback=True), addresses=paths)

    def origins(self) -> AllowedOrigins | None:
        """The origins of WebSockets; None where they are not checked."""
        if not self.local:
            return None
        cors = self._manifest.server.cors
        if cors is None:
            return AllowedOrigins(self.allowed)
        return AllowedOrigins(self.allowed, cors.allow_origins, cors.allow_origin_regex)


def _probes(manifest: Manifest) -> list[str]:
    health = manifest.health
    return [health.path, health.liveness, health.readiness]
