"""What all measurements stand on: prepared networks, batches that fit into memory, random numbers, input checks."""
