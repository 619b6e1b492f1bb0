"""Training recipes: points to train on, and their loss.

To add one, write a frozen dataclass with the methods `points` and `loss`, and add it to `RECIPES`. A subclass of
`CrossEntropyRecipe` has label smoothing and the entropy penalty, and one of `BallRecipe` also has epsilon and its warm-up.
A subclass of `CarryingRecipe` also carries tensors from batch to batch.
"""

from nas.training.recipes.adversarial import Adversarial, Fast, PGDRecipe
from nas.training.recipes.base import AttackRecipe, BallRecipe, CrossEntropyRecipe, Recipe, StepsRecipe
from nas.training.recipes.carrying import CarryingRecipe
from nas.training.recipes.fgsm_pgi import FGSMPGI
from nas.training.recipes.free import Free
from nas.training.recipes.mart import Mart
from nas.training.recipes.mixture import Mixture
from nas.training.recipes.n_fgsm import NFGSM
from nas.training.recipes.standard import Standard
from nas.training.recipes.trades import Trades

RECIPES: dict[str, type[Recipe]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "fast": Fast,
    "n_fgsm": NFGSM,
    "fgsm_pgi": FGSMPGI,
    "free": Free,
    "pgd": PGDRecipe,
    "trades": Trades,
    "mart": Mart,
    "mixture": Mixture,
}

__all__ = [
    "FGSMPGI",
    "NFGSM",
    "RECIPES",
    "Adversarial",
    "AttackRecipe",
    "BallRecipe",
    "CarryingRecipe",
    "CrossEntropyRecipe",
    "Fast",
    "Free",
    "Mart",
    "Mixture",
    "PGDRecipe",
    "Recipe",
    "Standard",
    "StepsRecipe",
    "Trades",
]
