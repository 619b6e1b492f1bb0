"""Built-in search spaces, one in each file, and published architectures."""
