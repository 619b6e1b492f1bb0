"""robnet: cells in which every edge carries a set of operations, one set for all cells or one for each.

Nodes 0 and 1 are the outputs of the two cells before; nodes 2 to 5 are concatenated into the output. Each of the 14 edges
from an earlier node to one of these four carries nothing, the identity, a separable convolution, or both, added:
4**14 = 268,435,456 cells, and to the power of the number of layers where each is searched by itself.

Source: Guo et al., "When NAS Meets Robustness: In Search of Robust Architectures against Adversarial Attacks", CVPR 2020,
arXiv:1911.10695. With 36 channels and 20 layers it is their CIFAR-10 network, parameter for parameter: batch norm within
cells only normalises.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import assemble, layers_with_reductions
from search_spaces.cells.topology import all_pairs
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

EDGE_OPERATIONS = ("none", "skip", "sepconv3x3", "skip+sepconv3x3")


def robnet(channels: int = 16, layers: int = 8, shared: bool = True) -> SearchSpace:
    """Returns the space of RobNet cells.

    Args:
        channels: Of the first cell's nodes; a cell that halves the resolution doubles them.
        layers: Number of cells; those after a third and two thirds of them halve the resolution.
        shared: All cells have one architecture; otherwise each has its own, as in the paper's `free` networks.

    Raises:
        ValueError: channels is below 1, or layers below 3.
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
