"""Provable radii of small networks, by propagation of bounds."""

from evaluators.bounds.propagation import NoBound, ProvableRadii, provable_radii

__all__ = [
    "NoBound",
    "ProvableRadii",
    "provable_radii",
]
