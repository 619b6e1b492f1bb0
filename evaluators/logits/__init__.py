"""Margins, logit differences and first-order radii: predictions of the error curve from clean images."""

from evaluators.logits.differences import (
    NearZero,
    independent_logits,
    logit_differences,
    logits_of,
    mean_field_radii,
    near_zero,
    shape_distance,
)
from evaluators.logits.first_order import first_order_breakdown, first_order_error, gradient_norms
from evaluators.logits.margin import Margins, adaptive_epsilons, density_at_zero, margin_density, margins

__all__ = [
    "Margins",
    "NearZero",
    "adaptive_epsilons",
    "density_at_zero",
    "first_order_breakdown",
    "first_order_error",
    "gradient_norms",
    "independent_logits",
    "logit_differences",
    "logits_of",
    "margin_density",
    "margins",
    "mean_field_radii",
    "near_zero",
    "shape_distance",
]
