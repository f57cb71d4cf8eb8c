"""Calls to others: HTTP clients, OAuth tokens, timeouts, retries and circuit breakers."""
