"""Attacks, error curves, power laws, margins, checks and costs: the robustness profile of any network.

Usable alone: nothing here knows of search spaces, training, Optuna or files of ours.
"""

from evaluators.attacks import (
    ATTACKS,
    FGSM,
    LOSSES,
    PGD,
    Attack,
    SingleStep,
    StepLL,
    Target,
    UniformNoise,
    cross_entropy,
    describe,
    dlr,
    margin,
)
from evaluators.checks import Check
from evaluators.compare import Comparison, compare
from evaluators.corruptions import CORRUPTIONS, CorruptionErrors, corrupt, corruption_errors
from evaluators.cost import macs, parameters
from evaluators.curve import ErrorCurve, error_curve, worst_case
from evaluators.first_order import first_order_error, gradient_norms, parting_epsilon
from evaluators.margins import Margins, adaptive_epsilons, density_at_zero, margin_density, margins
from evaluators.norms import L2, NORMS, Linf, Norm
from evaluators.power_law import NoPowerLaw, PowerLaw, fit_power_law
from evaluators.profile import RobustnessProfile, load_profile, profile, save_profile
from evaluators.radii import radii
from evaluators.smoothing import Certificates, certify

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "FGSM",
    "L2",
    "LOSSES",
    "NORMS",
    "PGD",
    "Attack",
    "Certificates",
    "Check",
    "Comparison",
    "CorruptionErrors",
    "ErrorCurve",
    "Linf",
    "Margins",
    "NoPowerLaw",
    "Norm",
    "PowerLaw",
    "RobustnessProfile",
    "SingleStep",
    "StepLL",
    "Target",
    "UniformNoise",
    "adaptive_epsilons",
    "certify",
    "compare",
    "corrupt",
    "corruption_errors",
    "cross_entropy",
    "density_at_zero",
    "describe",
    "dlr",
    "error_curve",
    "first_order_error",
    "fit_power_law",
    "gradient_norms",
    "load_profile",
    "macs",
    "margin",
    "margin_density",
    "margins",
    "parameters",
    "parting_epsilon",
    "profile",
    "radii",
    "save_profile",
    "worst_case",
]
