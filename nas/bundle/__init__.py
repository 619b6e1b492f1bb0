"""Bundles: folders with a trained network and its robustness profile. The network runs without pickle and Hardcell."""
