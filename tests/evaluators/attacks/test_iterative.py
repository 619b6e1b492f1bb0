"""BIM, IterativeLL, MIFGSM and the restarts of PGD: closed forms, then the pixels of Foolbox and torchattacks."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

from evaluators import BIM, FGSM, L2, MIFGSM, PGD, IterativeLL, Linf, StepLL, radii
from evaluators.attacks import LOSSES, cross_entropy, dlr, margin, targeted
from evaluators.engine.noise import ImageNoise

NORMS = (Linf(), L2())
WALKS = (BIM, IterativeLL, MIFGSM)


def labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class OnePixel(nn.Module):
    """Maps the mean pixel p to logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return torch.stack(self.logits(x.flatten(1).mean(1)), 1)


class TestClosedForms:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("kind", [BIM, MIFGSM])
    def test_on_a_linear_network_many_steps_end_where_one_step_does(self, kind, norm, linear, images):
        network, x = linear().double(), images(low=0.35, high=0.65, dtype=torch.float64)
        y = labels(network, x)
        adversarial = kind(norm=norm, steps=4, step_size=0.25)(network, x, y, 0.02)
        torch.testing.assert_close(adversarial, FGSM(norm=norm)(network, x, y, 0.02), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("norm", NORMS)
    def test_with_two_classes_the_least_likely_class_is_the_wrong_one(self, norm, linear, images):
        network, x = linear().double(), images(low=0.35, high=0.65, dtype=torch.float64)
        y = labels(network, x)
        adversarial = IterativeLL(norm=norm, steps=4, step_size=0.25)(network, x, y, 0.02)
        torch.testing.assert_close(adversarial, StepLL(norm=norm)(network, x, y, 0.02), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("kind", WALKS)
    def test_the_perturbation_is_as_long_as_all_steps_together(self, kind, linear, images):
        network, x = linear(), images(low=0.35, high=0.65)
        adversarial = kind(steps=3, step_size=0.1)(network, x, labels(network, x), 0.1)
        torch.testing.assert_close(Linf().size(adversarial - x), torch.full((16,), 0.03), rtol=0, atol=1e-6)

    def test_the_class_that_was_least_likely_at_first_is_kept(self):
        # At 0.5 the second class is the least likely, and steps towards it raise the pixel. Above 0.525 the third class is
        # the least likely, and steps towards the third class would lower the pixel again.
        network = OnePixel(lambda p: (0 * p + 5, 10 * (p - 0.5) - 1, -10 * (p - 0.5) - 0.5))
        x = torch.full((1, 1, 1, 1), 0.5)
        adversarial = IterativeLL(steps=3, step_size=1 / 3)(network, x, torch.tensor([0]), 0.3)
        assert adversarial.item() == pytest.approx(0.8)

    @pytest.mark.parametrize(("decay", "way"), [(1.0, [0.6, 0.6, 0.5, 0.5]), (0.0, [0.6, 0.5, 0.6, 0.5])])
    def test_momentum_by_hand(self, decay, way):
        # The slope of the margin is 100 below 0.55 and -1 above. MIFGSM divides each gradient by its size: 1 or -1 remains.
        network = OnePixel(lambda p: (0 * p, torch.where(p < 0.55, 100 * p, 60 - p)))
        x = torch.full((1, 1, 1, 1), 0.5)
        for steps, expected in enumerate(way, 1):
            attack = MIFGSM(loss=margin, steps=steps, step_size=0.25, decay=decay)
            assert attack(network, x, torch.tensor([0]), 0.4).item() == pytest.approx(expected)

    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("loss", LOSSES.values())
    def test_bim_is_pgd_from_the_clean_image_and_momentum_of_0_is_bim(self, loss, norm, conv, images):
        network, x = conv().double(), images(dtype=torch.float64)
        y = labels(network, x)
        expected = PGD(norm=norm, loss=loss, steps=5, random_start=False)(network, x, y, 0.1)
        assert torch.equal(BIM(norm=norm, loss=loss, steps=5, step_size=0.25)(network, x, y, 0.1), expected)
        adversarial = MIFGSM(norm=norm, loss=loss, steps=5, step_size=0.25, decay=0.0)(network, x, y, 0.1)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        return pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def torchattacks():
    return pytest.importorskip("torchattacks")


class TestOracles:
    @pytest.fixture
    def case(self, conv, images):
        network, x = conv(classes=10, channels=3, seed=1), images(16, 3, seed=2)
        # Some pixels are at the ends of the range, so that clamping has an effect.
        x = torch.where(x < 0.1, 0.0, torch.where(x > 0.9, 1.0, x))
        return network, x, labels(network, x)

    @pytest.mark.parametrize(("steps", "step_size"), [(1, 1.0), (7, 0.25), (20, 0.1)])
    @pytest.mark.parametrize("size", [0.1, 1.0])
    @pytest.mark.parametrize("norm", NORMS)
    def test_bim_has_foolboxs_pixels(self, foolbox, case, norm, size, steps, step_size):
        network, x, y = case
        kinds = {"linf": foolbox.attacks.LinfBasicIterativeAttack, "l2": foolbox.attacks.L2BasicIterativeAttack}
        epsilon = size * (8 / 255 if norm == Linf() else 1.0)
        attack = kinds[norm.name](steps=steps, rel_stepsize=step_size)
        expected = attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilon=epsilon)
        adversarial = BIM(norm=norm, steps=steps, step_size=step_size)(network, x, y, epsilon)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)

    def test_the_defaults_are_foolboxs(self, foolbox, case):
        network, x, y = case
        attack = foolbox.attacks.LinfBasicIterativeAttack()
        expected = attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilon=0.1)
        torch.testing.assert_close(BIM()(network, x, y, 0.1), expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("norm", NORMS)
    def test_iterative_ll_has_the_pixels_of_foolboxs_targeted_pgd(self, foolbox, case, norm):
        network, x, y = case
        with torch.no_grad():
            criterion = foolbox.criteria.TargetedMisclassification(network(x).argmin(1))
        # Foolbox's BIM takes no target. Foolbox's PGD does, and without a random start it equals BIM.
        kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm.name]
        attack = kind(steps=7, rel_stepsize=0.25, random_start=False)
        epsilon = 0.05 if norm == Linf() else 1.0
        expected = attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, criterion, epsilon=epsilon)
        adversarial = IterativeLL(norm=norm, steps=7, step_size=0.25)(network, x, y, epsilon)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.3])
    def test_bim_has_torchattackss_pixels(self, torchattacks, case, epsilon):
        network, x, y = case
        expected = torchattacks.BIM(network, eps=epsilon, alpha=epsilon / 4, steps=7)(x, y)
        adversarial = BIM(steps=7, step_size=0.25)(network, x, y, epsilon)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("decay", [0.5, 1.0])
    @pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.3])
    def test_mi_fgsm_has_torchattackss_pixels(self, torchattacks, case, epsilon, decay):
        network, x, y = case
        expected = torchattacks.MIFGSM(network, eps=epsilon, alpha=epsilon / 4, steps=7, decay=decay)(x, y)
        adversarial = MIFGSM(steps=7, step_size=0.25, decay=decay)(network, x, y, epsilon)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)


class TestRestarts:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("loss", [cross_entropy, margin])
    def test_the_restart_with_the_largest_loss_is_returned(self, loss, norm, conv, images):
        network, x = conv(seed=3), images()
        y, size, noise = labels(network, x), torch.full((16,), 0.3), ImageNoise.of(5, torch.arange(16))
        once = PGD(norm=norm, loss=loss, steps=1, step_size=0.5)
        with torch.no_grad():
            walks = [
                once.generate(network, x, y, size, stream, stop_when_fooled=False)[0]
                for stream in (noise, noise.fork(1), noise.fork(2))
            ]
            best = torch.stack([loss(network(walk), y) for walk in walks]).argmax(0)
        assert len(best.unique()) == 3
        adversarial = PGD(norm=norm, loss=loss, steps=1, step_size=0.5, restarts=3)(network, x, y, 0.3, seed=5)
        assert torch.equal(adversarial, torch.stack(walks)[best, torch.arange(16)])

    def test_one_restart_uses_the_noise_of_the_seed(self, conv, images):
        network, x = conv(), images()
        y, noise = labels(network, x), ImageNoise.of(2, torch.arange(16))
        delta = Linf().sample(x, torch.tensor(0.1), noise)
        points = (x + delta).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(network(points), y).sum(), points)
        expected = (x + ((points - x) + 0.05 * gradient.sign()).clamp(-0.1, 0.1)).clamp(0, 1)
        adversarial = PGD(steps=1, step_size=0.5)(network, x, y, 0.1, seed=2)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)

    def test_more_restarts_lower_some_radii_and_raise_none(self, conv, images):
        network, x = conv(seed=3), images(200)
        y, grid = labels(network, x), [0.01 * k for k in range(1, 15)]
        one, four = (radii(network, x, y, PGD(steps=1, restarts=n), grid) for n in (1, 4))
        assert (four <= one).all()
        assert (four < one).any()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        *[(kind, {"steps": 0}, "steps must be at least 1, got 0") for kind in WALKS],
        *[
            (kind, {"step_size": 0.0}, "step_size must be positive and finite, a fraction of epsilon, got 0.0")
            for kind in WALKS
        ],
        *[
            (kind, {"step_size": math.nan}, "step_size must be positive and finite, a fraction of epsilon, got nan")
            for kind in WALKS
        ],
        (MIFGSM, {"decay": -0.1}, "decay must be finite and not negative, got -0.1"),
        (PGD, {"restarts": 0}, "restarts must be at least 1, got 0"),
        (
            PGD,
            {"restarts": 2, "random_start": False},
            "restarts must be 1 without a random start, got 2; set random_start to true",
        ),
    ],
)
def test_settings_that_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**settings)


@pytest.mark.parametrize("attack", [StepLL, IterativeLL])
@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr])
def test_every_loss_moves_towards_the_least_likely_class(conv, images, attack, loss):
    network, x = conv().eval(), images(40)
    with torch.no_grad():
        logits = network(x)
        y, towards = logits.argmax(1), logits.argmin(1)
        aimed = targeted(loss)
        before = aimed(logits, y, towards)
        after = aimed(network(attack(loss=loss)(network, x, y, 0.05)), y, towards)
    assert (after > before).double().mean() > 0.9


def test_a_loss_without_a_targeted_form_is_refused():
    for attack in (StepLL, IterativeLL):
        with pytest.raises(ValueError, match="loss must be one of cross_entropy, margin, dlr"):
            attack(loss=lambda logits, y: logits.sum(1))
