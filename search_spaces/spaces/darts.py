"""darts: a normal and a reduction cell of four nodes, each of which adds two operations on two earlier nodes.

Nodes 0 and 1 are the outputs of the two cells before; nodes 2 to 5 are concatenated into the output. There are
1 * 3 * 6 * 10 = 180 ways to pick the inputs and 8**8 to pick the operations, for each of the two cells:
(180 * 8**8)**2 = 9.12e18 architectures; without `none`, which the derived cells of the paper leave out, 1.08e18.

Source: Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055. With 36 channels
and 20 layers it is their CIFAR-10 network, parameter for parameter, without the auxiliary head and drop path of training.
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
    """Returns the space of DARTS cells.

    Args:
        channels: Of the first cell's nodes; a reduction cell doubles them.
        layers: Number of cells; those after a third and two thirds of them are reduction cells.

    Raises:
        ValueError: channels is below 1, or layers below 3.
    """
    return assemble(
        "darts",
        topology=two_inputs(nodes=6, output="all"),
        operations=NODE_OPERATIONS,
        layers=layers_with_reductions(layers, "normal_reduction"),
        channels=channels,
        remedy="use larger images",
    )
