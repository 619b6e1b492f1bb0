"""Augmentation: shifted, mirrored and cut-out images."""

import pytest
import torch
import torch.nn.functional as F

from nas.training.augment import augment as augment_placed
from nas.training.augment import draw_placement, first_mirrored


def shifted(image, down, right):
    """Returns an image (C, H, W) shifted by whole pixels, with zeros at the edges."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def augment(x, *, shift, mirrored, cutout, generator):
    """Returns images (N, C, H, W) augmented with a random placement."""
    placement = draw_placement(x, shift=shift, mirrored=mirrored, generator=generator)
    return augment_placed(x, placement=placement, cutout=cutout, generator=generator)


class TestAugment:
    @pytest.mark.parametrize("shape", [(64,), (8, 8), (3, 5, 7)])
    def test_images_of_any_shape_are_unchanged_without_augmentation(self, shape):
        x = torch.rand(4, *shape, generator=seeded(0))
        assert augment(x, shift=0, mirrored=None, cutout=0, generator=seeded(1)) is x

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
    @pytest.mark.parametrize("shift", [0, 1, 3])
    @pytest.mark.parametrize("flip", [False, True])
    def test_images_are_shifted_and_mirrored_ones(self, shape, shift, flip):
        x = torch.rand(60, *shape, generator=seeded(0)) + 0.1
        augmented = augment(
            x,
            shift=shift,
            mirrored=first_mirrored(60, seed=0) if flip else None,
            cutout=0,
            generator=seeded(1),
        )
        assert augmented.shape == x.shape
        moves = []
        for image, result in zip(x, augmented, strict=True):
            candidates = [
                (down, right, mirrored)
                for down in range(-shift, shift + 1)
                for right in range(-shift, shift + 1)
                for mirrored in ((False, True) if flip else (False,))
                if torch.equal(result, shifted(image, down, right).flip(-1) if mirrored else shifted(image, down, right))
            ]
            assert len(candidates) == 1
            moves += candidates
        downs, rights, mirrors = (set(column) for column in zip(*moves, strict=True))
        assert downs == rights == set(range(-shift, shift + 1))
        assert mirrors == ({False, True} if flip else {False})
        # The axes shift independently: equal shifts of both would give only 2 * shift + 1 pairs.
        assert shift == 0 or len({(down, right) for down, right, _ in moves}) > 2 * shift + 1

    def test_half_of_the_images_are_mirrored(self):
        mirrored = first_mirrored(2000, seed=0)
        assert 0.45 < mirrored.double().mean() < 0.55  # The bounds are 4.5 standard errors from 0.5.
        assert not torch.equal(mirrored, first_mirrored(2000, seed=1))

    @pytest.mark.parametrize("side", [1, 2, 3, 20])
    def test_a_square_is_cut_out_around_a_random_pixel(self, side):
        x = torch.ones(500, 2, 5, 7)
        zero = augment(x, shift=0, mirrored=None, cutout=side, generator=seeded(0)) == 0
        assert torch.equal(zero[:, 0], zero[:, 1])
        rows, columns = zero[:, 0].any(2), zero[:, 0].any(1)
        assert torch.equal(zero[:, 0], rows[:, :, None] & columns[:, None, :])
        for line, length in ((rows, 5), (columns, 7)):
            widths = line.sum(1)
            assert widths.max() == min(side, length)
            assert widths.min() >= 1
            begins = F.pad(line.int(), (1, 0)).diff(dim=1) == 1
            assert (begins.sum(1) == 1).all()  # One window, which the edge of the image may cut.
        assert zero.any(0).all()

    def test_nothing_asked_is_the_identity_and_draws_nothing(self):
        generator = torch.Generator().manual_seed(0)
        x, before = torch.rand(4, 1, 8, 8), generator.get_state()
        assert augment(x, shift=0, mirrored=None, cutout=0, generator=generator) is x
        assert torch.equal(before, generator.get_state())

    def test_same_generator_same_images_and_the_input_stays(self):
        x = torch.rand(32, 3, 8, 8)
        copy = x.clone()
        first, again, other = (
            augment(x, shift=2, mirrored=first_mirrored(len(x), seed=0), cutout=3, generator=seeded(seed))
            for seed in (5, 5, 6)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(x, copy)

    def test_shift_beyond_the_image_empties_some(self):
        augmented = augment(torch.ones(50, 1, 2, 2), shift=4, mirrored=None, cutout=0, generator=seeded(0))
        assert set(augmented.unique().tolist()) == {0.0, 1.0}

    def test_devices_agree(self, device):
        x = torch.rand(16, 1, 8, 8)
        here = augment(x, shift=2, mirrored=first_mirrored(len(x), seed=0), cutout=3, generator=seeded(0))
        there = augment(
            x.to(device),
            shift=2,
            mirrored=first_mirrored(len(x), seed=0),
            cutout=3,
            generator=seeded(0),
        )
        assert torch.equal(here, there.cpu())


class TestPlacement:
    @pytest.mark.parametrize("shift", [0, 1, 3])
    @pytest.mark.parametrize("flip", [False, True])
    def test_undo_puts_pixels_back_and_leaves_zeros_where_the_shift_removed_them(self, shift, flip):
        x = torch.rand(60, 2, 5, 7, generator=seeded(0)) + 0.1
        mirrored = first_mirrored(60, seed=0) if flip else None
        placement = draw_placement(x, shift=shift, mirrored=mirrored, generator=seeded(1))
        placed = placement.apply(x)
        back = placement.undo(placed)
        removed = back == 0
        assert torch.equal(back, x.masked_fill(removed, 0))
        assert torch.equal(removed.sum((1, 2, 3)), (placed == 0).sum((1, 2, 3)))
        assert removed.any() == (shift > 0)

    def test_select_is_the_placement_of_those_images(self):
        x = torch.rand(10, 1, 5, 5, generator=seeded(0))
        placement = draw_placement(x, shift=1, mirrored=first_mirrored(10, seed=0), generator=seeded(1))
        assert torch.equal(placement.select(slice(3, 7)).apply(x[3:7]), placement.apply(x)[3:7])
