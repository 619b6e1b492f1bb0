"""Published architectures, by name, to train and profile with your own protocol or to start a search.

space = darts(channels=36, layers=20)
network = space.build(PUBLISHED["advrush"].architecture, (3, 32, 32), 10)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from search_spaces.space import Architecture, SearchSpace, Value
from search_spaces.spaces.darts import darts
from search_spaces.spaces.macro import RESNET18, WRN_28_10, macro
from search_spaces.spaces.nasnet import nasnet
from search_spaces.spaces.robnet import robnet


@final
@dataclass(frozen=True)
class Published:
    """A published architecture.

    Attributes:
        architecture: Value of each choice. It is valid in `space` and in every space with the same choices, for example with
            fewer and narrower cells.
        make: Function that returns the search space.
        options: Arguments of `make` for the CIFAR-10 network of the paper.
        source: Paper.
    """

    architecture: Architecture
    make: Callable[..., SearchSpace]
    options: Mapping[str, int | bool]
    source: str

    @property
    def space(self) -> SearchSpace:
        """Search space with the settings of the paper."""
        return self.make(**self.options)


def _two_input_architecture(**cells: str) -> dict[str, Value]:
    """Returns the architecture of cells in the notation `0 skip + 1 sepconv3x3; ...`, one node after the other."""
    values: dict[str, Value] = {}
    for cell, text in cells.items():
        for node, terms in enumerate(text.split(";"), start=2):
            (first, first_operation), (second, second_operation) = (term.split() for term in terms.split("+"))
            values |= {f"{cell}_node{node}_inputs": f"{first},{second}", f"{cell}_node{node}_op1": first_operation}
            values[f"{cell}_node{node}_op2"] = second_operation
    return values


def _darts_architecture(**cells: str) -> dict[str, Value]:
    """Returns an architecture of darts. Its first node has no choice of inputs."""
    return {name: value for name, value in _two_input_architecture(**cells).items() if not name.endswith("node2_inputs")}


_OPERATION_OF_LETTER = {".": "none", "i": "skip", "s": "sepconv3x3", "b": "skip+sepconv3x3"}


def _robnet_architecture(*cells: str) -> dict[str, Value]:
    """Returns an architecture of robnet. Each word is a node, and each letter is an edge (see `_OPERATION_OF_LETTER`)."""
    values: dict[str, Value] = {}
    for number, cell in enumerate(cells, start=1):
        prefix = f"cell{number:02d}_" if len(cells) > 1 else ""
        for node, word in enumerate(cell.split(), start=2):
            values |= {f"{prefix}edge{source}{node}": _OPERATION_OF_LETTER[letter] for source, letter in enumerate(word)}
    return values


PUBLISHED: dict[str, Published] = {
    "darts_v1": Published(
        _darts_architecture(
            normal="0 sepconv3x3 + 1 sepconv3x3; 0 skip + 1 sepconv3x3; 0 skip + 1 sepconv3x3; 0 sepconv3x3 + 2 skip",
            reduction="0 maxpool3x3 + 1 maxpool3x3; 0 maxpool3x3 + 2 skip; 0 maxpool3x3 + 2 skip; 0 avgpool3x3 + 2 skip",
        ),
        darts,
        {"channels": 36, "layers": 20},
        "Liu, Simonyan and Yang, DARTS, first order, arXiv:1806.09055",
    ),
    "darts_v2": Published(
        _darts_architecture(
            normal="0 sepconv3x3 + 1 sepconv3x3; 0 sepconv3x3 + 1 sepconv3x3; 0 skip + 1 sepconv3x3; 0 skip + 2 dilconv3x3",
            reduction="0 maxpool3x3 + 1 maxpool3x3; 1 maxpool3x3 + 2 skip; 0 maxpool3x3 + 2 skip; 1 maxpool3x3 + 2 skip",
        ),
        darts,
        {"channels": 36, "layers": 20},
        "Liu, Simonyan and Yang, DARTS, second order, arXiv:1806.09055",
    ),
    "pdarts": Published(
        _darts_architecture(
            normal="0 skip + 1 dilconv3x3; 0 skip + 1 sepconv3x3; 1 sepconv3x3 + 3 sepconv3x3; 0 sepconv3x3 + 4 dilconv5x5",
            reduction="0 avgpool3x3 + 1 sepconv5x5; 0 sepconv3x3 + 2 dilconv5x5; 0 maxpool3x3 + 1 dilconv3x3; "
            "1 dilconv3x3 + 3 dilconv5x5",
        ),
        darts,
        {"channels": 36, "layers": 20},
        "Chen et al., P-DARTS, arXiv:1904.12760",
    ),
    "advrush": Published(
        _darts_architecture(
            normal="0 sepconv3x3 + 1 sepconv3x3; 0 sepconv5x5 + 1 sepconv3x3; 0 sepconv3x3 + 1 sepconv3x3; "
            "0 skip + 1 sepconv3x3",
            reduction="0 sepconv3x3 + 1 sepconv3x3; 0 skip + 2 dilconv3x3; 0 skip + 1 avgpool3x3; 0 skip + 2 skip",
        ),
        darts,
        {"channels": 36, "layers": 20},
        "Mok et al., AdvRush, arXiv:2108.01289",
    ),
    "racl": Published(
        _darts_architecture(
            normal="0 sepconv3x3 + 1 sepconv3x3; 0 sepconv5x5 + 1 skip; 0 sepconv3x3 + 3 skip; 3 sepconv3x3 + 4 skip",
            reduction="0 sepconv3x3 + 1 sepconv5x5; 0 avgpool3x3 + 1 dilconv3x3; 0 sepconv3x3 + 1 sepconv5x5; "
            "2 sepconv3x3 + 3 dilconv3x3",
        ),
        darts,
        {"channels": 36, "layers": 20},
        "Dong et al., RACL, arXiv:2009.00902",
    ),
    "nasnet_a": Published(
        _two_input_architecture(
            normal="0 sepconv3x3 + 1 sepconv5x5; 0 sepconv5x5 + 0 sepconv3x3; 0 skip + 1 avgpool3x3; "
            "0 avgpool3x3 + 0 avgpool3x3; 1 sepconv3x3 + 1 skip",
            reduction="0 sepconv7x7 + 1 sepconv5x5; 0 sepconv7x7 + 1 maxpool3x3; 0 sepconv5x5 + 1 avgpool3x3; "
            "2 avgpool3x3 + 3 skip; 1 maxpool3x3 + 2 sepconv3x3",
        ),
        nasnet,
        {"channels": 32, "cells_per_stage": 6},
        "Zoph et al., NASNet-A, arXiv:1707.07012",
    ),
    "robnet_large": Published(
        _robnet_architecture("bb bbb sbsi bsssb"),
        robnet,
        {"channels": 36, "layers": 20},
        "Guo et al., RobNet-large, arXiv:1911.10695",
    ),
    "robnet_free": Published(
        _robnet_architecture(
            *("bi bbi bssi bb.bs", "b. sis .ii. sbib.", "bb bss bs.i .ii.b", "ib iss iisi b..si", "bb s.i iisi s.isb"),
            *("bi bbb sib. isbsb", "bb bii sbis iiisi", "sb bbs bbbs bsbi.", "bb bbb ssbi s.isb", "ib s.b bibs bbbb."),
            *("bi b.. .b.s i.sib", "sb sbb iibi bsbi.", "bb iis .ibb sii.s", "sb bbs sbss bbsii", "sb bbb s.si ibiib"),
            *("bb .bb s.si .bsbb", "bb sbb ibii iiibb", "ib sbb sb.b b.i.s", "bi bbb bbib .bsbb", "bb ssb bs.. i.ssb"),
        ),
        robnet,
        {"channels": 36, "layers": 20, "shared": False},
        "Guo et al., RobNet-free, arXiv:1911.10695",
    ),
    "resnet18": Published(RESNET18, macro, {"stages": 4}, "He et al., ResNet-18 in its CIFAR form, arXiv:1512.03385"),
    "wrn_28_10": Published(WRN_28_10, macro, {"stages": 3}, "Zagoruyko and Komodakis, WRN-28-10, arXiv:1605.07146"),
}
