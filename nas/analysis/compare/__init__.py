"""Comparison of several networks on the same images."""
