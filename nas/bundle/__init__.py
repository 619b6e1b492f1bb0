"""Bundles: a folder with a trained network and its robustness profile. It runs without pickle and without Hardcell."""
