"""Paired tests, corrections for multiple tests, rank correlations, heterogeneity of exponents."""
