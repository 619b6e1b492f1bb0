"""Size of the batches, order of the images, and updates on each batch."""

import pytest
import torch

from nas.training.batches import epoch_batches, images_in_batch


@pytest.mark.parametrize(
    ("n", "images"),
    [(1, 1), (9, 9), (16, 16), (100, 16), (479, 16), (480, 32), (959, 32), (960, 64), (1919, 64), (1920, 128), (10**6, 128)],
)
def test_rule_gives_at_least_15_batches_within_its_bounds(n, images):
    assert images_in_batch(None, n) == images


@pytest.mark.parametrize(("size", "n", "images"), [(2, 100, 2), (500, 10_000, 500), (500, 40, 40)])
def test_size_of_the_config_replaces_the_rule(size, n, images):
    assert images_in_batch(size, n) == images


def batches_of(n, batch, replays, epoch, seed=0):
    """Returns the batches of an epoch as tuples of indices, and the updates on each."""
    generator = torch.Generator().manual_seed(epoch)
    order, updates = epoch_batches(n, batch, replays, epoch, seed=seed, generator=generator)
    assert len(order) == batch * len(updates)
    return [tuple(part.tolist()) for part in order.split(batch)], updates


@pytest.mark.parametrize(("n", "batch"), [(40, 4), (43, 4), (9, 9), (20, 7)])
@pytest.mark.parametrize("replays", [1, 2, 3, 4, 8, 50])
def test_each_image_comes_once_in_as_many_epochs_as_there_are_replays(n, batch, replays):
    for passes in range(2):
        updates_of = {}
        for epoch in range(passes * replays, (passes + 1) * replays):
            batches, updates = batches_of(n, batch, replays, epoch)
            assert sum(updates) == n // batch
            assert min(updates) >= 1
            for images, count in zip(batches, updates, strict=True):
                updates_of[images] = updates_of.get(images, 0) + count
        assert len(updates_of) == n // batch
        assert set(updates_of.values()) == {replays}
        images = [image for images in updates_of for image in images]
        assert len(set(images)) == len(images) == n // batch * batch


def test_order_differs_between_passes_and_seeds():
    first = batches_of(40, 4, 2, 0)
    assert batches_of(40, 4, 2, 2) != first
    assert batches_of(40, 4, 2, 0, seed=1) != first
    assert batches_of(40, 4, 2, 0) == first


def test_without_replays_the_order_is_that_of_the_generator():
    order, updates = epoch_batches(10, 3, 1, 5, seed=0, generator=torch.Generator().manual_seed(7))
    assert torch.equal(order, torch.randperm(10, generator=torch.Generator().manual_seed(7))[:9])
    assert updates == [1, 1, 1]
