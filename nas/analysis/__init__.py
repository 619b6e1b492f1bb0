"""Measurements of existing networks (profile, comparison, response surfaces) and of search spaces."""
