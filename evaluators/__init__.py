"""Attacks, error curves, power laws, margins, checks and costs: the robustness profile of any network.

Usable alone: nothing here knows of search spaces, training, Optuna or files of ours.
"""

from evaluators.alternatives import Alternative
from evaluators.attacks import (
    APGD,
    ATTACKS,
    BIM,
    DDN,
    FGSM,
    FMN,
    LOSSES,
    MIFGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    Ensemble,
    HopSkipJump,
    IterativeLL,
    MinimumNorm,
    Nearest,
    SingleStep,
    Square,
    StepLL,
    Target,
    TargetedAPGD,
    Transfer,
    UniformNoise,
    cross_entropy,
    describe,
    dlr,
    margin,
)
from evaluators.checks import Check, check_attacks, check_network, sentence
from evaluators.compare import Comparison, RadiiComparison, compare, compare_radii
from evaluators.corruptions import CORRUPTIONS, CorruptionErrors, corrupt, corruption_errors
from evaluators.cost import latency, macs, parameters
from evaluators.curve import ErrorCurve, error_curve, worst_case
from evaluators.first_order import first_order_error, gradient_norms, parting_epsilon
from evaluators.headline import headline
from evaluators.logit_differences import (
    NearZero,
    independent_logits,
    logit_differences,
    logits_of,
    mean_field_radii,
    near_zero,
    shape_distance,
)
from evaluators.margins import Margins, adaptive_epsilons, density_at_zero, margin_density, margins
from evaluators.metrics import error_area, error_at, median_radius
from evaluators.norms import L2, NORMS, Linf, Norm
from evaluators.power_law import NoPowerLaw, PowerLaw, fit_power_law
from evaluators.profile import RobustnessProfile, load_profile, save_profile
from evaluators.profiling import profile
from evaluators.radii import radii
from evaluators.smoothing import Certificates, certify
from evaluators.table import check_table, read_table
from evaluators.universality import Effect, Observation, Universality, universality

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CORRUPTIONS",
    "DDN",
    "FGSM",
    "FMN",
    "L2",
    "LOSSES",
    "MIFGSM",
    "NORMS",
    "PGD",
    "Alternative",
    "Attack",
    "AutoAttack",
    "Certificates",
    "Check",
    "Comparison",
    "CorruptionErrors",
    "DeepFool",
    "Effect",
    "Ensemble",
    "ErrorCurve",
    "HopSkipJump",
    "IterativeLL",
    "Linf",
    "Margins",
    "MinimumNorm",
    "NearZero",
    "Nearest",
    "NoPowerLaw",
    "Norm",
    "Observation",
    "PowerLaw",
    "RadiiComparison",
    "RobustnessProfile",
    "SingleStep",
    "Square",
    "StepLL",
    "Target",
    "TargetedAPGD",
    "Transfer",
    "UniformNoise",
    "Universality",
    "adaptive_epsilons",
    "certify",
    "check_attacks",
    "check_network",
    "check_table",
    "compare",
    "compare_radii",
    "corrupt",
    "corruption_errors",
    "cross_entropy",
    "density_at_zero",
    "describe",
    "dlr",
    "error_area",
    "error_at",
    "error_curve",
    "first_order_error",
    "fit_power_law",
    "gradient_norms",
    "headline",
    "independent_logits",
    "latency",
    "load_profile",
    "logit_differences",
    "logits_of",
    "macs",
    "margin",
    "margin_density",
    "margins",
    "mean_field_radii",
    "median_radius",
    "near_zero",
    "parameters",
    "parting_epsilon",
    "profile",
    "radii",
    "read_table",
    "save_profile",
    "sentence",
    "shape_distance",
    "universality",
    "worst_case",
]
