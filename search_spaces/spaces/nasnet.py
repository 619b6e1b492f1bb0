"""nasnet: the NASNet space with a normal cell and a reduction cell of five blocks each.

Nodes 0 and 1 are the outputs of the previous two cells. Each of the blocks, nodes 2 to 6, is the sum of two operations on
two earlier nodes, which may be equal. The output concatenates the blocks that feed no other block. The two inputs of a block
are unordered, so k earlier nodes give k (k + 1) / 2 pairs. A cell has 3 * 6 * 10 * 15 * 21 = 56,700 ways to pick the inputs
and 13**10 ways to pick the operations. There are (56,700 * 13**10)**2 = 6.11e31 architectures.

Source: Zoph, Vasudevan, Shlens and Le, "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018,
arXiv:1707.07012. Cubuk et al., arXiv:1711.02846, search this space for robust networks. The network around the cells is that
of DARTS.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import assemble, staged_layers
from search_spaces.cells.topology import two_inputs
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

BLOCK_OPERATIONS = (
    "skip",
    "avgpool3x3",
    "maxpool3x3",
    "maxpool5x5",
    "maxpool7x7",
    "conv1x1",
    "dilconv3x3",
    "sepconv3x3",
    "sepconv5x5",
    "sepconv7x7",
    "conv1x3_3x1",
    "conv1x7_7x1",
    "conv3x3",
)


def nasnet(channels: int = 16, cells_per_stage: int = 2, stages: int = 3) -> SearchSpace:
    """Returns the search space of NASNet cells.

    Args:
        channels: Number of channels of the nodes of the first cell. Each reduction cell doubles this number.
        cells_per_stage: Number of normal cells in each stage, N in the paper.
        stages: Number of stages. A reduction cell is between two stages.

    Raises:
        ValueError: A setting is below 1.
    """
    return assemble(
        "nasnet",
        topology=two_inputs(nodes=7, output="unused", distinct=False),
        operations=BLOCK_OPERATIONS,
        layers=staged_layers([cells_per_stage] * stages, "normal_reduction"),
        channels=channels,
    )
