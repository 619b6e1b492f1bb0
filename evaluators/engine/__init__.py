"""Shared code of all measurements: prepared networks, batches that fit into memory, random numbers, input checks."""
