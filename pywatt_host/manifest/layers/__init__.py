"""What is laid over the file: interpolation, profiles, overrides, environment variables."""
