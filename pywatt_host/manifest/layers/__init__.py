"""The layers that change the values of the file: interpolation, profiles, overrides, environment variables."""
