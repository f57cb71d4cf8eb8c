"""Messages and services over NATS, with JetStream where messages are kept."""
