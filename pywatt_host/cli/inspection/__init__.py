"""Inspects a manifest's applications in a child process: which ones cannot be imported, and which routes they have.

A user's module may do anything when it is imported. It is therefore imported in a process of its own with a time limit.
Factories are called only with `build`.
"""

from pywatt_host.cli.inspection.inspecting import describe, inspect_apps, serve_once
from pywatt_host.cli.inspection.result import ChildPlace, Fault, Inspection, Request, Seen, Served

__all__ = ["ChildPlace", "Fault", "Inspection", "Request", "Seen", "Served", "describe", "inspect_apps", "serve_once"]
