"""The workers of a host, and the supervisor that starts, watches and replaces them."""
