"""Radii that are proved by propagating bounds through small networks."""

from evaluators.bounds.propagation import NoBound, ProvableRadii, provable_radii

__all__ = [
    "NoBound",
    "ProvableRadii",
    "provable_radii",
]
