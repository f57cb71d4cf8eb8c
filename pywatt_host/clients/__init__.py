"""Calls to other services: HTTP clients, OAuth tokens, timeouts, retries and circuit breakers."""
