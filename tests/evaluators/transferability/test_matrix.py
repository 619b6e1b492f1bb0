"""The transfer matrix, its asymmetry, and transfer to all, some or no other networks."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest, false_discovery_control
from torch import nn

from evaluators import FGSM, FMN, L2, PGD, Transfer, radii
from evaluators.attacks import margin
from evaluators.statistics.multiple_testing import holm
from evaluators.transferability.matrix import TransferMatrix, transfer_matrix
from evaluators.transferability.rates import asymmetry, transfer_rates
from evaluators.transferability.universal import universal_transfer


def labels(*networks, x):
    """Returns the predictions of the first network, and the number of images on which all networks agree."""
    with torch.no_grad():
        predictions = [network(x).argmax(1) for network in networks]
    return predictions[0], int(torch.stack([one == predictions[0] for one in predictions]).all(0).sum())


def matrix(fooled, index=None, given=100):
    """Returns a TransferMatrix with the outcomes `fooled`, (E, S, T, N): by epsilon, source, target and image."""
    fooled = np.asarray(fooled, dtype=bool)
    names = tuple("abcdef"[: fooled.shape[1]])
    epsilons = tuple(0.1 * (e + 1) for e in range(len(fooled)))
    return TransferMatrix(names, epsilons, fooled, np.arange(fooled.shape[3]) if index is None else index, given)


@pytest.fixture
def family(conv, images):
    """A factory of networks that mostly agree: copies of one random network, each with other small noise on its weights."""

    def make(names="abc", size=0.01):
        networks = {}
        for seed, name in enumerate(names, start=1):
            generator = torch.Generator().manual_seed(seed)
            networks[name] = conv()
            with torch.no_grad():
                for parameter in networks[name].parameters():
                    parameter += size * torch.randn(parameter.shape, generator=generator)
                # Removes the preference for one class.
                networks[name][-1].bias -= networks[name](images(200, seed=9)).mean(0)
        return networks

    return make


some_matrices = st.integers(2, 4).flatmap(
    lambda s: st.integers(1, 12).flatmap(
        lambda n: st.lists(st.booleans(), min_size=2 * s * s * n, max_size=2 * s * s * n).map(
            lambda outcomes: matrix(np.reshape(outcomes, (2, s, s, n)))
        )
    )
)


# Closed forms.


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_transfer_between_linear_networks_has_a_closed_form(norm, linear, images):
    networks = {"a": linear(seed=1), "b": linear(seed=2), "c": linear(seed=3)}
    x = images(400, low=0.35, high=0.65)
    y, together = labels(*networks.values(), x=x)
    attack, epsilon = (FGSM(loss=margin), 0.02) if norm == "linf" else (FGSM(loss=margin, norm=L2()), 0.15)
    transfers = transfer_matrix(networks, x, y, attack, [epsilon])
    assert (transfers.n, transfers.given) == (together, 400)
    kept = torch.from_numpy(transfers.index)
    sign = (1 - 2 * y[kept]).float()
    for (s, source), (t, target) in product(enumerate(networks.values()), repeat=2):
        there, here = (network[1].weight[0] - network[1].weight[1] for network in (source, target))
        step = there.sign() if norm == "linf" else there / there.norm()
        gap = sign * (target(x[kept]) @ torch.tensor([1.0, -1.0]))
        clear = ((gap - epsilon * (here @ step)).abs() > 1e-4).numpy()
        assert clear.mean() > 0.95
        expected = (gap < epsilon * (here @ step)).numpy()
        assert np.array_equal(transfers.fooled[0, s, t][clear], expected[clear])


def test_identical_networks_transfer_entirely(linear, images):
    x = images(60, low=0.4, high=0.6)
    y, _ = labels(linear(), x=x)
    transfers = transfer_matrix({"a": linear(), "b": linear()}, x, y, FGSM(), [0.005, 0.02, 0.2])
    assert 0 < transfers.fooled[0].mean() < 1
    assert (transfers.fooled == transfers.fooled[:, :1, :1]).all()
    own = [one for one in universal_transfer(transfers) if one.fooled]
    assert all(one.to_all.share == 1 == one.to_all.chance and len(one.to_some.images) == 0 for one in own)
    assert all(one.p_value == one.corrected == 1 and one.difference == 0 for one in asymmetry(transfers))


def test_the_same_module_may_have_two_names(linear, images):
    network, x = linear(), images(30)
    network.train()
    y, _ = labels(network, x=x)
    transfers = transfer_matrix({"a": network, "b": network}, x, y, FGSM(), [0.05])
    assert (transfers.fooled == transfers.fooled[:, :1, :1]).all()
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_adversarial_images_do_not_transfer_between_opposite_networks(images):
    # The slopes of the two networks are opposite. Their biases are so large that both are correct on most images.
    x = images(40, low=0.45, high=0.55)
    y = torch.zeros(40, dtype=torch.int64)
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0))

    def network(slope):
        layer = nn.Linear(64, 2)
        bias = 1.0 - 0.5 * float(slope.sum())
        layer.load_state_dict({"weight": torch.stack([slope, 0 * slope]), "bias": torch.tensor([bias, 0.0])})
        return nn.Sequential(nn.Flatten(), layer)

    transfers = transfer_matrix({"a": network(weight), "b": network(-weight)}, x, y, FGSM(), [0.2])
    assert transfers.n > 30
    assert transfers.fooled[0].any(-1).tolist() == [[True, False], [False, True]]
    assert transfers.fooled[0, 0, 0].all()
    assert all(one.to_none.share == 1 for one in universal_transfer(transfers))


@pytest.mark.parametrize("attack", [FGSM(loss=margin), PGD(loss=margin, steps=4)], ids=["fgsm", "pgd"])
def test_a_network_scaled_by_100_is_itself_under_an_attack_on_the_margin(attack, linear, images):
    x = images(60)
    networks = {"a": linear(classes=4), "b": linear(classes=4, scale=100)}
    y, _ = labels(*networks.values(), x=x)
    transfers = transfer_matrix(networks, x, y, attack, [0.01, 0.03])
    assert 0 < transfers.fooled.mean() < 1
    assert (transfers.fooled == transfers.fooled[:, :1, :1]).all()


# Oracles.


@pytest.mark.parametrize(
    "attack",
    [FGSM(), PGD(steps=3, random_start=False), PGD(steps=3, restarts=2), PGD(norm=L2(), steps=3), FMN(steps=10)],
    ids=["fgsm", "pgd", "pgd-drawn", "pgd-l2", "fmn"],
)
def test_each_entry_is_what_transfer_and_radii_find(attack, family, images, device):
    networks = {name: network.to(device) for name, network in family().items()}
    x = images(50).to(device)
    y, _ = labels(*networks.values(), x=x)
    epsilons = [0.005, 0.02] if attack.norm.name == "linf" else [0.03, 0.1]
    transfers = transfer_matrix(networks, x, y, attack, epsilons, seed=3)
    assert 10 <= transfers.n < 50
    assert all(0 < share < 1 for share in transfers.fooled.mean((0, 3)).flatten())
    for (s, source), (t, target) in product(enumerate(networks.values()), repeat=2):
        for e, epsilon in enumerate(epsilons):
            # All images are passed, because the random numbers of an image depend on its index.
            r = radii(target, x, y, Transfer(source=source, attack=attack), [epsilon], seed=3)[transfers.index]
            assert torch.equal(r == epsilon, torch.from_numpy(transfers.fooled[e, s, t]))


def test_the_images_are_those_that_all_networks_classify_rightly(family, images):
    networks = family()
    x = images(80)
    y, _ = labels(networks["b"], x=x)
    transfers = transfer_matrix(networks, x, y, FGSM(), [0.05])
    with torch.no_grad():
        expected = [i for i in range(80) if all(int(one(x[i : i + 1]).argmax()) == int(y[i]) for one in networks.values())]
    assert transfers.index.tolist() == expected
    assert transfers.fooled.shape == (1, 3, 3, len(expected))


def test_rates_are_counted_with_exact_intervals():
    transfers = matrix(np.random.default_rng(0).random((2, 3, 3, 40)) < 0.4)
    plain, among = transfer_rates(transfers), transfer_rates(transfers, conditional=True, confidence=0.9)
    for e, s, t in product(range(2), range(3), range(3)):
        hits, own = transfers.fooled[e, s, t], transfers.fooled[e, s, s]
        assert (plain.counts[e, s, t], plain.of[e, s, t]) == (hits.sum(), 40)
        exact = binomtest(int(hits.sum()), 40).proportion_ci(method="exact")
        assert plain.interval[e, s, t] == pytest.approx([exact.low, exact.high])
        assert among.counts[e, s, t] == sum(1 for i in range(40) if hits[i] and own[i])
        k, n = int(among.counts[e, s, t]), int(own.sum())
        assert among.share[e, s, t] == k / n
        high = 1.0 if k == n else beta.ppf(0.95, k + 1, n - k)
        assert among.interval[e, s, t, 1] == pytest.approx(high)


def test_asymmetry_is_mcnemars_test_of_the_two_directions():
    random = np.random.default_rng(1).random((1, 2, 2, 200))
    transfers = matrix(random < np.array([[1.0, 0.5], [0.2, 1.0]])[None, :, :, None])
    (one,) = asymmetry(transfers)
    there, back = transfers.fooled[0, 0, 1], transfers.fooled[0, 1, 0]
    only = int((there & ~back).sum()), int((back & ~there).sum())
    assert one.difference == pytest.approx((only[0] - only[1]) / 200)
    assert one.p_value == one.corrected == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert one.interval[0] < one.difference < one.interval[1]
    assert one.p_value < 1e-6


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below the one before), 0.4 * 1.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@pytest.mark.parametrize(("values", "message"), [([2, -1], "2"), ([0.5, -1], "-1"), ([float("nan")], "nan")])
def test_holm_takes_p_values_alone(values, message):
    with pytest.raises(ValueError, match=f"p-values must be between 0 and 1, got {message}"):
        holm(values)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_bonferroni_and_benjamini_and_hochberg(values):
    corrected, values = holm(values), np.array(values)
    assert (corrected <= np.minimum(1, len(values) * values) + 1e-12).all()
    assert (corrected >= values).all()
    # Holm's p-value is never below that of a correction of the false discovery rate.
    assert (corrected >= false_discovery_control(values, method="bh") - 1e-12).all()
    order = np.argsort(values)
    assert (np.diff(corrected[order]) >= 0).all()


def test_asymmetry_is_corrected_for_all_pairs_and_epsilons():
    tests = asymmetry(matrix(np.random.default_rng(2).random((2, 3, 3, 60)) < [[[[0.8]], [[0.5]], [[0.3]]]]))
    assert [(one.first, one.second) for one in tests] == [("a", "b"), ("a", "c"), ("b", "c")] * 2
    assert [one.epsilon for one in tests] == [0.1] * 3 + [0.2] * 3
    assert [one.corrected for one in tests] == holm([one.p_value for one in tests]).tolist()
    assert any(one.corrected > one.p_value for one in tests)


# Transfer to all, to some and to none.


def test_universal_transfer_by_hand():
    # The five images have the indices 10 to 14 in the input. The last image does not fool its source a.
    crafted_on_a = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]]
    nothing = [[0] * 5] * 3
    first, second, third = universal_transfer(matrix([[crafted_on_a, nothing, nothing]], index=np.arange(10, 15)))
    assert (first.source, first.epsilon, first.fooled) == ("a", 0.1, 4)
    groups = (first.to_all, first.to_some, first.to_none)
    assert [group.images.tolist() for group in groups] == [[10], [11, 13], [12]]
    assert [group.share for group in groups] == [0.25, 0.5, 0.25]
    # Two of the four images that fool a also fool b, and two fool c.
    assert [group.chance for group in groups] == pytest.approx([0.25, 0.5, 0.25])
    exact = binomtest(1, 4).proportion_ci(method="exact")
    assert first.to_all.interval == pytest.approx((exact.low, exact.high))
    for empty in (second, third):
        assert empty.fooled == 0
        for group in (empty.to_all, empty.to_some, empty.to_none):
            assert len(group.images) == 0
            assert np.isnan([group.share, group.chance, *group.interval]).all()


def test_chance_is_the_mean_share_over_random_permutations_of_the_images():
    random = np.random.default_rng(3)
    fooled = random.random((1, 4, 4, 30)) < 0.6
    fooled[0, 0, 0] = True
    reach = universal_transfer(matrix(fooled))[0]
    shares = []
    for _ in range(4000):
        victims = sum(random.permutation(fooled[0, 0, t]).astype(int) for t in (1, 2, 3))
        shares.append([(victims == 3).mean(), ((victims > 0) & (victims < 3)).mean(), (victims == 0).mean()])
    expected = [reach.to_all.chance, reach.to_some.chance, reach.to_none.chance]
    assert np.mean(shares, axis=0) == pytest.approx(expected, abs=0.006)


# Properties.


@settings(max_examples=40)
@given(some_matrices)
def test_the_groups_partition_the_images_that_fool_the_source(transfers):
    among = transfer_rates(transfers, conditional=True)
    for place, one in enumerate(universal_transfer(transfers)):
        e, s = divmod(place, len(transfers.names))
        groups = [one.to_all, one.to_some, one.to_none]
        together = np.sort(np.concatenate([group.images for group in groups]))
        assert together.tolist() == transfers.index[transfers.fooled[e, s, s]].tolist()
        assert one.fooled == len(together)
        if one.fooled:
            assert sum(group.share for group in groups) == pytest.approx(1)
            assert sum(group.chance for group in groups) == pytest.approx(1)
            assert one.to_all.share <= np.delete(among.share[e, s], s).min() + 1e-12
            assert all(low <= group.share <= high for group in groups for low, high in [group.interval])
        else:
            assert np.isnan(among.share[e, s]).all()


@settings(max_examples=40)
@given(some_matrices)
def test_asymmetry_is_antisymmetric(transfers):
    turned = TransferMatrix(
        transfers.names[::-1], transfers.epsilons, transfers.fooled[:, ::-1, ::-1], transfers.index, transfers.given
    )
    mirrored = {(one.second, one.first, one.epsilon): one for one in asymmetry(turned)}
    for one in asymmetry(transfers):
        other = mirrored[one.first, one.second, one.epsilon]
        assert one.difference == -other.difference
        assert one.interval == pytest.approx([-end for end in other.interval[::-1]], abs=1e-9)
        assert (one.p_value, one.corrected) == pytest.approx((other.p_value, other.corrected))


def test_results_depend_neither_on_the_batch_size_nor_on_the_other_epsilons(family, images):
    networks = family()
    x = images(40)
    y, _ = labels(*networks.values(), x=x)
    attack = PGD(steps=3)
    transfers = transfer_matrix(networks, x, y, attack, [0.05, 0.1, 0.2], seed=1)
    again = transfer_matrix(networks, x, y, attack, [0.1], seed=1, batch_size=7)
    assert np.array_equal(again.fooled[0], transfers.fooled[1])
    assert 0 < transfers.fooled[1].mean() < 1


def test_progress_rises_to_1(family, images):
    networks = family()
    x, seen = images(30), []
    y, _ = labels(*networks.values(), x=x)
    transfer_matrix(networks, x, y, FGSM(), [0.1, 0.2], batch_size=4, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) >= 4


# What is refused.


def test_what_is_refused(conv, images):
    x = images(30)
    pair = {"a": conv(), "b": conv(seed=1)}
    y, _ = labels(*pair.values(), x=x)
    wrong = (y + 1) % 4
    few = torch.cat([y[:3], wrong[3:]])

    def refused(networks, y=y, attack=FGSM(), epsilons=(0.1,), error=ValueError):  # noqa: B008
        with pytest.raises(error) as caught:
            transfer_matrix(networks, x, y, attack, list(epsilons))
        return str(caught.value)

    assert "networks must be a mapping from names to networks, got list" in refused(list(pair.values()), error=TypeError)
    assert "networks must hold at least two" in refused({"a": conv()})
    assert "got different numbers of logits: a 4, b 5" in refused({"a": conv(), "b": conv(classes=5)})
    assert "so write 8/255 rather than 8" in refused(pair, epsilons=[8])
    assert "strictly increasing" in refused(pair, epsilons=[0.2, 0.1])
    assert "attack must be an attack, got the class FGSM" in refused(pair, attack=FGSM, error=TypeError)
    message = refused({"a": conv(), "same": conv()}, few)
    assert "3 of 30 images" in message
    assert "at least 10" in message
    assert "a 3, same 3" in message
    assert re.search(r"only 0 of 30 images .*: a 0, b \d+$", refused(pair, wrong))
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        transfer_rates(matrix(np.ones((1, 2, 2, 3))), confidence=95)


def test_a_first_layer_that_works_in_place_changes_nothing(images):
    class Normalised(nn.Module):
        def __init__(self, body, in_place):
            super().__init__()
            self.body, self.in_place = body, in_place

        def forward(self, x):
            return self.body(x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25)

    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(3)]
    x = images(60)
    y = Normalised(bodies[0], in_place=False)(x).argmax(1)
    for body in bodies[1:]:  # Small changes, so that all networks classify the images correctly.
        body.load_state_dict({name: v + 0.02 * torch.randn_like(v) for name, v in bodies[0].state_dict().items()})
    plain, changing = (
        transfer_matrix({str(n): Normalised(body, in_place) for n, body in enumerate(bodies)}, x, y, PGD(), [0.02])
        for in_place in (False, True)
    )
    assert 0 < plain.fooled.mean() < 1
    np.testing.assert_array_equal(plain.fooled, changing.fooled)


def test_different_numbers_of_classes_are_reported_before_labels(linear, images):
    networks = {"three": linear(classes=3), "two": linear(classes=2)}
    with pytest.raises(ValueError, match="got different numbers of logits: three 3, two 2"):
        transfer_matrix(networks, images(12), torch.full((12,), 2), PGD(), [0.1])
