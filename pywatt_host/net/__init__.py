"""Sockets: listening addresses, TLS contexts, and limits on connections."""
