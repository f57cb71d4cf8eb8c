"""Modules on many machines, over NATS: requests, events, kept messages, and who offers what."""
