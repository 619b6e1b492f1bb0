"""Batches: estimated sizes, bounded memory, and halving of batches that do not fit."""

import pytest
import torch
from torch import nn

from evaluators import PGD, Square, radii
from evaluators.engine.batches import CPU_BYTES, CPU_LEAST, LARGEST, Batches, activation_bytes, find_batches


def test_every_index_comes_once_and_in_order():
    index = torch.arange(3, 20)
    parts = list(Batches(5).over(index, len))
    assert torch.equal(torch.cat([batch for batch, _ in parts]), index)
    assert [size for _, size in parts] == [5, 5, 5, 2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_no_result_is_lost(error):
    def work(batch):
        if len(batch) > 6:
            raise error
        return batch.sum()

    batches = Batches(32)
    parts = list(batches.over(torch.arange(40), work))
    assert sum(int(total) for _, total in parts) == sum(range(40))
    assert batches.size == 4


def test_one_image_that_does_not_fit_and_other_errors_are_raised():
    def starved(batch):
        raise torch.OutOfMemoryError("no room")

    def broken(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        list(Batches(8).over(torch.arange(8), starved))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(Batches(8).over(torch.arange(8), broken))


def test_activations_are_counted_by_storage_without_the_weights():
    # The backward pass needs the output of the sigmoid, which is also the input of the last layer: 100 numbers of 4 bytes.
    network = nn.Sequential(nn.Linear(10, 100), nn.Sigmoid(), nn.Linear(100, 3))
    assert activation_bytes(network, torch.rand(1, 10))[0] <= 2 * 4 * (100 + 10)
    assert activation_bytes(network, torch.rand(1, 10))[0] >= 2 * 4 * 100


def test_larger_networks_get_smaller_batches():
    x = torch.rand(4, 3, 32, 32)

    def size(width):
        return find_batches(nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU()), x)[0].size

    assert size(1) > size(256) == CPU_LEAST > size(2048) >= 1
    assert find_batches(nn.Linear(3, 2), torch.rand(4, 3))[0].size == LARGEST
    assert size(64) * activation_bytes(nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()), x[:1])[0] <= CPU_BYTES


def test_radii_do_not_depend_on_the_batch(conv, images):
    network, x = conv().double(), images(40, dtype=torch.float64)
    y = network(x).argmax(1)
    wanted = radii(network, x, y, PGD(steps=5), [0.02, 0.05, 0.1])
    for size in (1, 7, 1000):
        assert torch.equal(radii(network, x, y, PGD(steps=5), [0.02, 0.05, 0.1], batch_size=size), wanted)


def test_a_network_that_takes_no_gradients_is_measured_by_black_box_attacks(conv, images):
    class Scores(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(torch.from_numpy(x.numpy()))

    network, x = conv(), images(40)
    y, attack = network(x).argmax(1), Square(queries=20)
    with torch.no_grad():
        expected = attack(network, x, y, 0.1)
    assert torch.equal(attack(Scores(network), x, y, 0.1), expected)
    assert torch.equal(radii(Scores(network), x, y, attack, [0.05, 0.1]), radii(network, x, y, attack, [0.05, 0.1]))


def test_a_network_that_fails_fails_with_its_own_error():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        find_batches(nn.Linear(4, 2), torch.rand(5, 3))
