"""Drawings of cells and chains."""
