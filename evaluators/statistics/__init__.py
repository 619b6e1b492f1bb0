"""Paired tests, corrections for multiple tests, rank correlations and heterogeneity of exponents."""
