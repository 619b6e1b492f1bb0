"""The share of the time that is done, in closed form, with an artificial clock."""

import pytest

from evaluators import (
    DDN,
    FGSM,
    FMN,
    L2,
    PGD,
    HopSkipJump,
    ProfileOptions,
    Smoothing,
    Square,
    StepLL,
    TargetedAPGD,
    Transfer,
    UniformNoise,
    profile,
)
from evaluators.attacks import EightBit, FastPGD, Strong
from evaluators.profiles.passes import attempts_of, passes_of_attack, passes_of_margins, stage_of, stages_of
from evaluators.profiles.workload import Stage, Workload


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def measured(stages, clock):
    seen = []
    return Workload(stages, lambda label, share: seen.append((label, share)), clock), seen


def test_the_share_is_exact_if_the_passes_are(clock):
    """Two stages of 100 images, of 1 and 3 passes, each pass of 0.5 s."""
    work, seen = measured({"a": Stage("first", 100, 1), "b": Stage("second", 100, 3)}, clock)
    report = work.start("a", 40)
    assert seen == [("first", 0)]
    clock.now = 10
    report(0.5)
    assert seen[-1] == ("first", pytest.approx(10 / 200))
    assert work.seconds_left("a", 20, 0.5, 10) == pytest.approx(190)
    clock.now = 20
    work.add("a", 40)
    work.add("a", 60, 30)
    work.start("b")
    clock.now = 20 + 75
    work.add("b", 50)
    assert seen[-1] == ("second", pytest.approx(125 / 200))
    work.add("b", 50, 75)
    assert seen[-1] == ("second", 1)


def test_measured_seconds_replace_wrong_estimates(clock):
    """The second stage takes 10 times as long as its passes say, as its first part shows."""
    work, seen = measured({"a": Stage("a", 100, 1), "b": Stage("b", 100, 1)}, clock)
    work.add("a", 100, 100)
    assert seen[-1][1] == pytest.approx(0.5)
    report = work.start("b", 10)
    clock.now = 100
    report(0.999)
    assert work.seconds_left("b", 9.99, 0.999, 100) == pytest.approx(900, rel=0.02)
    work.add("b", 10)
    assert work.seconds_left() == pytest.approx(900)
    assert seen[-1][1] == pytest.approx(0.5)  # Never falls.
    work.add("b", 50, 500)
    assert seen[-1][1] == pytest.approx(700 / 1100)


def test_seconds_of_stored_parts_count_for_the_rest_but_not_for_the_share(clock):
    work, seen = measured({"clean": Stage("a", 100, 1), "a": Stage("a", 100, 30)}, clock)
    work.start("clean")
    clock.now += 10
    work.add("clean")
    work.restore("a", 50, 1800)
    assert work.seconds_left() == pytest.approx(1800)
    assert seen[-1] == ("a", pytest.approx(10 / 1810))
    report = work.start("a", 50)
    clock.now += 360
    report(0.2)
    share = seen[-1][1]
    assert 370 * (1 - share) / share == pytest.approx(1440)  # As the progress bar computes the time left.


def test_nothing_is_known_before_the_first_measurement(clock):
    work, seen = measured({"a": Stage("a", 100, 1)}, clock)
    work.start("a")(0.5)
    assert [share for _, share in seen] == [0, 0]
    assert work.seconds_left() == 0


def test_without_a_report_nothing_fails(clock):
    work = Workload({"a": Stage("a", 1, 1)}, None, clock)
    work.start("a")(0.5)
    work.add("a")
    assert work.stages["a"].done == 1


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (PGD(steps=10), 3 * 10 * 5),
        (FGSM(), 3 + 5),
        (StepLL(), 3 + 5),
        (UniformNoise(), 3 * 5),
        (FMN(steps=50), 150),
        (DDN(steps=20), 60),
        (TargetedAPGD(steps=20, targets=3), 3 * 60 * 5),
        (Square(queries=300), 300 * 5),
        (HopSkipJump(queries=300), 300),
        (FastPGD(steps=20), 3 * 50 + 3 * 20),
        (EightBit(attack=PGD(steps=4)), 12 * 5),
    ],
)
def test_passes_of_attacks(attack, passes):
    assert passes_of_attack(attack, 5) == passes


def test_passes_of_the_ensemble_are_about_those_counted():
    """Counted on the normal network of the benchmarks: 438 forward passes and 177 gradients for each image."""
    assert passes_of_attack(Strong(), 6) == pytest.approx(438 + 3 * 177, rel=0.1)


def test_passes_of_a_transfer_attack_are_those_of_its_attack(linear):
    assert passes_of_attack(Transfer(source=linear(3), attack=PGD(steps=4)), 5) == 12 * 5


def test_attempts_are_the_epsilons_up_to_the_radius():
    import numpy as np

    assert attempts_of(np.array([0.0, 0.05, 0.15, 9.0, np.inf]), [0.1, 0.2, 0.3]) == pytest.approx((1 + 2 + 3) / 3)
    assert attempts_of(np.array([0.0, np.inf]), [0.1, 0.2, 0.3]) == 1.5


def test_passes_of_margins_grow_with_the_classes():
    assert [passes_of_margins(classes) for classes in (2, 3, 10)] == [3, 5, 19]


def test_stages_hold_the_extras_and_few_images_for_the_checks():
    options = ProfileOptions(corruptions=True, smoothing=Smoothing(sigma=0.1, n0=10, n=100))
    stages = stages_of(1000, {"checks": FGSM(), "b": FGSM(norm=L2())}, options)
    assert [stage.label for stage in stages.values()] == [
        "margins", "margins", "checks", "b", "checks", "checks", "corruptions", "certificates",
    ]  # fmt: skip
    assert stages[stage_of("checks")].images == 1000
    assert stages["check attacks"].images == 256
    assert stages["check attacks"].passes == 2 * 350
    assert (stages["corruptions"].passes, stages["certificates"].passes) == (26, 111)


def test_the_stages_of_a_profile_are_all_done(linear, images):
    network, x = linear(3), images(300)
    y = network(x).argmax(1)
    seen = []
    options = ProfileOptions(corruptions=True, smoothing=Smoothing(sigma=0.1, n0=10, n=100), batch_size=8)
    profile(network, x, y, {"pgd": PGD(steps=2)}, options=options, progress=lambda *event: seen.append(event))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert all(share < 1 for share in shares[:-1])
    assert shares[-1] == 1
    assert len({share for label, share in seen if label == "certificates"}) > 10
