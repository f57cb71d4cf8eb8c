"""What `pywatt-host export` writes: files that run a module under systemd, Compose or Kubernetes, with probes, ports,
times and secrets as its manifest has them."""

from pywatt_host.export.compose import compose
from pywatt_host.export.facts import Exported, Facts, Wishes
from pywatt_host.export.kubernetes import kubernetes
from pywatt_host.export.reading import read
from pywatt_host.export.systemd import systemd

__all__ = ["Exported", "Facts", "Wishes", "compose", "kubernetes", "read", "systemd"]
