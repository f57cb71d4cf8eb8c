"""Timeouts, retries and circuit breakers for calls to other services, and requests to the providers of a module."""
