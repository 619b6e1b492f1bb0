"""Measurements of given networks: profile, comparison, response surfaces; and of search spaces."""
