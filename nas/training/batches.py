"""Size of the batches, order of the training images in an epoch, and the number of updates on each batch."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.seeds import seed_of

# The rule for the size of a batch: at least this many batches in an epoch, and sizes within bounds.
BATCHES = 15
SMALLEST, LARGEST = 16, 128


def images_in_batch(size: int | None, n: int) -> int:
    """Returns the number of images in a batch, at most n.

    Without a size, it is the largest power of two from 16 to 128 that gives at least 15 batches in an epoch; 16 if none.

    Args:
        size: Size of the config, or None.
        n: Number of training images, at least 1.
    """
    if size is None:
        size = min(max(SMALLEST, 2 ** (n // BATCHES).bit_length() // 2), LARGEST)
    return min(size, n)


def epoch_batches(
    n: int, batch: int, replays: int, epoch: int, *, seed: int, generator: torch.Generator
) -> tuple[Tensor, list[int]]:
    """Returns the images of an epoch's batches, as indices one batch after the other, and the updates on each batch.

    An epoch has n // batch updates. With m replays, each batch is used for m updates in a row, and m epochs pass over the
    images once. If m does not divide the updates of an epoch, the last batch of an epoch is also the first of the next.

    Args:
        n: Number of training images.
        batch: Number of images in a batch. All batches are whole.
        replays: Number of updates in a row on one batch, m.
        epoch: Number of the epoch, from 0.
        seed: Seed of the training; the order of the images depends on it if they are replayed.
        generator: Generator of the order otherwise.
    """
    updates = n // batch
    if replays == 1:
        return torch.randperm(n, generator=generator)[: updates * batch], [1] * updates
    # Updates are numbered from the start of the training, and so are batches.
    first, last = epoch * updates, (epoch + 1) * updates
    batches = range(first // replays, -(-last // replays))
    counts = [min((number + 1) * replays, last) - max(number * replays, first) for number in batches]
    # One order for m epochs, so that each image comes once in them. A resumed training draws it again.
    passes = epoch // replays
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, "replays", passes)))
    start = (batches.start - passes * updates) * batch
    return order[start : start + len(batches) * batch], counts
