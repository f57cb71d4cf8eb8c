"""The HTTP server: connections, and the requests on them."""
