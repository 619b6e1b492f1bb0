"""Drawings of cells and of chains of layers."""
