"""macro: the residual networks, counted by hand."""

import pytest
import torch

from search_spaces.macro import DEPTHS, WIDTHS, macro, plain_architectures


def parameters(architecture, channels, classes, stages):
    """Counts by hand: convolutions without bias, two numbers a channel of batch norm, a shortcut where the shape changes."""
    width = architecture["width1"]
    total = channels * width * 9 + 2 * width
    for stage in range(1, stages + 1):
        out = architecture[f"width{stage}"]
        for block in range(architecture[f"depth{stage}"]):
            total += width * out * 9 + out * out * 9 + 4 * out
            if (stage > 1 and block == 0) or width != out:
                total += width * out + 2 * out
            width = out
    return total + width * classes + classes


@pytest.mark.parametrize(("stages", "size"), [(1, 96), (2, 9216), (3, 884_736)])
def test_size(stages, size):
    assert macro(stages).size == size == (len(DEPTHS) * len(WIDTHS)) ** stages


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parameters_are_those_counted_by_hand(stages):
    space = macro(stages)
    for index in range(0, space.size, max(space.size // 25, 1)):
        architecture = space.at(index)
        with torch.device("meta"):
            network = space.build(architecture, (3, 32, 32), 10)
        assert sum(p.numel() for p in network.parameters()) == parameters(architecture, 3, 10, stages)


def test_each_stage_but_the_first_halves_the_resolution():
    architecture = {"depth1": 2, "width1": 4, "depth2": 1, "width2": 4, "depth3": 3, "width3": 8}
    network, shapes = macro().build(architecture, (1, 17, 12), 5), []
    for layer in network:
        if type(layer).__name__ == "BasicBlock":
            layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.rand(2, 1, 17, 12))
    assert shapes == [(4, 17, 12)] * 2 + [(4, 9, 6)] + [(8, 5, 3)] * 3


def test_a_block_adds_its_input_and_rectifies():
    network = macro(1).build({"depth1": 1, "width1": 4}, (1, 8, 8), 5).eval()
    block, x = network[3], torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert torch.allclose(block(x), (block.branch(x) + x).clamp(min=0))
        block.branch[-1].weight.zero_()
        assert torch.equal(block(x), x.clamp(min=0))


def test_images_of_one_pixel_pass():
    architecture = macro().at(0)
    assert macro().build(architecture, (1, 1, 1), 5).eval()(torch.rand(2, 1, 1, 1)).shape == (2, 5)


@pytest.mark.parametrize("stages", [0, 4, -1])
def test_other_numbers_of_stages_are_refused(stages):
    with pytest.raises(ValueError, match=f"^stages must be 1, 2 or 3, got {stages}$"):
        macro(stages)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_plain_networks_have_one_depth_and_doubling_widths(stages):
    space, found = macro(stages), plain_architectures(stages)
    assert len({space.key(architecture) for architecture in found}) == len(found)
    for architecture in found:
        assert space.validate(architecture) == architecture
        assert len({architecture[f"depth{s + 1}"] for s in range(stages)}) == 1
        assert all(architecture[f"width{s + 1}"] == architecture["width1"] * 2**s for s in range(stages))
    # Every plain network of the space is there: counted over the whole of the small spaces.
    if stages < 3:
        plain = [
            a for a in space.enumerate()
            if len({a[f"depth{s + 1}"] for s in range(stages)}) == 1
            and all(a[f"width{s + 1}"] == a["width1"] * 2**s for s in range(stages))
        ]  # fmt: skip
        assert sorted(plain, key=str) == sorted(found, key=str)
    assert {"depth1": 1, "width1": 4} | {f"depth{s}": 1 for s in range(2, stages + 1)} | {
        f"width{s}": 4 * 2 ** (s - 1) for s in range(2, stages + 1)
    } in found


def test_drawing_tells_depth_and_width_of_each_stage():
    architecture = {"depth1": 2, "width1": 4, "depth2": 1, "width2": 5, "depth3": 3, "width3": 8}
    text = macro().draw(architecture)
    for said in ("2 blocks of 4", "1 blocks of 5", "3 blocks of 8"):
        assert said in text
    assert "blocks of 5" not in macro(1).draw({"depth1": 2, "width1": 4})
