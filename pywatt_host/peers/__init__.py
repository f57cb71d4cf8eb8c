"""Connections to the orchestrator and to other modules, in both directions."""
