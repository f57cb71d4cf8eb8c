"""Stores that the orchestrator serves to modules: both ends, and the wire form of values."""
