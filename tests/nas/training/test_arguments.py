"""Arguments of `nas.train`: defaults from a config, conversions, and errors with a remedy."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nas
from evaluators import L2, PGD, Attack, Linf, Norm
from nas.data import Dataset, Split, open_data
from nas.data.config import DataConfig
from nas.errors import DataError, NetworkError
from nas.training.arguments import EPSILON, open_dataset, open_settings
from nas.training.config import TrainingConfig
from nas.training.recipes import NFGSM, CarryingRecipe, PGDRecipe, Standard
from nas.training.updates import NoGradientError
from nas.validation import ValidationError

PGD_RECIPE = PGDRecipe(epsilon=0.05, warm_up=0.5)
CONFIG = TrainingConfig(recipe=PGD_RECIPE, epochs=3, batch_size=16)


def pixels(n=12, channels=1, generator=0):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(generator))


def labels(n=12):
    return torch.arange(n) % 2


def linear(inputs=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 10))


def exported():
    return torch.export.export(linear(), (pixels(4),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def scripted():
    return torch.jit.script(linear())


class Plain(Attack):
    """A custom attack that is not a dataclass."""

    norm = Linf()

    def perturb(self, target, x, epsilon, noise):
        return torch.zeros_like(x)


@dataclass(frozen=True)
class FixedNorm(Attack):
    """An attack whose norm is no field."""

    steps: int = 1

    @property
    def norm(self) -> Norm:
        return Linf()

    def perturb(self, target, x, epsilon, noise):
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("arguments", "recipe", "epochs", "radius"),
    [
        ({}, NFGSM(epsilon=EPSILON), 10, EPSILON),
        ({"epsilon": 0.1}, NFGSM(epsilon=0.1), 10, 0.1),
        ({"recipe": "pgd"}, PGDRecipe(epsilon=EPSILON), 10, EPSILON),
        ({"recipe": "standard"}, Standard(), 10, EPSILON),
        ({"recipe": "standard", "epsilon": 0.1}, Standard(), 10, 0.1),
        ({"recipe": PGD_RECIPE}, PGD_RECIPE, 10, 0.05),
        ({"recipe": PGD_RECIPE, "epsilon": 0.1}, PGD_RECIPE, 10, 0.1),
        ({"config": CONFIG}, PGD_RECIPE, 3, 0.05),
        ({"config": TrainingConfig()}, NFGSM(), 10, 0.12),
        ({"config": TrainingConfig(recipe=Standard())}, Standard(), 10, EPSILON),
        ({"config": TrainingConfig(recipe=Standard()), "epsilon": 0.1}, Standard(), 10, 0.1),
        ({"config": CONFIG, "epsilon": 0.1}, PGDRecipe(epsilon=0.1, warm_up=0.5), 3, 0.1),
        ({"config": CONFIG, "recipe": "n_fgsm"}, NFGSM(epsilon=EPSILON), 3, EPSILON),
        ({"config": CONFIG, "recipe": "n_fgsm", "epsilon": 0.1}, NFGSM(epsilon=0.1), 3, 0.1),
        ({"config": CONFIG, "recipe": NFGSM(epsilon=0.2), "epsilon": 0.1}, NFGSM(epsilon=0.2), 3, 0.1),
        ({"config": CONFIG, "epochs": 2}, PGD_RECIPE, 2, 0.05),
        ({"epochs": np.int64(2), "epsilon": np.float32(0.5), "recipe": "standard"}, Standard(), 2, 0.5),
        ({"epochs": torch.tensor(2), "epsilon": torch.tensor(0.5), "recipe": "standard"}, Standard(), 2, 0.5),
    ],
)
def test_arguments_override_the_config(arguments, recipe, epochs, radius):
    arguments = {"config": None, "recipe": None, "epochs": None, "epsilon": None, **arguments}
    settings, measured = open_settings(**arguments)
    assert (settings.recipe, settings.epochs, measured) == (recipe, epochs, radius)
    assert type(settings.epochs) is int
    assert type(measured) is float
    if arguments["config"] is not None:
        assert settings.batch_size == arguments["config"].batch_size


@pytest.mark.parametrize(("config", "epochs", "radius"), [(CONFIG, 3, 0.05), (None, 10, EPSILON)])
def test_a_training_follows_the_config(monkeypatch, config, epochs, radius):
    calls = []

    def train(network, data, settings, *, epsilon, epochs, seed):
        calls.append((settings.recipe.epsilon, epsilon, epochs, seed))
        return iter(())

    monkeypatch.setattr("nas.training.train_network.train", train)
    nas.train(linear(), open_data(DataConfig(limit=300)), config=config, seed=np.int64(3))
    assert calls == [(radius, radius, epochs, 3)]


def test_the_selection_attack_gets_the_norm_of_the_recipe():
    settings, _ = open_settings(CONFIG, NFGSM(norm=L2()), None, None)
    assert settings.selection == PGD(norm=L2(), steps=5, step_size=0.4, loss=CONFIG.selection.loss)
    kept = Plain()
    assert open_settings(TrainingConfig(selection=kept), "standard", None, None)[0].selection is kept


@pytest.mark.parametrize(
    "pair", [(pixels(), labels()), [pixels(), labels()], next(iter(DataLoader(TensorDataset(pixels(), labels()), 12)))]
)
def test_a_pair_of_tensors_may_be_a_list(pair):
    data = open_dataset(pair, 0)
    assert (len(data.train.x), len(data.validation.x)) == (10, 2)


@pytest.mark.filterwarnings("ignore:.*there are only", "ignore:.*split has no image of", "ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"recipe": "nfgsm"}, ValueError, r"^recipe must be one of standard, .*, or a Recipe, got 'nfgsm'$"),
        ({"recipe": NFGSM}, TypeError, r"^recipe must be .* Recipe, got a class; create an instance, such as NFGSM\(\)$"),
        ({"recipe": PGDRecipe}, TypeError, r"got a class; create an instance, such as PGDRecipe\(\)$"),
        ({"recipe": int}, TypeError, r"got a class; create an instance, such as NFGSM\(\)$"),
        ({"recipe": 3}, TypeError, r"^recipe must be a name or a Recipe, got int$"),
        ({"recipe": CarryingRecipe}, TypeError, r"got a class; create an instance, such as NFGSM\(\)$"),
        ({"recipe": TrainingConfig()}, TypeError, r"got TrainingConfig; pass it as config=$"),
        ({"on_epoch": 3}, TypeError, r"^on_epoch must be a function of an EpochResult, got 3$"),
        ({"epsilon": b"0.1"}, TypeError, r"^epsilon must be a number, got b'0.1'$"),
        ({"epochs": 0}, ValueError, r"^epochs must be at least 1, got 0$"),
        ({"epochs": True}, TypeError, r"^epochs must be an int, got True$"),
        ({"epochs": 2.0}, TypeError, r"^epochs must be an int, got 2.0$"),
        ({"epochs": "2"}, TypeError, r"^epochs must be an int, got '2'$"),
        ({"epochs": torch.tensor(2.5)}, TypeError, r"^epochs must be an int, got tensor\(2.5000\)$"),
        ({"seed": "1"}, TypeError, r"^seed must be an int, got '1'$"),
        ({"seed": None}, TypeError, r"^seed must be an int, got None$"),
        ({"seed": 1.0}, TypeError, r"^seed must be an int, got 1.0$"),
        ({"seed": -1}, ValueError, r"^seed must be at least 0, got -1$"),
        ({"epsilon": 8}, ValueError, r"^epsilon must be above 0 and at most 1, in pixel units \(8/255, not 8\), got 8$"),
        (
            {"epsilon": 8, "recipe": "standard"},
            ValueError,
            r"^epsilon must be between 0 and 1, .* write 8/255 rather than 8$",
        ),
        ({"epsilon": "8/255"}, TypeError, r"^epsilon must be a number, got '8/255'; write it without quotes$"),
        ({"epsilon": True}, TypeError, r"^epsilon must be a number, got True$"),
        ({"epsilon": [0.1]}, TypeError, r"^epsilon must be a number, got \[0.1\]$"),
        ({"epsilon": torch.rand(2)}, TypeError, r"^epsilon must be a number, got tensor\("),
        (
            {"config": {"shift": 1}},
            TypeError,
            r"^config must be a TrainingConfig, got dict; write TrainingConfig\(batch_size=",
        ),
        ({"config": TrainingConfig}, TypeError, r"got the class TrainingConfig; write TrainingConfig\(\)$"),
        ({"config": "digits.yaml"}, TypeError, r"got str; for a file, use nas.load_config\(path\).training$"),
        ({"config": Path("digits.yaml")}, TypeError, r"got PosixPath; for a file, use nas.load_config\(path\).training$"),
        ({"config": nas.parse_config({})}, TypeError, r"got Config; use its attribute training$"),
        (
            {"recipe": NFGSM(norm=L2()), "config": TrainingConfig(selection=Plain())},
            ValueError,
            r"^config.selection must have the norm of the recipe, l2, got Plain with the norm linf, which cannot be "
            r"replaced; use another attack, such as PGD\(norm=L2\(\)\)$",
        ),
        (
            {"recipe": NFGSM(norm=L2()), "config": TrainingConfig(selection=FixedNorm())},
            ValueError,
            r"^config.selection must have the norm of the recipe, l2, got FixedNorm with the norm linf",
        ),
        (
            {"data": [1]},
            TypeError,
            r"^data must be the name of a source, a DataConfig, a Dataset of nas.data, or .* got list$",
        ),
        ({"data": (pixels(), labels(), labels())}, TypeError, r"or a pair of tensors \(images, labels\), got tuple$"),
        (
            {"data": (TensorDataset(pixels(), labels()), TensorDataset(pixels(), labels()))},
            TypeError,
            r"got \(TensorDataset, TensorDataset\); pass all of its images",
        ),
        ({"data": pixels()}, TypeError, r"or a pair of tensors \(images, labels\), got Tensor$"),
        (
            {"data": Path("images.npz")},
            TypeError,
            r"got PosixPath; for files, use nas.DataConfig\(name='folder', path=...\)",
        ),
        (
            {"data": DataLoader(TensorDataset(pixels(), labels()))},
            TypeError,
            r"got DataLoader; pass all of its images: "
            r"next\(iter\(DataLoader\(loader.dataset, batch_size=len\(loader.dataset\)\)\)\)$",
        ),
        (
            {"data": TensorDataset(pixels(), labels())},
            TypeError,
            r"got TensorDataset; pass all of its images: next\(iter\(torch.utils.data.DataLoader\(dataset, batch_size=",
        ),
        (
            {"data": (pixels().numpy(), labels().numpy())},
            TypeError,
            r"^x must be .* got ndarray; use torch.from_numpy\(x\)$",
        ),
        ({"data": (pixels(), labels().numpy())}, TypeError, r"^y must be .* got ndarray; use torch.as_tensor\(y\)$"),
        ({"data": (pixels(2), labels(2))}, DataError, r"too few images .* got 2"),
        ({"data": (pixels() * 255, labels())}, ValueError, r"^x must have pixels in \[0, 1\]"),
        ({"data": (pixels(), labels() + 9)}, ValueError, r"^y must hold labels from 0 to 9"),
        (
            {"data": (pixels().flatten(1), labels()), "config": TrainingConfig(shift=1, cutout=2)},
            ValueError,
            r"^images must have shape \(N, C, H, W\) for the augmentation of the config \(shift, cutout\), got \(10, 64\); "
            r"reshape the images, or train without augmentation$",
        ),
        (
            {"data": (pixels()[:, 0], labels()), "config": TrainingConfig(flip=True)},
            ValueError,
            r"for the augmentation of the config \(flip\), got \(10, 8, 8\)",
        ),
        ({"network": 3}, TypeError, r"^network must be an nn.Module, got int"),
        ({"network": nn.Linear}, TypeError, r"^network must be an nn.Module, got a class; create an instance$"),
        (
            {"network": linear().double()},
            ValueError,
            r"^the network's parameters are torch.float64, but .* are torch.float32; use network.to\(torch.float32\)$",
        ),
        (
            {"network": linear(100)},
            NetworkError,
            r"^the network cannot take the images, of shape \(N, 1, 8, 8\): mat1 and mat2 shapes cannot be multiplied",
        ),
        (
            {"network": nn.Sequential(nn.Conv2d(3, 4, 3), linear(144))},
            NetworkError,
            r"^the network cannot take the images, of shape \(N, 1, 8, 8\): .*expected input.* to have 3 channels",
        ),
        (
            {"network": nn.Flatten(0)},
            ValueError,
            r"^the network must return logits of shape \(2, K\) with K >= 2, got \(128,\)",
        ),
        ({"network": nn.Flatten()}, NoGradientError, r"^the network has no parameters to train$"),
        (
            {"network": linear().requires_grad_(False)},
            NoGradientError,
            r"^all parameters of the network are frozen; use network.requires_grad_\(\)$",
        ),
        (
            {"network": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))},
            ValueError,
            r"^the lazy layer of 1.weight is not initialised; call the network on a batch of images first$",
        ),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    arguments = {"network": linear(), "data": (pixels(), labels()), "recipe": "n_fgsm", "epochs": 1, **change}
    with pytest.raises(error, match=message):
        nas.train(**arguments)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(context):
    with context(), pytest.raises(ValueError, match=r"^training needs gradients; call it outside of torch.no_grad\(\) and"):
        nas.train(linear(), (pixels(), labels()))


def test_labels_of_the_validation_images_are_checked():
    data = Dataset("made up", ("a",) * 10, Split(pixels(), labels(), ""), Split(pixels(), labels() + 10, ""))
    with pytest.raises(ValueError, match=r"y must hold labels from 0 to 9, the index of the network's last logit"):
        nas.train(linear(), data, epochs=1)


@pytest.mark.filterwarnings("ignore:.*there are only", "ignore:.*split has no image of")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_of_another_format_are_converted(dtype):
    assert len(nas.train(linear(), (pixels().to(dtype), labels()), "standard", epochs=1).history) == 1


@pytest.mark.filterwarnings("ignore:.*there are only", "ignore:.*split has no image of")
def test_a_first_layer_that_works_in_place_leaves_the_images():
    class Doubling(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    x = pixels()
    data = Dataset("made up", ("a",) * 10, *[Split(x, labels(), "")] * 2)
    before = x.clone()
    nas.train(nn.Sequential(Doubling(), linear()), data, "standard", epochs=1)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": "adam"}, r"^optimiser must be one of sgd, adamw, got 'adam'$"),
        ({"schedule": "step"}, r"^schedule must be one of one_cycle, cosine, linear, got 'step'$"),
        ({"precision": "bf16"}, r"^precision must be one of auto, float32, bfloat16, got 'bf16'$"),
        ({"on_collapse": "stop"}, r"^on_collapse must be one of multi_step, fail, ignore, got 'stop'$"),
        ({"batch_size": 32.0}, r"^batch_size must be int, got 32.0$"),
        ({"epochs": True}, r"^epochs must be int, got True$"),
        ({"weight_perturbation": None}, r"^weight_perturbation must be a number, got None$"),
        ({"learning_rate": "0.01"}, r"^learning_rate must be a number, got '0.01'$"),
        ({"flip": 1}, r"^flip must be true or false, got 1$"),
        ({"recipe": "pgd"}, r"^recipe must be an instance of Recipe, got 'pgd'$"),
        ({"recipe": NFGSM}, r"^recipe must be an instance of Recipe, got the class NFGSM; write NFGSM\(\)$"),
        ({"selection": PGD}, r"^selection must be an instance of Attack, got the class PGD; write PGD\(\)$"),
        ({"cutout": "x", "shift": -1}, r"^cutout must be int, got 'x'; shift must be at least 0, got -1$"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**change)
    assert TrainingConfig(batch_size=np.int64(32), learning_rate=1, clip_gradients=None).clip_gradients is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("compile_network", "form"),
    [
        (scripted, "a TorchScript module"),
        (lambda: nn.Sequential(scripted(), nn.Identity()), "a TorchScript module"),
        (lambda: torch.jit.freeze(scripted().eval()), "a TorchScript module"),
        (exported, "an ExportedProgram"),
        (lambda: exported().module(), "a graph of torch.export"),
        (lambda: nn.Sequential(exported().module()), "a graph of torch.export"),
    ],
)
def test_compiled_networks_are_refused(compile_network, form):
    message = rf"^network must be a trainable nn.Module, got {form}; pass the network from which it was made$"
    with pytest.raises(TypeError, match=message):
        nas.train(compile_network(), (pixels(), labels()), "standard", epochs=1)


def test_a_refused_network_keeps_its_modes():
    network = nn.Sequential(nn.Dropout(), exported().module()).to("cpu")
    network[0].eval()
    with pytest.raises(TypeError, match=r"got a graph of torch.export"):
        nas.train(network, (pixels(), labels()))
    assert network.training
    assert not network[0].training
