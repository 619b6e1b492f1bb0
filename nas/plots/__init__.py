"""Figures that several folders share, and their style."""
