"""The settings of a run: schema, reading and writing YAML, names of metrics."""
