"""The typed model and the JSON schema: normalizing, typing, dumping."""
