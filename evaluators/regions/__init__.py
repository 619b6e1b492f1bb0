"""Balls around images: their adversarial share, the connectivity of adversarial images, and disagreement of networks."""

from evaluators.regions.connectivity import AdversarialSet, Connections, Starts, adversarial_set, connections
from evaluators.regions.sampling import Sampling
from evaluators.regions.shares import BallShares, ball_shares
from evaluators.regions.voting import Disagreement, disagreement, low_margin_share
from evaluators.regions.voting_lines import BoundaryEntropy, LineVotes, boundary_entropy, vote_along_line

__all__ = [
    "AdversarialSet",
    "BallShares",
    "BoundaryEntropy",
    "Connections",
    "Disagreement",
    "LineVotes",
    "Sampling",
    "Starts",
    "adversarial_set",
    "ball_shares",
    "boundary_entropy",
    "connections",
    "disagreement",
    "low_margin_share",
    "vote_along_line",
]
