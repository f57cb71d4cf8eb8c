"""What modules say to each other: handlers, subscriptions, and the transports that carry messages."""
