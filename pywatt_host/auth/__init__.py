"""Who asks, and may they: schemes that verify credentials, and guards that endpoints have."""
