"""Seeds: reproducible, in range, independent."""

import torch

from nas.seeds import seed_of

# seed_of(0, "weights", 0), computed once with numpy 2. Python's own hash of a string would differ between processes.
STORED = 1875890966


def test_equal_arguments_give_the_same_seed():
    assert seed_of(3, "weights", 2) == seed_of(3, "weights", 2)
    assert seed_of(3, "weights") == seed_of(3, "weights", 0)


def test_seeds_of_other_runs_purposes_and_numbers_differ():
    seeds = {seed_of(run, purpose, n) for run in range(20) for purpose in ("a", "b", "weights") for n in range(20)}
    # Among 1,200 random seeds below 2**31, two are equal with a probability below 1 in 2,900.
    assert len(seeds) == 1200


def test_seeds_are_31_bits_spread_over_their_range():
    seeds = [seed_of(0, "architecture", n) for n in range(2000)]
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    # The mean must be within 5 standard errors of 1/2. One standard error is 0.2887 / sqrt(2000).
    assert abs(sum(seeds) / 2000 / 2**31 - 0.5) < 5 * 0.2887 / 2000**0.5


def test_seeds_do_not_depend_on_the_process():
    assert seed_of(0, "weights", 0) == STORED
    torch.manual_seed(5)
    assert seed_of(0, "weights", 0) == STORED
