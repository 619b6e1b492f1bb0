"""Evaluators: they answer the trials of a search, by training and attacks or from a table."""
