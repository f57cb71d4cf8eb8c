"""Checks across the whole manifest, beyond what one value can tell."""
