"""robnet: the RobNet space, in which every edge has a set of operations.

Nodes 0 and 1 are the outputs of the previous two cells. Nodes 2 to 5 are concatenated into the output. Each of the 14 edges
to these four nodes is absent, an identity, a separable convolution, or the sum of identity and convolution. There are
4**14 = 268,435,456 cells. If each cell is searched separately, there are (4**14)**layers architectures.

Source: Guo et al., "When NAS Meets Robustness: In Search of Robust Architectures against Adversarial Attacks", CVPR 2020,
arXiv:1911.10695. With the paper's cell, 36 channels and 20 layers, the network has as many parameters as in the paper.
Batch norm in the cells has no learned scale and shift.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import assemble, layers_with_reductions
from search_spaces.cells.topology import all_pairs
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

EDGE_OPERATIONS = ("none", "skip", "sepconv3x3", "skip+sepconv3x3")


def robnet(channels: int = 16, layers: int = 8, shared: bool = True) -> SearchSpace:
    """Returns the search space of RobNet cells.

    Args:
        channels: Number of channels of the nodes of the first cell. Each cell that halves the resolution doubles
            this number.
        layers: Number of cells. The cells at one third and at two thirds of the depth halve the resolution.
        shared: Whether all cells share one architecture. Otherwise each cell is searched separately, as in RobNet-free.

    Raises:
        ValueError: channels is below 1, or layers is below 3.
    """
    return assemble(
        "robnet",
        topology=all_pairs(nodes=6, inputs=2, output="all"),
        operations=EDGE_OPERATIONS,
        layers=layers_with_reductions(layers, "shared" if shared else "each"),
        channels=channels,
        remedy="use larger images",
        affine=False,
    )
