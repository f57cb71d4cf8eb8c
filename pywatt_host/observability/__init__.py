"""What a running host reports: logs, metrics, health, and the context of the request that is being handled."""
