"""Transfer of adversarial images between networks."""

from evaluators.transferability.matrix import TransferMatrix, transfer_matrix
from evaluators.transferability.rates import Asymmetry, asymmetry, transfer_rates
from evaluators.transferability.universal import TransferGroup, UniversalTransfer, universal_transfer

__all__ = [
    "Asymmetry",
    "TransferGroup",
    "TransferMatrix",
    "UniversalTransfer",
    "asymmetry",
    "transfer_matrix",
    "transfer_rates",
    "universal_transfer",
]
