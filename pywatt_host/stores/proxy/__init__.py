"""Stores that the orchestrator serves to modules: the side of the module, the side of the orchestrator, and the wire
form of values."""
