"""The user's application: found, imported, started, and given what it asked for."""
