"""A custom search space: a table of choices and a `build` function. In YAML, refer to it as `custom_space.py:SPACE`."""

from torch import nn

from search_spaces import Choice, SearchSpace

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}


def build(architecture, input_shape, num_classes):
    """Returns a network of two to four convolutions with the same width, kernel and activation."""
    width, kernel = architecture["width"], architecture["kernel"]
    layers, channels = [], input_shape[0]
    for _ in range(architecture["depth"]):
        layers += [
            nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            ACTIVATIONS[architecture["activation"]](),
        ]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes))


SPACE = SearchSpace(
    name="own",
    choices={
        "depth": Choice(2, 3, 4),
        "width": Choice(8, 16, 24),
        "kernel": Choice(3, 5),
        "activation": Choice(*ACTIVATIONS),
    },
    build=build,
)
