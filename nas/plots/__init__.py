"""Figures that several packages share, and their style."""
