"""Hosts with several worker processes: the supervisor, its workers, and how they are replaced."""
