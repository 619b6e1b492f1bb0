"""macro: plain residual networks, the yardstick for cells of the same size.

Three stages of basic blocks (two 3x3 convolutions and a shortcut); depth and width vary by stage:
4**3 * 24**3 = 884,736 networks.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn
from torch.nn import functional as F

from search_spaces.drawing import draw_chain
from search_spaces.space import Architecture, Choice, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

STAGES = (1, 2, 3)
DEPTHS = (1, 2, 3, 4)
WIDTHS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256)
CHOICES = {
    **{f"depth{stage}": Choice(*DEPTHS) for stage in STAGES},
    **{f"width{stage}": Choice(*WIDTHS) for stage in STAGES},
}


@final
class BasicBlock(nn.Module):
    """Two convolutions and a shortcut: (N, in, H, W) to (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rectified sum of branch and shortcut."""
        return F.relu(self.branch(x) + self.shortcut(x))


def macro(stages: int = 3) -> SearchSpace:
    """Returns the space of residual networks.

    Args:
        stages: How many of the three stages are built, each but the first at half the resolution of the one before.

    Raises:
        ValueError: stages is not 1, 2 or 3.
    """
    if stages not in STAGES:
        raise ValueError(f"stages must be 1, 2 or 3, got {stages}")
    choices = {name: choice for name, choice in CHOICES.items() if int(name[-1]) <= stages}

    def build(architecture: Architecture, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        width = _width(architecture, 1)
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        for stage in STAGES[:stages]:
            for block in range(int(str(architecture[f"depth{stage}"]))):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(BasicBlock(width, _width(architecture, stage), stride))
                width = _width(architecture, stage)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

    def draw(architecture: Architecture) -> str:
        return draw_chain([f"{architecture[f'depth{s}']} blocks of {architecture[f'width{s}']}" for s in STAGES[:stages]])

    return SearchSpace(name="macro", choices=choices, build=build, draw=draw)


def _width(architecture: Architecture, stage: int) -> int:
    return int(str(architecture[f"width{stage}"]))


def plain_architectures(stages: int = 3) -> list[dict[str, int]]:
    """Returns the residual networks that one would write by hand: one depth, and a width that doubles by stage."""
    plain = []
    for depth in DEPTHS:
        for width in WIDTHS:
            widths = [width * 2**stage for stage in range(stages)]
            if all(w in WIDTHS for w in widths):
                plain.append(
                    {f"depth{s}": depth for s in STAGES[:stages]}
                    | {f"width{s}": w for s, w in zip(STAGES, widths, strict=False)}
                )
    return plain
