"""What `pywatt-host import` reads: configurations of other servers, which become manifests. Nothing in them is run."""

from pywatt_host.imports.findings import Finding, Place, UnreadableError, report
from pywatt_host.imports.sources import SOURCES, Imported, import_configuration

__all__ = ["SOURCES", "Finding", "Imported", "Place", "UnreadableError", "import_configuration", "report"]
