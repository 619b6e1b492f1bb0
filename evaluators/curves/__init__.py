"""Error curves, scalar metrics and power laws, computed from stored radii."""
