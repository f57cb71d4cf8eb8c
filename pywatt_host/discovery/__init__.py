"""Which services there are, and where."""
