"""Search spaces and architectures in YAML."""
