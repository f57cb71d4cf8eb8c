"""The applications that every stack serves: the same code, whoever serves it."""
