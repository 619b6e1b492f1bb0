"""Training: reproducible weights, choice of the epoch, recipes, augmentation."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluators import FGSM, L2, PGD, Linf, radii
from evaluators.attacks import margin
from evaluators.engine.folding import Folding
from evaluators.engine.noise import ImageNoise
from nas.data import Dataset, Split, open_data
from nas.data.config import DataConfig
from nas.seeds import seed_of
from nas.training.batches import epoch_batches
from nas.training.checkpoints import Checkpoint, Store
from nas.training.config import TrainingConfig
from nas.training.network import Normalised, build_network, probe
from nas.training.optimiser import rates
from nas.training.recipes import FGSMPGI, NFGSM, RECIPES, Adversarial, Free, Recipe, Standard
from nas.training.train import DivergedError, train
from nas.training.updates import NoGradientError
from search_spaces import cell201, macro

EPSILON = 0.1
FAST = TrainingConfig(epochs=2, batch_size=64, learning_rate=0.2, selection=FGSM())
CELL = {
    "edge01": "conv3x3",
    "edge02": "skip",
    "edge12": "conv1x1",
    "edge03": "skip",
    "edge13": "avgpool3x3",
    "edge23": "conv3x3",
}


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(limit=400))


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small(data, seed=0):
    return build_network(cell201(channels=4, cells_per_stage=1, stages=2), CELL, data.train.x, 10, seed)


def trained(network, data, config=FAST, *, epochs=None, seed=0, epsilon=EPSILON):
    """Trains a network; returns it with the results of its epochs."""
    epochs = list(train(network, data, config, epsilon=epsilon, epochs=epochs or config.epochs, seed=seed))
    return network, epochs


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestSeeds:
    def test_same_seed_same_weights_bit_for_bit(self, data):
        config = dataclasses.replace(FAST, recipe=Adversarial(), shift=1, flip=True)
        first, epochs = trained(small(data), data, config)
        torch.rand(7)  # Other draws in the process must not matter.
        random.random()
        again, others = trained(small(data), data, config)
        assert same(first, again)
        assert [dataclasses.replace(e, seconds=0) for e in epochs] == [dataclasses.replace(e, seconds=0) for e in others]

    @pytest.mark.parametrize("recipe", [kind() for kind in RECIPES.values()], ids=RECIPES)
    def test_same_seed_same_weights_for_every_recipe(self, data, recipe):
        config = dataclasses.replace(FAST, recipe=recipe, shift=1, flip=True)
        assert same(*(trained(small(data), data, config)[0] for _ in range(2)))

    @pytest.mark.parametrize("recipe", [kind() for kind in RECIPES.values()], ids=RECIPES)
    def test_another_seed_trains_to_other_weights(self, data, recipe):
        config = dataclasses.replace(FAST, recipe=recipe, epochs=1)
        assert not same(trained(small(data), data, config, seed=0)[0], trained(small(data), data, config, seed=1)[0])

    def test_same_seed_same_weights_with_dropout(self, data, conv):
        torch.manual_seed(1)
        first, _ = trained(conv(classes=10), data)
        torch.manual_seed(2)
        assert same(first, trained(conv(classes=10), data)[0])

    def test_training_leaves_the_global_generator_as_it_was(self, data):
        before = torch.get_rng_state()
        trained(small(data), data, dataclasses.replace(FAST, recipe=Adversarial(), shift=1, flip=True))
        assert torch.equal(before, torch.get_rng_state())

    def test_building_leaves_the_global_generator_as_it_was(self, data):
        before = torch.get_rng_state()
        first = small(data, seed=3)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert same(first, small(data, seed=3))
        assert not same(first, small(data, seed=4))

    def test_building_that_fails_leaves_the_global_generator_as_it_was(self):
        before = torch.get_rng_state()
        with pytest.raises(ValueError, match="use fewer stages"):
            build_network(cell201(stages=3), CELL, torch.ones(4, 1, 3, 3), 10, 0)
        assert torch.equal(before, torch.get_rng_state())


class Scripted(nn.Module):
    """Network whose error in evaluation mode is scripted for each epoch. A buffer counts its training batches."""

    def __init__(self, errors, labels, steps):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("batches", torch.zeros(()))
        self.errors, self.labels, self.steps = errors, labels, steps

    def forward(self, x):
        if self.training:
            self.batches += 1
            return self.weight * x.flatten(1)[:, :10]
        epoch = math.ceil(float(self.batches) / self.steps)
        wrong = round(self.errors[epoch - 1] * len(self.labels))
        # The first pixel of an image is its index divided by the number of images.
        index = (x.flatten(1)[:, 0] * len(self.labels)).round().long()
        answer = torch.where(index < wrong, (self.labels[index] + 1) % 10, self.labels[index])
        return F.one_hot(answer, 10) * 10.0 + 0 * x.sum()


class TestKeptEpoch:
    @pytest.mark.parametrize(
        ("errors", "selection_from", "kept"),
        [
            ([0.5, 0.2, 0.4, 0.3], 0.0, 2),
            ([0.5, 0.2, 0.4, 0.3], 0.5, 4),
            ([0.1, 0.2, 0.3, 0.4], 0.5, 3),
            ([0.5, 0.2, 0.2, 0.3], 0.0, 3),
            ([0.2, 0.2, 0.2, 0.2], 0.0, 4),
            ([0.1, 0.2, 0.3, 0.4], 1.0, 4),
            ([0.4, 0.1, 0.3, 0.3], 0.25, 2),
            ([0.1, 0.2, 0.3, 0.4, 0.5], 0.5, 3),
            ([1.0, 1.0, 1.0], 0.0, 3),
        ],
    )
    def test_kept_epoch_is_the_last_best_of_those_allowed(self, errors, selection_from, kept):
        n = 20
        x = torch.full((n, 1, 4, 4), 0.5)
        x[:, 0, 0, 0] = torch.arange(n) / n
        y = torch.arange(n) % 10
        split = Split(x, y, "")
        network = Scripted(errors, y, steps=5)
        config = TrainingConfig(recipe=Standard(), batch_size=4, selection=FGSM(), selection_from=selection_from)
        data = Dataset("toy", tuple("0123456789"), split, split)
        epochs = list(train(network, data, config, epsilon=1e-5, epochs=len(errors), seed=0))
        assert network.batches == kept * 5
        assert not network.training
        first = min(math.floor(len(errors) * selection_from), len(errors) - 1)
        assert [e.clean_error for e in epochs] == [None] * first + [pytest.approx(e) for e in errors[first:]]
        assert [(e.epoch, e.epochs) for e in epochs] == [(i + 1, len(errors)) for i in range(len(errors))]

    @pytest.mark.parametrize("selection", [FGSM(), PGD(steps=2, loss=margin), FGSM(norm=L2())])
    def test_weights_are_those_of_the_kept_epoch(self, data, selection):
        config = dataclasses.replace(FAST, recipe=Standard(), selection=selection, selection_from=0, epochs=8)
        epsilon = 0.05 if selection.norm == Linf() else 0.5
        network, epochs = trained(small(data), data, config, seed=3, epsilon=epsilon)
        best = min(epochs, key=lambda e: (e.adversarial_error, -e.epoch))
        image_radii = radii(network, data.validation.x, data.validation.y, selection, [epsilon], seed=3)
        assert float((image_radii <= epsilon).double().mean()) == best.adversarial_error
        assert float((image_radii == 0).double().mean()) == best.clean_error
        assert best.clean_error < best.adversarial_error

    def test_epoch_is_chosen_by_the_adversarial_error_not_the_clean_one(self, data, monkeypatch):
        # Numbers of misclassified and of fooled images, out of 10, in each epoch. The clean error is smallest in the first
        # epoch, the adversarial error in the second one.
        script = iter([(1, 8), (3, 2), (2, 4)])

        def scripted(network, x, y, attack, epsilons, *, seed):
            clean, fooled = next(script)
            radii = [0.0] * clean + [epsilons[0]] * fooled + [math.inf] * (10 - clean - fooled)
            return torch.tensor(radii, dtype=torch.float64)

        monkeypatch.setattr("nas.training.train.radii", scripted)
        network, states = small(data), []
        config = dataclasses.replace(FAST, selection_from=0, average=False)
        for epoch in train(network, data, config, epsilon=0.1, epochs=3, seed=0):
            states.append({name: value.clone() for name, value in network.state_dict().items()})
            assert (epoch.clean_error, epoch.adversarial_error) == [(0.1, 0.9), (0.3, 0.5), (0.2, 0.6)][epoch.epoch - 1]
        assert all(torch.equal(value, states[1][name]) for name, value in network.state_dict().items())


class TestLoop:
    def test_loss_falls_and_digits_are_learnt(self, data):
        config = dataclasses.replace(FAST, recipe=Standard(), epochs=12)
        network, epochs = trained(small(data), data, config)
        assert epochs[-1].loss < 0.5 * epochs[0].loss
        assert epochs[-1].clean_error < 0.4  # A random guess has the error 0.9.
        assert all(e.seconds > 0 for e in epochs)
        assert not network.training

    def test_adversarial_training_lowers_the_adversarial_error(self, data):
        errors = {}
        for name, recipe in (("standard", Standard()), ("adversarial", Adversarial(epsilon=EPSILON))):
            config = dataclasses.replace(FAST, recipe=recipe, epochs=8, selection=PGD(steps=3, step_size=0.5))
            errors[name] = min(e.adversarial_error for e in trained(small(data), data, config)[1] if e.adversarial_error)
        assert errors["adversarial"] < errors["standard"] - 0.05

    @pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("batch_size", [10, 20, 64])
    def test_any_number_of_steps_trains(self, data, epochs, batch_size):
        few = dataclasses.replace(data, train=data.train.first(20), validation=data.validation.first(5))
        config = dataclasses.replace(FAST, recipe=Standard(), batch_size=batch_size)
        assert len(trained(small(data), few, config, epochs=epochs)[1]) == epochs

    def test_batches_are_whole_and_each_image_comes_at_most_once_an_epoch(self, data):
        seen = []

        @dataclasses.dataclass(frozen=True)
        class Spy(Recipe):
            def points(self, network, x, y, noise):
                assert not any(module.training for module in network.modules())
                assert len(x) == len(y) == len(noise.keys)
                return x / 2

            def loss(self, network, x, points, y):
                assert all(module.training for module in network.modules())
                assert torch.equal(points, x / 2)
                seen.append([image.numpy().tobytes() for image in x])
                return F.cross_entropy(network(x), y)

        config = dataclasses.replace(FAST, recipe=Spy(), batch_size=64)
        trained(small(data), data, config)
        assert [len(batch) for batch in seen] == [64] * (2 * (len(data.train.x) // 64))
        half = len(seen) // 2
        epochs = [[image for batch in part for image in batch] for part in (seen[:half], seen[half:])]
        known = {image.numpy().tobytes() for image in data.train.x}
        for epoch in epochs:
            assert set(epoch) <= known
            assert len(set(epoch)) > 0.95 * len(epoch)  # A few images are equal.
        assert epochs[0] != epochs[1]

    def test_noise_differs_from_batch_to_batch(self, data):
        drawn = []

        @dataclasses.dataclass(frozen=True)
        class Spy(Recipe):
            def points(self, network, x, y, noise):
                drawn.append(noise.uniform(x))
                return x

            def loss(self, network, x, points, y):
                return F.cross_entropy(network(x), y)

        trained(small(data), data, dataclasses.replace(FAST, recipe=Spy()), epochs=1)
        assert len({tuple(d.flatten().tolist()) for d in drawn}) == len(drawn) > 2

    def test_a_module_that_stays_in_evaluation_mode_is_left_in_it(self, data):
        class Fixed(nn.BatchNorm2d):
            def train(self, mode=True):
                return super().train(False)

        network = nn.Sequential(Fixed(1), nn.Flatten(), nn.Linear(64, 10))
        trained(network, data, dataclasses.replace(FAST, recipe=Standard(), epochs=1))
        assert network[0].num_batches_tracked == 0

    def test_nan_loss_diverges(self, data):
        @dataclasses.dataclass(frozen=True)
        class Broken(Recipe):
            def points(self, network, x, y, noise):
                return x

            def loss(self, network, x, points, y):
                return network(x).sum() * math.nan

        with pytest.raises(DivergedError, match=r"^training diverged: the loss is nan in epoch 1 of 3$"):
            trained(small(data), data, dataclasses.replace(FAST, recipe=Broken()), epochs=3)

    def test_too_high_a_learning_rate_diverges(self, data):
        # A linear network without normalisation, so that nothing bounds the logits.
        network = nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64, bias=False) for _ in range(6)], nn.Linear(64, 10))
        with pytest.raises(DivergedError, match=r"the loss is (nan|inf) in epoch \d of 4$"):
            trained(network, data, dataclasses.replace(FAST, recipe=Standard(), learning_rate=1e2), epochs=4)

    def test_weights_lost_in_the_last_step_diverge(self, data):
        @dataclasses.dataclass(frozen=True)
        class Exploding(Recipe):
            def points(self, network, x, y, noise):
                return x

            def loss(self, network, x, points, y):
                # The loss is finite, but its gradient is not, because the square root has no finite gradient at zero.
                return F.cross_entropy(network(x), y) + (network(x) * 0).sum().abs().sqrt()

        few = dataclasses.replace(data, train=data.train.first(64))
        with pytest.raises(DivergedError, match="diverged"):
            trained(small(data), few, dataclasses.replace(FAST, recipe=Exploding()), epochs=1)

    def test_bfloat16_runs_on_a_cpu_and_keeps_weights_in_float32(self, data):
        config = dataclasses.replace(FAST, recipe=Adversarial(), precision="bfloat16", epochs=1)
        network, (epoch,) = trained(small(data), data, config)
        assert math.isfinite(epoch.loss)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        exact = trained(small(data), data, dataclasses.replace(config, precision="float32"))
        assert not same(network, exact[0])
        assert epoch.loss == pytest.approx(exact[1][0].loss, rel=0.05)

    def test_auto_is_float32_on_a_cpu(self, data):
        config = dataclasses.replace(FAST, recipe=Standard(), epochs=1)
        exact = trained(small(data), data, dataclasses.replace(config, precision="float32"))[0]
        assert same(trained(small(data), data, config)[0], exact)


def test_the_radius_rises_over_the_first_epochs(data):
    radii_of, points = [], NFGSM.points

    class Noted(NFGSM):
        def points(self, network, x, y, noise):
            radii_of.append(self.epsilon)
            return points(self, network, x, y, noise)

    trained(small(data), data, dataclasses.replace(FAST, recipe=Noted(epsilon=0.2, warm_up=0.5), epochs=4))
    assert list(dict.fromkeys(radii_of)) == [0.1, 0.2]


def test_sides_of_the_images_alternate_between_epochs(data):
    seen = []

    class Noted(Standard):
        def points(self, network, x, y, noise):
            seen.append(x)
            return x

    trained(small(data), data, dataclasses.replace(FAST, recipe=Noted(), flip=True, batch_size=len(data.train.x), epochs=3))
    first, second, third = ({tuple(image.flatten().tolist()) for image in epoch} for epoch in seen)
    assert first == third
    assert {tuple(image.flip(-1).flatten().tolist()) for image in seen[0]} == second


class ByHand:
    """A loop over batches of a linear network, with our optimiser and rates, and no augmentation."""

    config = dataclasses.replace(FAST, epochs=5, average=False, selection_from=1, on_collapse="ignore")

    def __init__(self, data, recipe):
        self.images, self.labels, self.recipe = data.train.x, data.train.y, recipe
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.start = {name: value.clone() for name, value in self.network.state_dict().items()}

    def epochs(self):
        """Yields the images of each batch, once for each update on it; the weights take a step after each."""
        config, batch = self.config, self.config.batch_size
        schedule = iter(rates(config.schedule, config.learning_rate, config.epochs * (len(self.images) // batch)))
        optimiser = torch.optim.SGD(self.network.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4)
        generator = torch.Generator().manual_seed(seed_of(0, "batches"))
        for epoch in range(config.epochs):
            replays = self.recipe.replays
            order, updates = epoch_batches(len(self.images), batch, replays, epoch, seed=0, generator=generator)
            for index, count in zip(order.split(batch), updates, strict=True):
                for _ in range(count):
                    optimiser.zero_grad()
                    yield index
                    optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"] = next(schedule)
                    optimiser.step()

    def assert_same(self, data):
        """Checks that our training gives the same weights."""
        ours = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        ours.load_state_dict(self.start)
        trained(ours, data, dataclasses.replace(self.config, recipe=self.recipe))
        torch.testing.assert_close(ours[1].weight, self.network[1].weight, rtol=1e-4, atol=1e-5)
        assert (ours[1].weight - self.start["1.weight"]).abs().max() > 0.1


@pytest.mark.parametrize("replays", [1, 2, 4])
def test_free_is_the_loop_of_its_paper(data, replays):
    loop = ByHand(data, Free(epsilon=EPSILON, replays=replays))
    delta = torch.zeros(64, 1, 8, 8)
    for index in loop.epochs():
        points = (loop.images[index] + delta).clamp(0, 1).requires_grad_()
        F.cross_entropy(loop.network(points), loop.labels[index]).backward()
        delta = (delta + EPSILON * points.grad.sign()).clamp(-EPSILON, EPSILON)
    loop.assert_same(data)


def test_fgsm_pgi_is_the_loop_of_its_paper(data):
    recipe = FGSMPGI(epsilon=EPSILON, decay=0.5, weight=2)
    loop = ByHand(data, recipe)
    n = len(data.train.x)
    noise = ImageNoise.of(seed_of(0, "carried"), torch.arange(n))
    priors, momenta = EPSILON * (noise.uniform(data.train.x) - 0.5).sign(), torch.zeros_like(data.train.x)
    for index in loop.epochs():
        x, y = loop.images[index], loop.labels[index]
        start = (x + priors[index]).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(loop.network(start), y, reduction="sum"), start)
        momenta[index] = 0.5 * momenta[index] + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        delta, start = start.detach() - x, start.detach()
        points = (x + (delta + EPSILON * gradient.sign()).clamp(-EPSILON, EPSILON)).clamp(0, 1)
        priors[index] = (x + (delta + EPSILON * momenta[index].sign()).clamp(-EPSILON, EPSILON)).clamp(0, 1) - x
        logits = loop.network(points)
        (F.cross_entropy(logits, y) + 2 * F.mse_loss(logits, loop.network(start))).backward()
    loop.assert_same(data)


def test_gradients_are_clipped_to_a_norm(data):
    config = dataclasses.replace(FAST, recipe=Standard(), batch_size=len(data.train.x), weight_decay=0.0, schedule="linear")
    moved = {}
    for limit in (1e-3, None):
        start = small(data)
        before = [parameter.detach().clone() for parameter in start.parameters()]
        network = trained(start, data, dataclasses.replace(config, clip_gradients=limit), epochs=1)[0]
        steps = [after.detach() - start for after, start in zip(network.parameters(), before, strict=True)]
        moved[limit] = torch.cat([step.flatten() for step in steps]).norm().item()
    rate, _ = rates("linear", config.learning_rate, 1)[0]
    # The first step of Nesterov's momentum has 1.9 times the length of the gradient.
    assert moved[1e-3] == pytest.approx(1.9 * rate * 1e-3, rel=1e-3)
    assert moved[None] > 10 * moved[1e-3]


def test_entropy_penalty_lowers_the_entropy(data):
    entropies = []
    for strength in (-0.3, 0.0, 0.3):
        config = dataclasses.replace(FAST, recipe=Standard(entropy_penalty=strength), epochs=4)
        network = trained(small(data), data, config)[0]
        with torch.no_grad():
            logits = network(data.validation.x)
        entropies.append(float(torch.distributions.Categorical(logits=logits).entropy().mean()))
    assert entropies[0] > entropies[1] > entropies[2]


class TestNetwork:
    def test_normalisation_is_that_of_each_channel_of_the_training_images(self):
        train = torch.rand(50, 3, 6, 6) * torch.tensor([0.1, 0.5, 1.0]).view(1, 3, 1, 1)
        network = build_network(macro(1), macro(1).at(0), train, 5, seed=0)
        seen = []
        network.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        assert network.eval()(train).shape == (50, 5)
        std, mean = torch.std_mean(seen[0], dim=(0, 2, 3))
        assert torch.allclose(mean, torch.zeros(3), atol=1e-5)
        assert torch.allclose(std, torch.ones(3), atol=1e-4)

    def test_a_constant_channel_stays_finite(self):
        train = torch.full((10, 1, 8, 8), 0.3)
        network = build_network(macro(1), macro(1).at(0), train, 2, seed=0)
        assert torch.isfinite(network.eval()(torch.rand(4, 1, 8, 8))).all()

    def test_statistics_are_saved_and_not_trained(self):
        network = Normalised(nn.Flatten(), torch.tensor([0.5]), torch.tensor([2.0]))
        assert set(network.state_dict()) == {"mean", "std"}
        assert not list(network.parameters())
        assert torch.equal(network(torch.full((1, 1, 1, 1), 4.5)), torch.tensor([[2.0]]))

    def test_network_is_on_the_device_of_the_images(self, device):
        network = build_network(macro(1), macro(1).at(0), torch.rand(10, 1, 8, 8, device=device), 2, seed=0)
        assert {t.device.type for t in network.state_dict().values()} == {device.type}


class TestInputGradient:
    space = cell201(channels=4, cells_per_stage=1, stages=2)

    @pytest.mark.parametrize(
        ("change", "connected"),
        [
            ({}, True),
            ({"edge03": "none", "edge13": "none", "edge23": "none"}, False),
            ({"edge03": "none", "edge01": "none", "edge02": "none"}, False),
            ({"edge03": "none", "edge01": "none", "edge23": "none"}, False),
            ({"edge03": "skip", "edge01": "none", "edge02": "none"}, True),
            (dict.fromkeys(CELL, "none"), False),
            (dict.fromkeys(CELL, "none") | {"edge01": "conv1x1", "edge12": "skip", "edge23": "avgpool3x3"}, True),
        ],
    )
    def test_disconnected_cells_are_found(self, data, change, connected):
        network = build_network(self.space, CELL | change, data.train.x, 10, seed=0)
        assert probe(network, data.train.x[:4])[0] is not connected

    def test_a_sum_of_logits_without_gradient_is_no_disconnection(self):
        class Opposed(nn.Module):
            def forward(self, x):
                return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)

        assert not probe(Opposed(), torch.rand(4, 1, 8, 8))[0]

    def test_a_network_that_ignores_its_input_has_none(self):
        class Constant(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2))

            def forward(self, x):
                return self.weight.expand(len(x), 2)

        assert probe(Constant(), torch.rand(4, 1, 8, 8)) == (True, 8.0)

    def test_network_and_images_are_left_as_they_were(self, data):
        network, x = small(data).train(), data.train.x[:4]
        state = {name: value.clone() for name, value in network.state_dict().items()}
        with torch.no_grad():  # `probe` works in any grad mode of the caller.
            assert not probe(network, x)[0]
        assert network.training
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())
        assert not x.requires_grad


def script_radii(monkeypatch, counts):
    """Scripts the number of fooled images, out of 10, of each judging; returns a list that fills with the judged weights."""
    judged, answers = [], iter(counts)

    def scripted(network, x, y, attack, epsilons, *, seed):
        judged.append({name: value.clone() for name, value in network.state_dict().items()})
        return torch.tensor([epsilons[0]] * next(answers) + [math.inf] * 10)[:10]

    monkeypatch.setattr("nas.training.train.radii", scripted)
    return judged


class TestAveragedWeights:
    def test_the_better_of_the_weights_and_their_average_is_kept(self, data, monkeypatch):
        # Pairs of numbers of fooled images, out of 10, of the weights and of their average in each epoch.
        script = [(5, 4), (3, 6), (4, 2), (2, 2)]
        judged = script_radii(monkeypatch, [count for pair in script for count in pair])
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        config = dataclasses.replace(FAST, recipe=Standard(), selection_from=0)
        _, epochs = trained(network, data, config, epochs=4)
        assert [round(10 * epoch.adversarial_error) for epoch in epochs] == [4, 3, 2, 2]
        assert [epoch.averaged for epoch in epochs] == [True, False, True, False]
        # The last of the best epochs is kept; of its equal errors, that of the weights themselves counts.
        assert all(torch.equal(value, judged[6][name]) for name, value in network.state_dict().items())

    def test_the_average_can_be_kept(self, data, monkeypatch):
        judged = script_radii(monkeypatch, [5, 1, 5, 5])
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        trained(network, data, dataclasses.replace(FAST, recipe=Standard(), selection_from=0), epochs=2)
        assert all(torch.equal(value, judged[1][name]) for name, value in network.state_dict().items())

    def test_statistics_of_batch_norm_belong_to_the_kept_average(self, data):
        config = dataclasses.replace(FAST, selection_from=0, epochs=6)
        network, epochs = trained(small(data), data, config, epsilon=0.05)
        best = min(epochs, key=lambda e: (e.adversarial_error, -e.epoch))
        assert best.averaged
        image_radii = radii(network, data.validation.x, data.validation.y, FGSM(), [0.05], seed=0)
        assert float((image_radii <= 0.05).double().mean()) == pytest.approx(best.adversarial_error)


class Wavering(nn.Module):
    """A layer that is random in evaluation mode, too."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.3, training=True)


def test_a_network_that_is_random_in_evaluation_mode_is_trained_the_same(data):
    networks, results = [], []
    for draws in (1, 5):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Wavering())
        torch.rand(draws)
        trained_network, epochs = trained(network, data, dataclasses.replace(FAST, selection_from=0, epochs=4))
        networks.append(trained_network)
        results.append([(epoch.clean_error, epoch.adversarial_error, epoch.collapsed) for epoch in epochs])
    assert results[0] == results[1]
    assert same(*networks)


def test_free_needs_gradients_of_the_weights(data):
    class Detached(nn.Module):
        def forward(self, x):
            return self.linear(x.flatten(1)).detach() + x.flatten(1)[:, :10]

    network = Detached()
    network.linear = nn.Linear(64, 10)
    for size in (0, 0.01):
        config = dataclasses.replace(FAST, recipe=Free(epsilon=EPSILON), weight_perturbation=size)
        with pytest.raises(NoGradientError, match="the loss has no gradient for the weights"):
            trained(network, data, config)


def test_folded_layers_are_checked_in_every_epoch_and_before_the_errors(data, monkeypatch):
    checks, original = [], Folding.check

    def check(self, x):
        checks.append(self)
        original(self, x)

    monkeypatch.setattr(Folding, "check", check)
    trained(small(data), data, dataclasses.replace(FAST, epochs=4, selection_from=0.5))
    # For the network and its average, at the start; the network in each epoch; both in each of the two judged epochs.
    assert len(checks) == 2 + 4 + 2 * 2


class TestMemory:
    @pytest.mark.parametrize("size", [0, 1e-9])
    @pytest.mark.parametrize("recipe", [Standard(), *(kind(epsilon=EPSILON) for kind in (NFGSM, FGSMPGI, Free))])
    def test_a_batch_is_halved_once_when_the_memory_runs_out(self, data, recipe, size):
        # Without batch norm, the gradients of two halves are those of the whole batch.
        config = dataclasses.replace(FAST, recipe=recipe, average=False, weight_perturbation=size)
        limited = nn.Sequential(Limited(32), nn.Flatten(), nn.Linear(64, 10))
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        limited[2].load_state_dict(first[1].state_dict())
        whole, expected = trained(first, data, config)
        halved, epochs = trained(limited, data, config)
        assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in expected], rel=1e-4)
        torch.testing.assert_close(halved[2].weight, whole[1].weight, rtol=1e-4, atol=1e-5)

    def test_a_resumed_training_splits_its_batches_at_once(self, data):
        class Kept(Store):
            content = None

            def read(self):
                return self.content

            def write(self, content):
                self.content = content

        store, networks = Kept(), []
        for _ in range(2):
            networks.append(nn.Sequential(Limited(32), nn.Flatten(), nn.Linear(64, 10)))
            next(train(networks[-1], data, FAST, epsilon=EPSILON, epochs=3, seed=0, checkpoint=Checkpoint(store, 0)))
        assert networks[0][0].refused == 1
        resumed = train(networks[1], data, FAST, epsilon=EPSILON, epochs=3, seed=0, checkpoint=Checkpoint(store, 0))
        assert len(list(resumed)) == 3
        assert networks[1][0].refused == 0

    def test_memory_that_runs_out_again_ends_the_training(self, data):
        network = nn.Sequential(Limited(16), nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            trained(network, data, FAST)

    def test_another_error_is_raised_at_once(self, data):
        class Broken(nn.Module):
            def forward(self, x):
                raise RuntimeError("shapes do not match")

        with pytest.raises(RuntimeError, match="shapes do not match"):
            trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Broken()), data, FAST)


class Limited(nn.Module):
    """A layer whose memory holds only a number of images while the network is trained."""

    def __init__(self, images):
        super().__init__()
        self.images, self.refused = images, 0

    def forward(self, x):
        if self.training and len(x) > self.images:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x


def test_images_are_augmented_in_parts_of_limited_memory(data, monkeypatch):
    counts = []

    def noted(x, **settings):
        counts.append(len(x))
        return x

    monkeypatch.setattr("nas.training.train.augment", noted)
    config = dataclasses.replace(FAST, recipe=Standard(), batch_size=20, selection_from=1)
    trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, config, epochs=1)
    n = len(data.train.x) // 20 * 20
    assert counts == [n]
    monkeypatch.setattr("nas.training.train.PART_BYTES", 3 * 20 * 64 * 4 + 100)
    trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, config, epochs=1)
    assert counts[1:] == [60] * (n // 60) + [n % 60] * (n % 60 > 0)
