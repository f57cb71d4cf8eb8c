"""The running host: its start, serving, drain and stop, with signals, the control socket and systemd."""
