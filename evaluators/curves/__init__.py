"""Error curves and power laws, computed from stored radii."""
