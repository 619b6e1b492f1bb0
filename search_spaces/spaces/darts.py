"""darts: the DARTS space with a normal cell and a reduction cell.

Nodes 0 and 1 are the outputs of the previous two cells. Each of the nodes 2 to 5 is the sum of two operations on two earlier
nodes. These four nodes are concatenated into the output. Each of the two cells has 1 * 3 * 6 * 10 = 180 ways to pick the
inputs and 8**8 ways to pick the operations. There are (180 * 8**8)**2 = 9.12e18 architectures. Without `none`, which the
derived cells of the paper exclude, there are 1.08e18.

Source: Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055. With 36 channels
and 20 layers, the network has as many parameters as the CIFAR-10 network of the paper without its auxiliary head. There is
no drop path in training.
"""

from __future__ import annotations

from search_spaces.cells.cell_space import assemble, layers_with_reductions
from search_spaces.cells.topology import two_inputs
from search_spaces.space import SearchSpace  # noqa: TC001 (its settings are read from YAML by their annotations)

NODE_OPERATIONS = (
    "none",
    "skip",
    "avgpool3x3",
    "maxpool3x3",
    "dilconv3x3",
    "dilconv5x5",
    "sepconv3x3",
    "sepconv5x5",
)


def darts(channels: int = 16, layers: int = 8) -> SearchSpace:
    """Returns the search space of DARTS cells.

    Args:
        channels: Number of channels of the nodes of the first cell. Each reduction cell doubles this number.
        layers: Number of cells. The cells at one third and at two thirds of the depth are reduction cells.

    Raises:
        ValueError: channels is below 1, or layers is below 3.
    """
    return assemble(
        "darts",
        topology=two_inputs(nodes=6, output="all"),
        operations=NODE_OPERATIONS,
        layers=layers_with_reductions(layers, "normal_reduction"),
        channels=channels,
        remedy="use larger images",
    )
