"""Caches: one interface for users, one backend per file."""
