"""Checks of a search space on random architectures."""
