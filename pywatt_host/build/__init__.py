"""From a Manifest to a Host: the only package that knows every kind of part."""
