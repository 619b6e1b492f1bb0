"""Balls of images: what share of them is adversarial, how adversarial images hang together, where networks disagree."""

from evaluators.regions.adversarial_set import AdversarialSet, Connections, adversarial_set, connections
from evaluators.regions.disagreement import Disagreement, disagreement, low_margin_share
from evaluators.regions.line_votes import BoundaryEntropy, LineVotes, along_line, boundary_entropy
from evaluators.regions.shares import BallShares, ball_shares

__all__ = [
    "AdversarialSet",
    "BallShares",
    "BoundaryEntropy",
    "Connections",
    "Disagreement",
    "LineVotes",
    "adversarial_set",
    "along_line",
    "ball_shares",
    "boundary_entropy",
    "connections",
    "disagreement",
    "low_margin_share",
]
