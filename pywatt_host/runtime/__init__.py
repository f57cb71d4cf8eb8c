"""The running host: started, served, drained and stopped; its signals, its control socket, systemd."""
