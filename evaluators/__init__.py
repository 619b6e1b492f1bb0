"""Measures the robustness of any PyTorch classifier: attacks, error curves, power laws, margins, checks and costs.

This package does not import `nas` or `search_spaces` and can be used alone.
"""

from evaluators.attacks import (
    APGD,
    ATTACKS,
    BIM,
    DDN,
    FGSM,
    FMN,
    MIFGSM,
    PGD,
    Attack,
    AttackEnsemble,
    AutoAttack,
    DeepFool,
    HopSkipJump,
    IterativeLL,
    MinimumNorm,
    MinimumNormEnsemble,
    SingleStep,
    Square,
    StepLL,
    TargetedAPGD,
    Transfer,
    UniformNoise,
    describe,
)
from evaluators.checks import CheckResult, check_attacks, check_network, explain
from evaluators.corruptions import corruption_errors
from evaluators.cost import latency, macs, parameters
from evaluators.curves.error_curves import ErrorCurve, error_curve, worst_case
from evaluators.curves.power_law import NoPowerLaw, PowerLaw, fit_power_law
from evaluators.curves.scalars import error_area, error_at, median_radius
from evaluators.logits.first_order import first_order_error
from evaluators.logits.margin import Margins, margins
from evaluators.norms import L2, NORMS, Linf, Norm
from evaluators.profiles.measure import profile
from evaluators.profiles.options import ProfileOptions
from evaluators.profiles.record import RobustnessProfile, load_profile, save_profile
from evaluators.profiles.summary import summary_line
from evaluators.radius.grid import EpsilonGrid
from evaluators.radius.measure import radii
from evaluators.smoothing import Certificates, Smoothing, certify
from evaluators.statistics.correlation import RankCorrelation, rank_correlation
from evaluators.statistics.multiple_testing import holm
from evaluators.statistics.paired_tests import Comparison, RadiiComparison, compare, compare_radii
from evaluators.surface import response_surface
from evaluators.table import check_table
from evaluators.transferability.matrix import TransferMatrix, transfer_matrix
from evaluators.transferability.rates import transfer_rates

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "DDN",
    "FGSM",
    "FMN",
    "L2",
    "MIFGSM",
    "NORMS",
    "PGD",
    "Attack",
    "AttackEnsemble",
    "AutoAttack",
    "Certificates",
    "CheckResult",
    "Comparison",
    "DeepFool",
    "EpsilonGrid",
    "ErrorCurve",
    "HopSkipJump",
    "IterativeLL",
    "Linf",
    "Margins",
    "MinimumNorm",
    "MinimumNormEnsemble",
    "NoPowerLaw",
    "Norm",
    "PowerLaw",
    "ProfileOptions",
    "RadiiComparison",
    "RankCorrelation",
    "RobustnessProfile",
    "SingleStep",
    "Smoothing",
    "Square",
    "StepLL",
    "TargetedAPGD",
    "Transfer",
    "TransferMatrix",
    "UniformNoise",
    "certify",
    "check_attacks",
    "check_network",
    "check_table",
    "compare",
    "compare_radii",
    "corruption_errors",
    "describe",
    "error_area",
    "error_at",
    "error_curve",
    "explain",
    "first_order_error",
    "fit_power_law",
    "holm",
    "latency",
    "load_profile",
    "macs",
    "margins",
    "median_radius",
    "parameters",
    "profile",
    "radii",
    "rank_correlation",
    "response_surface",
    "save_profile",
    "summary_line",
    "transfer_matrix",
    "transfer_rates",
    "worst_case",
]
