"""Evaluation over a union of norms: an image counts if an attack of any norm succeeds within the epsilon of its norm."""

import numpy as np
import pytest
import torch

from evaluators import FMN, L2, PGD, radii
from evaluators.attacks import margin
from evaluators.norms import L1
from nas.bundle.manifest import epsilon_and_norm
from nas.config.evaluation import EvaluationConfig
from nas.config.schema import Config
from nas.data import Split
from nas.evaluation.metrics import measured_metrics
from nas.evaluation.train_and_attack import validation_radii

ATTACKS = {
    "linf": PGD(loss=margin, random_start=False),
    "l2": PGD(norm=L2(), loss=margin, random_start=False),
    "l1": FMN(norm=L1()),
}


@pytest.fixture
def case(linear, images):
    network, x = linear(), images(200, low=0.35, high=0.65)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[:5] = 1 - y[:5]
    return network, Split(x, y, "")


def slopes(network):
    weight = network[1].weight.detach().double()
    return weight[0] - weight[1]


def test_the_errors_of_a_linear_network_are_those_of_the_largest_perturbation(case):
    network, validation = case
    slope = slopes(network)
    with torch.no_grad():
        logits = network(validation.x).double()
    distance = (logits[:, 0] - logits[:, 1]).abs().numpy()
    wrong = (logits.argmax(1) != validation.y).numpy()
    epsilons = {"linf": 0.01, "l2": 0.12, "l1": 0.6}
    duals = {"linf": slope.abs().sum(), "l2": slope.norm(), "l1": slope.abs().max()}
    reach = {norm: epsilons[norm] * duals[norm].item() for norm in duals}
    assert min(reach.values()) * 1.02 < sorted(reach.values())[1]
    config = EvaluationConfig(epsilon=0.01, other_norms={"l2": 0.12, "l1": 0.6}, attacks=ATTACKS)
    image_radii, fooled = validation_radii(network, validation, config, seed=0)
    # No pixel moves by more than 0.35, so that the pixel range does not matter: only images close to the longest reach do.
    largest = max(reach.values())
    clear = np.abs(distance / largest - 1) > 0.02
    assert clear.mean() > 0.9
    assert (fooled == (wrong | (distance < largest)))[clear].all()
    metrics = measured_metrics(["adversarial_error@0.01"], image_radii, fooled, network, validation, config)
    assert metrics["adversarial_error"] == fooled.mean()
    alone = EvaluationConfig(epsilon=0.01, attacks={"linf": ATTACKS["linf"]})
    expected, only = validation_radii(network, validation, alone, seed=0)
    assert image_radii.tolist() == expected.tolist()
    assert metrics["adversarial_error@0.01"] == only.mean() < fooled.mean()


def test_each_norm_adds_the_images_that_its_own_attack_fools(conv, images):
    network, x = conv(), images(200)
    with torch.no_grad():
        validation = Split(x, network(x).argmax(1), "")
    config = EvaluationConfig(epsilon=0.1, other_norms={"l2": 0.55, "l1": 1.9}, attacks=ATTACKS)
    _, fooled = validation_radii(network, validation, config, seed=0)
    each = {
        name: radii(
            network, validation.x, validation.y, attack, [config.epsilon if name == "linf" else config.other_norms[name]]
        ).isfinite()
        for name, attack in ATTACKS.items()
    }
    assert fooled.tolist() == torch.stack(list(each.values())).any(0).tolist()
    assert fooled.sum() > max(int(one.sum()) for one in each.values())


def test_images_that_are_counted_already_are_not_attacked_in_other_norms(case):
    network, validation = case
    counts = []

    class Counted(torch.nn.Module):
        def forward(self, x):
            counts.append(len(x))
            return network(x)

    config = EvaluationConfig(
        epsilon=0.9, other_norms={"l2": 5.0}, attacks={"linf": PGD(loss=margin), "l2": PGD(norm=L2(), loss=margin)}
    )
    validation_radii(Counted(), validation, config, seed=0)
    both = len(counts)
    counts.clear()
    alone = EvaluationConfig(epsilon=0.9, attacks={"linf": PGD(loss=margin)})
    validation_radii(Counted(), validation, alone, seed=0)
    assert both == len(counts)


def test_the_norm_of_epsilon_is_the_one_without_another_epsilon():
    finalists = Config().finalists.attacks
    config = Config(evaluation=EvaluationConfig(attacks={"b": ATTACKS["l2"], "a": ATTACKS["linf"]}, other_norms={"l2": 0.5}))
    assert config.norm == "linf"
    assert config.epsilons_by_norm == {"linf": 0.12, "l2": 0.5}
    assert {attack.norm.name for attack in finalists.values()} == {"linf", "l2"}
    attacks = {"b": {"name": "pgd", "norm": "l2"}, "a": {"name": "pgd", "norm": "linf"}}
    record = {"epsilon": 0.12, "config": {"evaluation": {"attacks": attacks, "other_norms": {"l2": 0.5}}}}
    assert epsilon_and_norm(record) == (0.12, "linf")
    record["config"]["evaluation"]["other_norms"] = None
    assert epsilon_and_norm(record) == (0.12, "l2")
