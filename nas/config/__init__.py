"""Settings of a run: schema, YAML reader and writer, names of metrics."""
