"""Bundles: a trained network as a folder that needs neither pickle nor Hardcell to run, with its robustness profile."""
