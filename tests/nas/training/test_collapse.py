"""Guard against the collapse of training with one gradient step."""

import dataclasses
import io

import pytest
import torch
from torch import nn

import nas.training.train as module
from evaluators import FGSM, L2, PGD
from evaluators.attacks import BIM, MIFGSM, StepLL
from nas.data import open_data
from nas.data.config import DataConfig
from nas.training.checkpoints import Checkpoint
from nas.training.collapse import CollapsedError, collapse_gap
from nas.training.config import TrainingConfig
from nas.training.network import build_network
from nas.training.recipes import FGSMPGI, NFGSM, Adversarial, Fast, Free, Mixture, PGDRecipe, Standard, Trades
from nas.training.train import train
from search_spaces import cell201

EPSILON = 0.1
CELL = dict.fromkeys(("edge01", "edge02", "edge12", "edge03", "edge13", "edge23"), "conv3x3")


class Ramp(nn.Module):
    """Two logits whose difference falls along the direction of the gradient, and rises again close to the end of one step.

    It resists one full step from the clean image. In the middle of the step it is fooled, as a collapsed network is.
    """

    def __init__(self, *, resists_the_end):
        super().__init__()
        self.height = 40.0 if resists_the_end else 0.0

    def forward(self, x):
        walked = (0.5 - x.flatten(1)).mean(1) / EPSILON  # 1 after a full step against the gradient.
        margin = 0.3 - walked + self.height * (walked - 0.9).relu()
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


@pytest.mark.parametrize(("resists_the_end", "share"), [(True, 1.0), (False, 0.0)])
def test_gap_counts_images_that_resist_one_step_only(resists_the_end, share):
    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    network = Ramp(resists_the_end=resists_the_end).eval()
    # FGSM fools the plain ramp, so none of its images resists one step.
    assert bool((network(FGSM()(network, x, y, EPSILON)).argmax(1) == y).all()) is resists_the_end
    recipe = Adversarial(attack=FGSM(), epsilon=EPSILON)
    assert collapse_gap(network, x, y, recipe, recipe.remedy(), seed=0) == share


def test_misclassified_images_do_not_count_and_all_images_of_a_mixture_are_attacked():
    x = torch.full((8, 1, 4, 4), 0.5)
    y = torch.tensor([0, 1] * 4)
    recipe = Mixture(attack=FGSM(), epsilon=EPSILON)
    assert collapse_gap(Ramp(resists_the_end=True).eval(), x, y, recipe, recipe.remedy(), seed=0) == 0.5


def test_the_step_is_that_of_the_recipe():
    # The points of N-FGSM without noise are those of FGSM; with a step of 0, they are the images.
    x, y = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    plain = Ramp(resists_the_end=False).eval()
    for size, share in ((1.0, 0.0), (0.01, 1.0)):
        recipe = NFGSM(epsilon=EPSILON, noise=0.0, step_size=size)
        assert collapse_gap(plain, x, y, recipe, recipe.remedy(), seed=0) == share


@pytest.mark.parametrize(
    ("recipe", "remedy"),
    [
        (Standard(), None),
        (PGDRecipe(), None),
        (Trades(), None),
        (Adversarial(attack=PGD(steps=2)), None),
        (Adversarial(attack=BIM(steps=1)), Adversarial(attack=PGD(steps=3, step_size=0.5))),
        (Adversarial(attack=MIFGSM(steps=1)), Adversarial(attack=PGD(steps=3, step_size=0.5))),
        (Fast(norm=L2(), epsilon=0.5), PGDRecipe(norm=L2(), epsilon=0.5, steps=3, step_size=0.5)),
        (
            NFGSM(epsilon=0.2, label_smoothing=0.1, entropy_penalty=0.3, warm_up=0.5),
            PGDRecipe(epsilon=0.2, label_smoothing=0.1, entropy_penalty=0.3, warm_up=0.5, steps=3, step_size=0.5),
        ),
        (
            Free(norm=L2(), epsilon=0.5, label_smoothing=0.1),
            PGDRecipe(norm=L2(), epsilon=0.5, label_smoothing=0.1, steps=3, step_size=0.5),
        ),
        (FGSMPGI(epsilon=0.2, warm_up=0.5), PGDRecipe(epsilon=0.2, warm_up=0.5, steps=3, step_size=0.5)),
        (Adversarial(attack=FGSM(), epsilon=0.2), Adversarial(attack=PGD(steps=3, step_size=0.5), epsilon=0.2)),
        (Mixture(attack=StepLL(), share=0.3), Mixture(attack=PGD(steps=3, step_size=0.5), share=0.3)),
    ],
)
def test_remedies(recipe, remedy):
    assert recipe.remedy() == remedy
    assert remedy is None or remedy.remedy() is None


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(limit=300))


@pytest.fixture
def collapsing(monkeypatch):
    """Makes the check report a collapse in given epochs; returns the radii of all checks."""
    checks, collapses = [], []

    def gap(network, x, y, recipe, remedy, seed):
        assert recipe.epsilon == remedy.epsilon
        assert not any(part.training for part in network.modules())
        checks.append(recipe.epsilon)
        return 0.9 if len(checks) in collapses else 0.05

    monkeypatch.setattr(module, "collapse_gap", gap)

    def at(*epochs):
        checks.clear()
        collapses[:] = epochs
        return checks

    return at


CONFIG = TrainingConfig(recipe=NFGSM(epsilon=EPSILON), batch_size=64, selection=FGSM(), selection_from=0.5, epochs=4)
RECIPES = [CONFIG.recipe, FGSMPGI(epsilon=EPSILON), Free(epsilon=EPSILON)]


def trained(data, config=CONFIG, epochs=4, until=None, checkpoint=None):
    network = build_network(cell201(channels=4, cells_per_stage=1, stages=1), CELL, data.train.x, 10, 0)
    results = []
    for epoch in train(network, data, config, epsilon=EPSILON, epochs=epochs, seed=0, checkpoint=checkpoint):
        results.append(epoch)
        if epoch.epoch == until:
            break
    return network, results


def weights(network):
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_collapsed_epoch_is_repeated_with_the_remedy(data, collapsing, recipe, memory_store):
    checks, config = collapsing(2), dataclasses.replace(CONFIG, recipe=recipe)
    network, results = trained(data, config)
    assert [epoch.collapsed for epoch in results] == [False, True, False, False]
    assert len(checks) == 2  # After the collapse, PGD trains, and nothing is left to check.
    # One epoch of the recipe, then three of the remedy: as if the recipe had never trained in the second epoch.
    store = memory_store()
    trained(data, config, until=1, checkpoint=Checkpoint(store, 0))
    reference, _ = trained(data, dataclasses.replace(CONFIG, recipe=recipe.remedy()), checkpoint=Checkpoint(store, 0))
    assert torch.equal(weights(network), weights(reference))


@pytest.mark.parametrize(("gap", "collapsed"), [(0.29, False), (0.31, True)])
def test_a_collapse_is_a_gap_of_three_tenths(gap, collapsed, data, monkeypatch):
    monkeypatch.setattr(module, "collapse_gap", lambda *arguments: gap)
    assert [epoch.collapsed for epoch in trained(data, until=1)[1]] == [collapsed]


@pytest.mark.parametrize("recipe", RECIPES[1:], ids=lambda recipe: type(recipe).__name__)
def test_what_a_recipe_carries_is_dropped_at_a_collapse(data, collapsing, recipe, memory_store):
    config, carried = dataclasses.replace(CONFIG, recipe=recipe), []
    for until in (1, 2):
        collapsing(2)
        store = memory_store()
        trained(data, config, until=until, checkpoint=Checkpoint(store, 0))
        carried.append(torch.load(io.BytesIO(store.read()), weights_only=True)["carried"])
    assert carried[0].keys() == ({"perturbation", "momentum"} if recipe.per_image else {"perturbation"})
    assert carried[1] == {}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_without_a_collapse_the_check_changes_nothing(data, collapsing, recipe):
    checks, config = collapsing(), dataclasses.replace(CONFIG, recipe=recipe)
    network, results = trained(data, config)
    assert checks == [EPSILON] * 4
    assert not any(epoch.collapsed for epoch in results)
    ignoring, _ = trained(data, dataclasses.replace(config, on_collapse="ignore"))
    assert len(checks) == 4
    assert torch.equal(weights(network), weights(ignoring))


def test_the_check_uses_the_radius_of_the_warm_up(data, collapsing):
    checks = collapsing()
    trained(data, dataclasses.replace(CONFIG, recipe=NFGSM(epsilon=EPSILON, warm_up=0.5)))
    assert checks == pytest.approx([EPSILON / 2, EPSILON, EPSILON, EPSILON])


def test_the_trial_ends_with_the_reason_if_the_config_says_so(data, collapsing):
    collapsing(3)
    with pytest.raises(
        CollapsedError, match=r"collapsed in epoch 3 of 4: .* choose the recipe pgd, or training\.on_collapse"
    ):
        trained(data, dataclasses.replace(CONFIG, on_collapse="fail"))


@pytest.mark.parametrize("until", [1, 2, 3])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_training_resumed_after_a_collapse_ends_as_uninterrupted(data, collapsing, until, recipe, memory_store):
    config = dataclasses.replace(CONFIG, recipe=recipe)
    collapsing(2)
    network, results = trained(data, config)
    collapsing(2)
    store = memory_store()
    trained(data, config, until=until, checkpoint=Checkpoint(store, 0))
    resumed, after = trained(data, config, checkpoint=Checkpoint(store, 0))
    assert torch.equal(weights(network), weights(resumed))
    assert [epoch.collapsed for epoch in after] == [epoch.collapsed for epoch in results]
