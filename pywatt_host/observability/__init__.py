"""What a running host tells about itself: logs, metrics, health, and the request that is being served."""
