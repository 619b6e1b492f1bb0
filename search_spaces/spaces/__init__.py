"""The spaces that ship, a file each, and published architectures."""
