"""The user's application: imported, started, and given its state, hooks and background tasks."""
