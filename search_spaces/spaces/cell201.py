"""cell201: the cell of NAS-Bench-201.

A cell has four nodes. Node 0 is the input and node 3 is the output. Each of the six edges i -> j (i < j) has one of five
operations. A node is the sum of the operations on its incoming edges. There are 5**6 = 15,625 cells.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020,
arXiv:2001.00326. With 16 channels, 5 cells per stage and 3 stages, the network has as many parameters as in the paper.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import cell_space
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

# From the weakest to the strongest: the canonical form is the first equivalent cell in this order.
EDGE_OPERATIONS = ("none", "skip", "avgpool3x3", "conv1x1", "conv3x3")


def cell201(channels: int = 16, cells_per_stage: int = 5, stages: int = 3) -> SearchSpace:
    """Returns the search space of NAS-Bench-201 cells.

    Args:
        channels: Number of channels of the first stage. Each later stage has twice as many at half the resolution.
        cells_per_stage: Number of cells in each stage. All cells share one architecture.
        stages: Number of stages. Images must be at least 2**(stages - 1) pixels wide and high.

    Raises:
        ValueError: A setting is below 1.

    Example:
        >>> from search_spaces import cell201
        >>> space = cell201(channels=8, cells_per_stage=1)
        >>> space.size
        15625
        >>> network = space.build(space.at(0), (3, 32, 32), 10)
    """
    return cell_space(
        "cell201",
        nodes=4,
        topology="all_pairs",
        operations=[*EDGE_OPERATIONS],
        channels=channels,
        cells_per_stage=cells_per_stage,
        stages=stages,
    )
