"""The contract of every attack, and comparisons with the adversarial images of Foolbox."""

import dataclasses
import itertools
import json
import math
import re
import warnings

import pytest
import torch
from torch import nn

import evaluators.attacks
from evaluators import (
    APGD,
    ATTACKS,
    BIM,
    DDN,
    FGSM,
    FMN,
    L2,
    MIFGSM,
    PGD,
    Attack,
    DeepFool,
    HopSkipJump,
    IterativeLL,
    Linf,
    MinimumNorm,
    SingleStep,
    Square,
    StepLL,
    TargetedAPGD,
    Transfer,
    UniformNoise,
    describe,
    radii,
)
from evaluators.attacks import (
    FAB,
    LOSSES,
    ConstraintRelaxation,
    GradientOracle,
    cross_entropy,
    margin,
    targeted_cross_entropy,
)
from evaluators.engine.frozen import frozen
from evaluators.norms import L1

NORMS = (Linf(), L2())
RANDOM = (UniformNoise, HopSkipJump, APGD, TargetedAPGD, Square, ConstraintRelaxation)
EVERY = (*NORMS, L1())


def every(kind, **settings):
    """Returns one attack of a kind for each combination of settings."""
    return [kind(**dict(zip(settings, values, strict=True))) for values in itertools.product(*settings.values())]


def budget(attack):
    """Returns an epsilon at which the attack fools some of the images of these tests."""
    # With few queries, a decision-based attack finds only large perturbations.
    return (4 if isinstance(attack, HopSkipJump) else 1) * {"linf": 0.05, "l2": 0.4, "l1": 1.5}[attack.norm.name]


def right_labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


class Broken(nn.Module):
    """A network whose output is `answer(x)`."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


# Inputs that every attack refuses: the change of usual ones, the error, and a part of its message.
REFUSED = [
    ({"x": lambda x: 2 * x}, ValueError, "; put normalisation inside the network"),
    ({"x": lambda x: x - 1}, ValueError, "x must have pixels in [0, 1], got [-"),
    ({"x": lambda x: (255 * x).to(torch.uint8)}, TypeError, "got torch.uint8; divide uint8 images by 255"),
    ({"x": lambda x: x * math.nan}, ValueError, "x must be finite, got NaN or infinite pixels"),
    ({"x": lambda x: x[:0]}, ValueError, "x must hold at least one image"),
    ({"x": lambda x: x.numpy()}, TypeError, "x must be a tensor of images, got ndarray"),
    ({"y": lambda y: y + 4}, ValueError, "y must hold labels from 0 to 3"),
    ({"y": lambda y: y - 4}, ValueError, "y must hold labels from 0 to 3"),
    ({"y": lambda y: nn.functional.one_hot(y, 4)}, ValueError, "; pass class indices, not one-hot rows"),
    ({"y": lambda y: y[:5]}, ValueError, "y must have shape (16,) to match x, got (5,)"),
    ({"y": lambda y: y.float()}, TypeError, "y must be an int64 tensor of class indices, got torch.float32"),
    ({"y": lambda y: y.tolist()}, TypeError, "y must be an int64 tensor of class indices, got list"),
    ({"epsilon": 99.0}, ValueError, "so write 8/255 rather than 8"),
    ({"epsilon": -0.1}, ValueError, "epsilon must be between 0 and"),
    ({"epsilon": math.nan}, ValueError, "epsilon must be between 0 and"),
    ({"network": lambda x: x * math.nan}, ValueError, "must return logits of shape (1, K) with K >= 2"),
    ({"network": lambda x: x.flatten(1) * math.nan}, ValueError, "must return finite logits, got NaN"),
    ({"network": lambda x: x.flatten(1)[:, :1]}, ValueError, "must return logits of shape (1, K) with K >= 2"),
    ({"network": lambda x: x.flatten(1).sum(1)}, ValueError, "must return logits of shape (1, K) with K >= 2"),
]


class AttackContract:
    """Contract of every attack. Subclasses have a fixture `attack`."""

    @pytest.mark.parametrize("stop", [False, True])
    def test_result_is_inside_the_ball_and_the_pixel_range(self, attack, conv, images, stop):
        network, x = conv(), images(24)
        y = right_labels(network, x)
        epsilon = torch.linspace(0.2, 2, 24) * budget(attack)
        adversarial = attack(network, x, y, epsilon, stop_when_fooled=stop)
        assert adversarial.shape == x.shape
        assert adversarial.dtype == x.dtype
        assert not adversarial.requires_grad
        assert ((adversarial >= 0) & (adversarial <= 1)).all()
        assert (attack.norm.size(adversarial - x) <= epsilon * (1 + 1e-5) + 1e-7).all()
        moved = attack.norm.size(adversarial - x) > 0.1 * epsilon
        if isinstance(attack, MinimumNorm):
            # A point is either the clean image or misclassified.
            assert moved.any()
            assert ((right_labels(network, adversarial) != y) == (adversarial != x).flatten(1).any(1)).all()
        else:
            assert moved.all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_number_format_of_the_images_is_kept(self, attack, conv, images, dtype):
        network, x = conv().to(dtype), images().to(dtype)
        if isinstance(attack, Transfer):
            pytest.skip("the source of the fixture is float32")
        assert attack(network, x, right_labels(network, x), budget(attack)).dtype == dtype

    def test_epsilon_0_moves_nothing(self, attack, conv, images):
        network, x = conv(), images()
        assert torch.equal(attack(network, x, right_labels(network, x), 0.0), x)

    def test_epsilon_may_be_the_whole_pixel_range(self, attack, conv, images):
        network, x = conv(), images()
        adversarial = attack(network, x, right_labels(network, x), attack.norm.largest(64))
        assert ((adversarial >= 0) & (adversarial <= 1)).all()

    @pytest.mark.parametrize("fails", [False, True])
    def test_network_and_images_are_left_as_they_were(self, attack, conv, images, fails):
        network, x = conv(), images()
        y = right_labels(network, x)
        network.train()
        network[4].eval()
        network[0].weight.requires_grad_(False)
        modes = [module.training for module in network.modules()]
        needed = [parameter.requires_grad for parameter in network.parameters()]
        state = {name: value.clone() for name, value in network.state_dict().items()}
        pixels, generator = x.clone(), torch.get_rng_state()
        if fails:
            with pytest.raises(ValueError, match="labels"):
                attack(network, x, y + 9, budget(attack))
        else:
            attack(network, x, y, budget(attack), stop_when_fooled=True)
        assert [module.training for module in network.modules()] == modes
        assert [parameter.requires_grad for parameter in network.parameters()] == needed
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert torch.equal(x, pixels)
        assert torch.equal(torch.get_rng_state(), generator)

    def test_network_runs_in_evaluation_mode(self, attack, conv, images):
        network, x = conv(), images()
        y = right_labels(network, x)
        expected = attack(network, x, y, budget(attack))
        assert torch.equal(attack(network.train(), x, y, budget(attack)), expected)

    def test_same_seed_same_result(self, attack, conv, images):
        network, x = conv(), images()
        y = right_labels(network, x)
        first = attack(network, x, y, budget(attack), seed=3)
        torch.manual_seed(99)
        assert torch.equal(attack(network, x, y, budget(attack), seed=3), first)
        draws = isinstance(attack, RANDOM) or getattr(attack, "random_start", False)
        assert torch.equal(attack(network, x, y, budget(attack), seed=4), first) != draws

    @pytest.mark.parametrize("stop", [False, True])
    def test_an_image_does_not_depend_on_its_batch(self, attack, conv, images, stop):
        # In single precision, the order of summation could change the sign of a gradient.
        network, x = conv().double(), images(dtype=torch.float64)
        y = right_labels(network, x)
        whole = attack(network, x, y, budget(attack), stop_when_fooled=stop)
        part = attack(network, x[:3], y[:3], budget(attack), stop_when_fooled=stop)
        torch.testing.assert_close(part, whole[:3], rtol=0, atol=1e-9)

    def test_stopping_loses_no_fooled_image(self, attack, conv, images):
        network, x = conv(), images(64)
        y = right_labels(network, x)
        last = right_labels(network, attack(network, x, y, budget(attack))) != y
        first = right_labels(network, attack(network, x, y, budget(attack), stop_when_fooled=True)) != y
        assert (first | ~last).all()

    def test_a_network_without_a_path_from_its_pixels_is_no_error(self, attack, images):
        x = images()
        y = torch.zeros(16, dtype=torch.int64)
        for answer in (
            lambda x: torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(len(x), 4),
            lambda x: x.detach().flatten(1)[:, :4],
            lambda x: x.round().flatten(1)[:, :4],
        ):
            adversarial = attack(Broken(answer), x, y, budget(attack))
            assert adversarial.isfinite().all()

    def test_result_is_on_the_device_of_the_images(self, attack, conv, images, device):
        network, x = conv(), images(dtype=torch.float64)
        y = right_labels(network.double(), x)
        expected = attack(network, x, y, budget(attack))
        adversarial = attack(network.to(device), x.to(device), y.to(device), budget(attack))
        assert adversarial.device.type == device.type
        torch.testing.assert_close(adversarial.cpu(), expected, rtol=0, atol=1e-6)

    def test_inputs_that_are_refused(self, attack, conv, images):
        network, x = conv(), images()
        usual = {"network": network, "x": x, "y": right_labels(network, x), "epsilon": budget(attack)}
        for change, kind, message in REFUSED:
            given = dict(usual)
            for name, value in change.items():
                if name == "network":
                    given[name] = Broken(value)
                else:
                    given[name] = value(given[name]) if callable(value) else value
            with pytest.raises(kind, match=re.escape(message)):
                attack(**given)

    def test_epsilon_8_is_refused(self, attack, conv, images):
        x = images()
        # The L2 size of the pixel range of 64 pixels is 8, so 8 is allowed in L2, and 8.1 is not. The L1 size is 64.
        epsilon = {"linf": 8, "l2": 8.1, "l1": 65}[attack.norm.name]
        with pytest.raises(ValueError, match=rf"got {epsilon}\b.*8/255"):
            attack(conv(), x, torch.zeros(16, dtype=torch.int64), epsilon)

    def test_settings_are_data(self, attack):
        assert dataclasses.replace(attack) == attack
        assert len({attack, dataclasses.replace(attack)}) == 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            attack.norm = Linf()
        plain = json.loads(json.dumps(describe(attack)))
        assert plain["norm"] == attack.norm.name
        assert set(plain) == {"name", *(field.name for field in dataclasses.fields(attack))}


class TestFGSM(AttackContract):
    @pytest.fixture(params=every(FGSM, norm=NORMS, loss=LOSSES.values()), ids=lambda a: f"{a.norm.name}-{a.loss.__name__}")
    def attack(self, request):
        return request.param


class TestStepLL(AttackContract):
    @pytest.fixture(params=every(StepLL, norm=NORMS), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestPGD(AttackContract):
    @pytest.fixture(
        params=every(PGD, norm=EVERY, loss=LOSSES.values(), random_start=(False, True), steps=(3,)),
        ids=lambda a: f"{a.norm.name}-{a.loss.__name__}-{'random' if a.random_start else 'clean'}",
    )
    def attack(self, request):
        return request.param


class TestPGDWithRestarts(AttackContract):
    @pytest.fixture(params=every(PGD, norm=EVERY, steps=(2,), restarts=(3,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestBIM(AttackContract):
    @pytest.fixture(params=every(BIM, norm=EVERY, steps=(3,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestIterativeLL(AttackContract):
    @pytest.fixture(params=every(IterativeLL, norm=EVERY, steps=(3,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestMIFGSM(AttackContract):
    @pytest.fixture(params=every(MIFGSM, norm=EVERY, steps=(3,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestDeepFool(AttackContract):
    @pytest.fixture(params=every(DeepFool, norm=NORMS, steps=(5,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestFMN(AttackContract):
    @pytest.fixture(params=every(FMN, norm=EVERY, steps=(10,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestDDN(AttackContract):
    @pytest.fixture(params=every(DDN, loss=(cross_entropy, margin), steps=(15,)), ids=lambda a: a.loss.__name__)
    def attack(self, request):
        return request.param


class TestFAB(AttackContract):
    @pytest.fixture(params=every(FAB, targets=(1, 2), steps=(10,)), ids=lambda a: str(a.targets))
    def attack(self, request):
        return request.param


class TestHopSkipJump(AttackContract):
    @pytest.fixture(params=every(HopSkipJump, norm=NORMS, queries=(200,), probes=(10,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestTransfer(AttackContract):
    @pytest.fixture(params=EVERY, ids=lambda norm: norm.name)
    def attack(self, request, conv):
        source = conv(seed=1).double()
        return Transfer(
            source=Broken(lambda x: source.to(x.device)(x.double()).to(x.dtype)), attack=BIM(norm=request.param, steps=2)
        )


class TestAPGD(AttackContract):
    @pytest.fixture(
        params=[*every(APGD, norm=EVERY, loss=LOSSES.values(), steps=(6,)), APGD(steps=3, restarts=2)],
        ids=lambda a: f"{a.norm.name}-{a.loss.__name__}-{a.restarts}",
    )
    def attack(self, request):
        return request.param


class TestTargetedAPGD(AttackContract):
    @pytest.fixture(params=every(TargetedAPGD, norm=EVERY, targets=(2,), steps=(4,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestSquare(AttackContract):
    @pytest.fixture(params=every(Square, norm=EVERY, queries=(30,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestConstraintRelaxation(AttackContract):
    @pytest.fixture(params=every(ConstraintRelaxation, norm=EVERY, steps=(2,), cycles=(2,)), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestUniformNoise(AttackContract):
    @pytest.fixture(params=every(UniformNoise, norm=EVERY), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


@dataclasses.dataclass(frozen=True, kw_only=True)
class TooFar(Attack):
    """A custom attack that evaluates and returns points far outside the ball."""

    norm: object = Linf()

    def perturb(self, target, x, epsilon, noise):
        return 100 * self.norm.step(x, target.gradient(x + 0.3, cross_entropy))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TooFarInOneStep(SingleStep):
    norm: object = Linf()

    def direction(self, target, x):
        return 100 * self.norm.step(x, target.gradient(x, cross_entropy))


class TestTooFar(AttackContract):
    @pytest.fixture(params=every(TooFar, norm=EVERY), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


class TestTooFarInOneStep(AttackContract):
    @pytest.fixture(params=every(TooFarInOneStep, norm=NORMS), ids=lambda a: a.norm.name)
    def attack(self, request):
        return request.param


def test_epsilons_of_another_number_of_images_are_refused(conv, images):
    network, x = conv(), images()
    with pytest.raises(ValueError, match="epsilon must be"):
        FGSM()(network, x, right_labels(network, x), torch.full((5,), 0.1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_that_is_too_long_gives_the_radii_of_the_projected_one(norm, linear, images):
    network, x = linear(), images(200, low=0.35, high=0.65)
    y = right_labels(network, x)
    grid = [0.001 * 1.5**k for k in range(12)]
    image_radii, expected = (radii(network, x, y, attack(norm=norm), grid) for attack in (TooFarInOneStep, FGSM))
    assert image_radii.tolist() == expected.tolist()


def test_a_misclassified_point_outside_the_ball_does_not_count(linear, images):
    network, x = linear(), images(200, low=0.35, high=0.65)
    y = right_labels(network, x)

    @dataclasses.dataclass(frozen=True)
    class Peeks(Attack):
        norm: object = Linf()

        def perturb(self, target, x, epsilon, noise):
            away = FGSM().direction(target, x)
            target.gradient((x + 0.3 * away).clamp(0, 1), cross_entropy)
            return torch.zeros_like(x)

    assert (right_labels(network, (x + 0.3 * FGSM()(network, x, y, 1.0).sub(x).sign()).clamp(0, 1)) != y).all()
    assert radii(network, x, y, Peeks(), [0.01]).isinf().all()
    assert torch.equal(Peeks()(network, x, y, 0.01, stop_when_fooled=True), x)


def test_stopping_returns_the_point_that_fooled_and_not_the_last_point(linear, images):
    network, x = linear(), images(20, low=0.35, high=0.65)
    y = right_labels(network, x)

    @dataclasses.dataclass(frozen=True)
    class WalksBack(Attack):
        norm: object = Linf()

        def perturb(self, target, x, epsilon, noise):
            target.gradient(x + epsilon * FGSM().direction(target, x), cross_entropy)
            return torch.zeros_like(x)

    assert torch.equal(WalksBack()(network, x, y, 0.2), x)
    adversarial = WalksBack()(network, x, y, 0.2, stop_when_fooled=True)
    torch.testing.assert_close(adversarial, FGSM()(network, x, y, 0.2))
    assert (radii(network, x, y, WalksBack(), [0.2]) == 0.2).all()


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
        return pytest.importorskip("foolbox")


@pytest.fixture
def case(conv, images):
    network, x = conv(classes=10, channels=3, seed=1), images(16, 3, seed=2)
    # Some pixels are at the ends of the range, so that clamping has an effect.
    x = torch.where(x < 0.1, 0.0, torch.where(x > 0.9, 1.0, x))
    return network, x, right_labels(network, x)


def pixels_of(foolbox, attack, network, x, criterion, epsilon):
    return attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, criterion, epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.3])
def test_fgsm_has_foolboxs_pixels(foolbox, case, epsilon):
    network, x, y = case
    expected = pixels_of(foolbox, foolbox.attacks.LinfFastGradientAttack(), network, x, y, epsilon)
    torch.testing.assert_close(FGSM()(network, x, y, epsilon), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_fgsm_in_l2_has_foolboxs_pixels(foolbox, case, epsilon):
    network, x, y = case
    expected = pixels_of(foolbox, foolbox.attacks.L2FastGradientAttack(), network, x, y, epsilon)
    torch.testing.assert_close(FGSM(norm=L2())(network, x, y, epsilon), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.3])
def test_step_ll_has_foolboxs_pixels(foolbox, case, epsilon):
    network, x, y = case
    with torch.no_grad():
        criterion = foolbox.criteria.TargetedMisclassification(network(x).argmin(1))
    # Foolbox's FGSM takes no target, but its PGD does. One PGD step of relative length 1 is the FGSM step to the target.
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(steps=1, rel_stepsize=1.0, random_start=False)
    expected = pixels_of(foolbox, attack, network, x, criterion, epsilon)
    torch.testing.assert_close(StepLL()(network, x, y, epsilon), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("steps", "step_size"), [(1, 1.0), (7, 0.25), (20, 0.1)])
@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.3])
def test_pgd_has_foolboxs_pixels(foolbox, case, steps, step_size, epsilon):
    network, x, y = case
    attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=step_size, random_start=False)
    expected = pixels_of(foolbox, attack, network, x, y, epsilon)
    adversarial = PGD(steps=steps, step_size=step_size, random_start=False)(network, x, y, epsilon)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("steps", "step_size"), [(1, 1.0), (7, 0.25), (20, 0.1)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_pgd_in_l2_has_foolboxs_pixels(foolbox, case, steps, step_size, epsilon):
    network, x, y = case
    attack = foolbox.attacks.L2PGD(steps=steps, rel_stepsize=step_size, random_start=False)
    expected = pixels_of(foolbox, attack, network, x, y, epsilon)
    adversarial = PGD(norm=L2(), steps=steps, step_size=step_size, random_start=False)(network, x, y, epsilon)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_spreads_over_the_ball(norm, images):
    # Without gradients PGD stays where it started.
    x = images(500, low=0.4, high=0.6)
    flat = Broken(lambda x: x.detach().flatten(1)[:, :2])
    delta = PGD(norm=norm, steps=2)(flat, x, torch.zeros(500, dtype=torch.int64), 0.2) - x
    assert norm.size(delta).median() > 0.19
    assert delta.mean().abs() < 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, a fraction of epsilon, got 0.0"),
        ({"step_size": -1.0}, "step_size must be positive and finite, a fraction of epsilon, got -1.0"),
        ({"step_size": math.nan}, "step_size must be positive and finite, a fraction of epsilon, got nan"),
    ],
)
def test_pgd_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PGD(**settings)


def test_losses_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0]])
    y = torch.tensor([0, 2])
    normaliser = torch.tensor([math.exp(2) + 1 + math.exp(-1), 1 + math.exp(3) + math.e]).log()
    torch.testing.assert_close(margin(logits, y), torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(cross_entropy(logits, y), normaliser - torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(targeted_cross_entropy(logits, y, logits.argmin(1)), torch.tensor([-1.0, 0.0]) - normaliser)


def test_names_resolve_to_attacks_and_back():
    named = {"fgsm": FGSM, "step_ll": StepLL, "pgd": PGD, "noise": UniformNoise, "bim": BIM, "iterative_ll": IterativeLL}
    named |= {"mi_fgsm": MIFGSM, "deepfool": DeepFool, "fmn": FMN, "ddn": DDN, "hop_skip_jump": HopSkipJump}
    named |= {"apgd": APGD, "apgd_targeted": TargetedAPGD, "square": Square}
    assert named.items() <= ATTACKS.items()
    for kind in vars(evaluators.attacks).values():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and issubclass(kind, Attack) and kind is not Transfer:
            assert kind in ATTACKS.values()
    for name, kind in ATTACKS.items():
        assert describe(kind())["name"] == name
    assert describe(PGD(norm=L2(), loss=margin, steps=20)) == {
        "name": "pgd",
        "norm": "l2",
        "loss": "margin",
        "steps": 20,
        "step_size": 0.25,
        "random_start": True,
        "restarts": 1,
    }
    assert describe(TooFar())["name"].endswith(":TooFar")


def test_the_gradient_of_a_fooled_image_is_zero_and_its_point_is_kept(linear, images):
    network, x = linear(), images(4)
    y = right_labels(network, x)
    y[1] = 1 - y[1]
    with frozen(network):
        target = GradientOracle(network, x, y, Linf(), torch.full((4,), 0.1), keep="first")
        assert (target.gradient(x, margin).flatten(1).abs().amax(1) > 0).all()
        assert target.fooled.tolist() == [False, True, False, False]
        again = target.gradient((x + 0.01).clamp(0, 1), margin).flatten(1).abs().amax(1)
    assert (again > 0).tolist() == [True, False, True, True]
    assert torch.equal(target.points, x)
