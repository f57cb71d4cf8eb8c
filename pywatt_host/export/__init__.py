"""What `pywatt-host export` writes: files that run a module under systemd, Compose or Kubernetes, and
the Dockerfile of its image. Probes, ports, timeouts and secrets come from the manifest."""

from pywatt_host.export.compose import compose
from pywatt_host.export.dockerfile import dockerfile
from pywatt_host.export.facts import Exported, ExportOptions, Facts
from pywatt_host.export.kubernetes import kubernetes
from pywatt_host.export.reading import read
from pywatt_host.export.systemd import systemd

__all__ = ["ExportOptions", "Exported", "Facts", "compose", "dockerfile", "kubernetes", "read", "systemd"]
