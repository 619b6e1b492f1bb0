"""cell201: the cell of NAS-Bench-201.

Four nodes, 0 the input and 3 the output; each of the six edges i -> j (i < j) carries one of five operations, and a node
is the sum of what arrives. 5**6 = 15,625 cells.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020,
arXiv:2001.00326. With 16 channels, 5 cells a stage and 3 stages it is their network, parameter for parameter.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import cell_space
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

# From the least to the most that an edge can do: a canonical cell is the first of its class in this order.
EDGE_OPERATIONS = ("none", "skip", "avgpool3x3", "conv1x1", "conv3x3")


def cell201(channels: int = 16, cells_per_stage: int = 5, stages: int = 3) -> SearchSpace:
    """Returns the space of NAS-Bench-201's cells.

    Args:
        channels: Channels of the first stage; each later stage has twice as many at half the resolution.
        cells_per_stage: Cells in each stage, all of one architecture.
        stages: Number of stages; images must be at least 2**(stages - 1) pixels wide and high.

    Raises:
        ValueError: one of them is below 1.
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
