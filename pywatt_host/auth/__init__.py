"""Authentication and authorization: schemes verify credentials, and guards decide which requests an endpoint
accepts."""
