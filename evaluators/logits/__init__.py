"""Margins, logit differences and first-order radii: what the logits at clean images say about the error curve."""
