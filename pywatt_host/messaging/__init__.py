"""Messages between modules: handlers, subscriptions, and the transports that carry messages."""
