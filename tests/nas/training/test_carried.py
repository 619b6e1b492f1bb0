"""Tensors that recipes carry between batches."""

import dataclasses
import io

import pytest
import torch
from torch import nn

from evaluators import FGSM
from evaluators.engine.noise import ImageNoise
from evaluators.norms import Linf
from nas.data import Dataset, Split
from nas.training import carried as module
from nas.training.augment import Placement, draw_placement, first_mirrored
from nas.training.carried import Carried
from nas.training.checkpoints import Checkpoint
from nas.training.config import TrainingConfig
from nas.training.recipes import FGSMPGI, CarryingRecipe, Free, PGDRecipe, Standard
from nas.training.train import train

RECIPE = FGSMPGI(epsilon=0.1)


@pytest.fixture
def x(images):
    return images(20)


def placement_of(x):
    generator = torch.Generator().manual_seed(0)
    return draw_placement(x, shift=2, mirrored=first_mirrored(len(x), seed=0), generator=generator)


def prior(carried):
    return carried.state_dict()["perturbation"]


def test_rows_are_shifted_and_mirrored_as_their_images(x, device):
    x = x.to(device)
    carried, images = Carried(RECIPE, x, 5, seed=0), torch.tensor([7, 3, 11], device=device)
    # The stored rows are the images themselves, so the rows of a batch must be the augmented images.
    carried.load_state_dict({"perturbation": x, "momentum": 2 * x})
    placement = placement_of(x[images])
    with carried.batch(RECIPE, images, placement) as recipe:
        assert torch.equal(recipe.rows.read("perturbation"), placement.apply(x[images]))
        assert torch.equal(recipe.rows.read("momentum"), placement.apply(2 * x[images]))


def test_rows_are_stored_without_the_augmentation(x, device):
    x = x.to(device)
    carried, images = Carried(RECIPE, x, 5, seed=0), torch.tensor([7, 3, 11], device=device)
    before = prior(carried).clone()
    placement = placement_of(x[images])
    with carried.batch(RECIPE, images, placement) as recipe:
        recipe.rows.write("perturbation", placement.apply(x[images] + 1))
    after = prior(carried)
    visible = placement.undo(torch.ones_like(x[images])) == 1
    assert 0.3 < visible.double().mean() < 1
    # What the shift has removed from the image keeps its prior, and so do all other images.
    assert torch.equal(after[images], torch.where(visible, x[images] + 1, before[images]))
    others = [image for image in range(20) if image not in images.tolist()]
    assert torch.equal(after[others], before[others])


def test_unwritten_rows_stay(x):
    carried = Carried(RECIPE, x, 5, seed=0)
    before = prior(carried).clone()
    with carried.batch(RECIPE, torch.tensor([7, 3, 11]), placement_of(x[:3])):
        pass
    assert torch.equal(prior(carried), before)


def test_rows_of_places_ignore_the_images_and_their_placement(x):
    recipe = Free(epsilon=0.1)
    carried = Carried(recipe, x, 3, seed=0)
    assert prior(carried).shape == (3, 1, 8, 8)
    written = torch.rand(3, 1, 8, 8)
    with carried.batch(recipe, torch.tensor([7, 3, 11]), placement_of(x[:3])) as batch_recipe:
        batch_recipe.rows.write("perturbation", written)
    with carried.batch(recipe, torch.tensor([1, 2, 4]), placement_of(x[:3])) as batch_recipe:
        assert torch.equal(batch_recipe.rows.read("perturbation"), written)


def test_first_values_are_drawn_in_parts_of_any_size(x, monkeypatch):
    whole = prior(Carried(RECIPE, x, 5, seed=3))
    monkeypatch.setattr(module, "DRAWN", 7)
    assert torch.equal(prior(Carried(RECIPE, x, 5, seed=3)), whole)
    assert torch.equal(whole, RECIPE.initial(x, ImageNoise.of(3, torch.arange(20)))["perturbation"])
    assert not torch.equal(prior(Carried(RECIPE, x, 5, seed=4)), whole)


def test_a_recipe_that_carries_nothing_is_given_unchanged(x):
    recipe = Standard()
    for training in (recipe, RECIPE):  # After a collapse, the recipe of a training is replaced.
        carried = Carried(training, x, 5, seed=0)
        with carried.batch(recipe, torch.arange(5), Placement()) as batch_recipe:
            assert batch_recipe is recipe
    assert Carried(recipe, x, 5, seed=0).state_dict() == {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeing(CarryingRecipe):
    """Carries the augmented images. The values of pixels without an image are -1."""

    replays: int = 1
    norm: Linf = Linf()
    wrong: str = ""
    per_image = True

    def remedy(self):
        return self if self.wrong == "remedy" else PGDRecipe()

    def initial(self, x, noise):
        if self.wrong == "list":
            return [x]
        return {"seen": x.flatten(1) if self.wrong == "shape" else torch.full_like(x, -1)}

    def points(self, network, x, y, noise):
        return x

    def loss(self, network, x, points, y):
        return self.cross_entropy(network(points), y)

    def points_from(self, rows, network, x, y):
        rows.write("seen", x)
        return x

    def loss_from(self, rows, network, x, points, y):
        return self.loss(network, x, points, y)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_a_training_gives_each_image_its_own_row_in_place(x, memory_store):
    data = Dataset("made up", ("a", "b", "c"), *[Split(x, torch.arange(20) % 3, "")] * 2)
    config = TrainingConfig(recipe=Seeing(), batch_size=5, shift=2, flip=True, selection=FGSM(), on_collapse="ignore")
    store = memory_store()
    next(train(linear(), data, config, epsilon=0.1, epochs=2, seed=0, checkpoint=Checkpoint(store, 0)))
    seen = torch.load(io.BytesIO(store.read()), weights_only=True)["carried"]["seen"]
    visible = seen >= 0
    assert 0.5 < visible.double().mean() < 1
    assert torch.equal(seen[visible], x[visible])


@pytest.mark.parametrize(
    ("recipe", "error", "message"),
    [
        (Seeing(replays=0), ValueError, r"^Seeing.replays must be an int, at least 1, got 0$"),
        (Seeing(replays=2.5), ValueError, r"^Seeing.replays must be an int, at least 1, got 2.5$"),
        (Seeing(wrong="remedy"), TypeError, r"^Seeing.remedy must return a recipe that carries nothing, such as PGDRecipe"),
        (Seeing(wrong="list"), TypeError, r"^Seeing.initial must return a dict of tensors by name, got list$"),
        (
            Seeing(wrong="shape"),
            ValueError,
            r"^Seeing.initial must return tensors shaped like the images, \(2, 1, 8, 8\), got seen with shape \(2, 64\)$",
        ),
    ],
)
def test_wrong_recipes_are_refused(x, recipe, error, message):
    with pytest.raises(error, match=message):
        Carried(recipe, x, 5, seed=0)


def test_what_is_written_is_converted_to_the_format_of_the_rows(x):
    carried = Carried(RECIPE, x, 4, seed=0)
    with carried.batch(RECIPE, torch.arange(4), Placement()) as recipe:
        recipe.select(torch.arange(2)).rows.write("momentum", torch.ones(2, 1, 8, 8, dtype=torch.bfloat16))
    assert carried.state_dict()["momentum"][:2].eq(1).all()
    assert carried.state_dict()["momentum"].dtype == torch.float32
