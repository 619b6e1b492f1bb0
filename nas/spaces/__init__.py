"""Search spaces as a config names them: options, and architectures in YAML."""
