"""Evaluators: compute the metrics of trials by training and attacks, or look them up in a table."""
