"""The way of a request: connection, edge, endpoint, application."""
