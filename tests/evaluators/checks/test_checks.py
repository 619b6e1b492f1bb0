"""Each check fails on a planted fault and passes without the fault."""

import copy
import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from evaluators import (
    APGD,
    FGSM,
    L2,
    PGD,
    CheckResult,
    HopSkipJump,
    IterativeLL,
    Linf,
    Margins,
    Square,
    StepLL,
    Transfer,
    UniformNoise,
    check_attacks,
    check_network,
    compare,
    explain,
    margins,
    radii,
)
from evaluators.attacks import cross_entropy, margin
from evaluators.checks import (
    batch_independent,
    black_box_is_weaker,
    comparison_resolved,
    cross_entropy_not_masked,
    deterministic,
    enough_images,
    enough_steps,
    gradients_alive,
    gradients_predict,
    logits_not_probabilities,
    many_steps_beat_one,
    noise_is_weaker,
    normalised_inside,
    reaches_chance,
    scale_does_not_matter,
    square_is_weaker,
    subset,
    tells_classes_apart,
)
from evaluators.checks.messages import SENTENCES
from evaluators.checks.radii import is_black_box, is_many_step
from evaluators.checks.result import binomial_excess, excess, largest, most_informative_epsilon
from evaluators.engine.prepared import prepare
from evaluators.norms import L1

GRID = np.geomspace(0.01, 0.4, 10).tolist()
FEW = [0.05, 0.1, 0.2]
INF = np.inf


def noisy(x):
    return x + 0.02 * torch.randn_like(x)


def rounded(x):
    return (8 * x).round() / 8


def straight_through(x):
    return x + (rounded(x) - x).detach()


def bytes_straight_through(x):
    return x + ((255 * x).round() / 255 - x).detach()


def with_batch_statistics(network):
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return network


@pytest.fixture(params=["usual", "adversarial"])
def case(request, networks, tested):
    """A network without a planted fault, and 160 test images with their labels."""
    return networks[request.param], tested[0][:160], tested[1][:160]


def measured(network, x, y, attacks, grid=GRID):
    return {name: radii(network, x, y, attack, grid).numpy() for name, attack in attacks.items()}


def worst(network, x, y, *attacks, grid=GRID):
    return np.min([radii(network, x, y, attack, grid).numpy() for attack in attacks], axis=0)


class TestOutcome:
    def test_excess_is_the_one_sided_mcnemar_test(self):
        weak, strong = np.zeros(200, dtype=bool), np.zeros(200, dtype=bool)
        weak[:30], strong[20:35] = True, True
        share_excess = excess(weak, strong)
        assert share_excess.share == pytest.approx(15 / 200)
        assert share_excess.p_value == pytest.approx(binomtest(20, 25, alternative="greater").pvalue)
        # `compare` runs the same test two-sided, so its p-value is twice as large.
        both = compare(np.where(weak, 0.1, INF), np.where(strong, 0.1, INF), 0.1)
        assert share_excess.p_value == pytest.approx(both.p_value / 2)
        assert excess(strong, weak).p_value > 0.5
        assert excess(weak, weak).p_value == 1

    @pytest.mark.parametrize(("n", "least"), [(100, 7), (10_000, 301)])
    def test_a_finding_is_both_large_and_beyond_chance(self, n, least):
        # With few images the p-value decides, with many images the tolerance of 0.03.
        for count, finding in ((least - 1, False), (least, True)):
            weak = np.arange(n) < count
            assert excess(weak, np.zeros(n, dtype=bool)).is_finding() is finding

    def test_more_tests_need_a_smaller_p_value(self):
        share_excess = excess(np.arange(100) < 7, np.zeros(100, dtype=bool))
        assert share_excess.is_finding()
        assert not share_excess.is_finding(tests=2)

    def test_attacks_of_equal_strength_are_seldom_a_finding(self):
        generator = np.random.default_rng(0)
        # Each attack fools a random half of the images. Real attacks fool similar images and differ less by chance.
        findings = [excess(*(generator.random((2, 150)) < 0.5)).is_finding() for _ in range(3000)]
        assert 0 < np.mean(findings) < 0.01

    def test_binomial_excess_is_the_exact_binomial_test(self):
        share_excess = binomial_excess(9, 120)
        assert share_excess.share == pytest.approx(0.075)
        assert share_excess.p_value == pytest.approx(binomtest(9, 120, 0.02, alternative="greater").pvalue)
        assert binomial_excess(0, 0).p_value == 1
        assert not binomial_excess(10, 200).is_finding()  # A share of 5 % is tolerated.
        assert binomial_excess(14, 200).is_finding()

    def test_the_most_informative_epsilon_halves_the_correct_images(self):
        r = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4])  # Epsilon 0.2 fools two of the 4 correct images.
        assert most_informative_epsilon(r, [0.05, 0.1, 0.2, 0.3]) == 0.2
        assert most_informative_epsilon(np.full(5, INF), [0.1, 0.2]) == 0.2
        assert most_informative_epsilon(np.zeros(5), [0.1, 0.2]) == 0.2

    def test_a_finding_is_shown_before_a_larger_excess_by_chance(self):
        many = excess(np.arange(300) < 20, np.zeros(300, dtype=bool))
        few = excess(np.arange(10) < 2, np.zeros(10, dtype=bool))
        passed, evidence = largest([few, many], [0.1, 0.2])
        assert not passed
        assert evidence["epsilon"] == 0.2

    def test_many_epsilons_are_many_tests(self):
        once, never = excess(np.arange(100) < 8, np.zeros(100, dtype=bool)), excess(*np.zeros((2, 100), dtype=bool))
        assert not largest([once], [0.1])[0]
        assert largest([once, *[never] * 11], np.linspace(0.1, 0.2, 12).tolist())[0]

    @pytest.mark.parametrize("n", [1, 5, 256, 257, 10_000])
    def test_the_subset_is_spread_evenly(self, n):
        chosen = subset(n)
        assert len(chosen) == min(n, 256)
        assert len(set(chosen.tolist())) == len(chosen)
        assert (int(chosen.min()), int(chosen.max())) == (0, n - 1)


class TestOutputs:
    def test_deterministic(self, case, before):
        network, x, _ = case
        check = deterministic(network, x)
        assert check.passed
        assert check.evidence["largest_logit_difference"] <= 1e-5 * check.evidence["largest_logit"]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not deterministic(before(noisy, network), x).passed

    def test_noise_counts_relative_to_the_logits(self, case, before, after):
        network, x, _ = case
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for scale in (1e-6, 1e6):
                assert deterministic(after(network, lambda h, s=scale: s * h), x).passed
                assert not deterministic(after(before(noisy, network), lambda h, s=scale: s * h), x).passed

    def test_dropout_is_not_taken_for_randomness(self, case):
        network, x, _ = case
        with_dropout = nn.Sequential(nn.Dropout(0.5), copy.deepcopy(network)).train()
        assert deterministic(with_dropout, x).passed
        assert with_dropout.training

    def test_logits_not_probabilities(self, case):
        network, x, _ = case
        assert logits_not_probabilities(network, x).passed
        assert logits_not_probabilities(nn.Sequential(network, nn.LogSoftmax(1)), x).passed
        # Positive outputs alone are no fault.
        assert logits_not_probabilities(nn.Sequential(network, nn.ReLU()), x).passed
        check = logits_not_probabilities(nn.Sequential(network, nn.Softmax(1)), x)
        assert not check.passed
        assert check.evidence["smallest_output"] >= 0
        assert check.evidence["largest_distance_of_sum_from_1"] < 1e-3

    def test_batch_norm_that_uses_its_batch(self, case):
        network, x, _ = case
        clean = batch_independent(network, x)
        assert clean.passed
        assert clean.evidence["handed_over_in"] == "evaluation mode"
        check = batch_independent(with_batch_statistics(network), x)
        assert not check.passed
        assert check.evidence["difference_between_batches"] > 0.1

    @pytest.mark.parametrize("count", [1, 2])
    def test_batch_norm_is_detected_with_few_images(self, case, count):
        network, x, _ = case
        assert batch_independent(network, x[:count]).passed
        assert not batch_independent(with_batch_statistics(network), x[:count]).passed

    def test_the_mode_of_the_given_network_is_in_the_evidence(self, case):
        network, x, _ = case
        network = copy.deepcopy(network).train()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        random = torch.get_rng_state()
        check = batch_independent(network, x[:32])
        assert not check.passed
        assert "Call network.eval()" in explain(check)
        assert check.evidence["handed_over_in"] == "training mode"
        assert check.evidence["difference_in_training_mode"] > 0.1
        assert all(module.training for module in network.modules())
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
        network.eval()
        network[1].train()
        check = batch_independent(network, x)
        assert not check.passed
        assert check.evidence["handed_over_in"] == "evaluation mode, with BatchNorm in training mode"
        without = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
        assert batch_independent(without, x).passed  # Dropout does not depend on the batch.
        assert batch_independent(without, x).evidence["handed_over_in"] == "training mode"
        assert [module.training for module in network] == [False, True] + [False] * 6

    def test_training_mode_that_cannot_be_run_is_in_the_evidence(self, case):
        network, x, _ = case
        refusing = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)).eval()
        assert batch_independent(refusing, x[:1]).evidence["training_mode"] == "cannot be run: ValueError"
        assert batch_independent(network, x[:1]).passed

    def test_noise_is_no_dependence_on_the_batch(self, case, before):
        network, x, _ = case
        assert batch_independent(before(noisy, network), x).passed

    @pytest.mark.parametrize(
        ("undo", "name"),
        [
            (lambda x: 0.38 * x + 0.3, "error_standardised"),
            (lambda x: (x + 1) / 2, "error_signed"),
            (lambda x: x / 255, "error_bytes"),
        ],
    )
    def test_normalised_inside(self, networks, tested, undo, name, before):
        # A network behind the inverse of a normalisation behaves like a network trained on normalised images.
        x, y = tested
        assert normalised_inside(networks["usual"], x, y).passed
        check = normalised_inside(before(undo, networks["usual"]), x, y)
        assert not check.passed
        assert check.evidence[name] < check.evidence["clean_error"] / 2

    def test_an_untrained_network_is_not_taken_for_one_that_expects_another_range(self, case, conv):
        _, x, y = case
        for seed in range(10):
            assert normalised_inside(conv(10, seed=seed), x, y).passed

    def test_images_that_overflow_a_network_count_as_misclassified(self, case, before):
        network, x, y = case
        check = normalised_inside(before(lambda v: torch.where(v > 1, torch.inf, v), network), x, y)
        assert check.passed
        assert check.evidence["error_bytes"] == 1

    @pytest.mark.parametrize(("left", "passed"), [(40, True), (30, False)])
    def test_at_most_half_the_errors_on_another_input_range_are_a_fault(self, left, passed, function_layer):
        y = torch.arange(100) % 10

        def forgetful(points):
            wrong = torch.arange(100) < (left if points.min() < 0 else 60)
            return F.one_hot(torch.where(wrong, y + 1, y) % 10, 10).float()

        check = normalised_inside(function_layer(forgetful), torch.linspace(0, 1, 100)[:, None], y)
        assert check.passed is passed
        assert check.evidence["clean_error"] == pytest.approx(0.6)
        assert check.evidence["error_signed"] == pytest.approx(left / 100)


class TestGradients:
    def test_alive(self, case, before):
        network, x, y = case
        logit_margins = gradients_alive(margins(network, x, y, [Linf()]))
        assert logit_margins.passed
        assert logit_margins.evidence["share_without_gradient"] == 0
        for dead in (before(rounded, network), before(torch.Tensor.detach, network)):
            logit_margins = gradients_alive(margins(dead, x, y, [Linf()]))
            assert not logit_margins.passed
            assert logit_margins.evidence["share_without_gradient"] == 1

    @pytest.mark.parametrize(("right", "dead", "passed"), [(70, 2, True), (300, 4, True), (300, 12, False), (5, 5, False)])
    def test_a_few_dead_images_may_be_chance(self, right, dead, passed):
        none = np.zeros(right)
        logit_margins = Margins(none, none == 0, none, none[:, None], {}, {}, dead / right)
        assert gradients_alive(logit_margins).passed is passed

    def test_gradients_of_equal_logits_are_not_alive(self, images):
        # The logits are equal, as if all activations were dead. Their argmax is class 0, the label of all images.
        x = images()
        dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        nn.init.zeros_(dead[1].weight)
        nn.init.zeros_(dead[1].bias)
        y = torch.zeros(16, dtype=torch.int64)
        assert radii(dead, x, y, FGSM(), GRID).isinf().all()
        assert not gradients_alive(margins(dead, x, y, [Linf()])).passed

    def test_predict(self, case):
        network, x, y = case
        with prepare(network, x, y) as prepared:
            check = gradients_predict(prepared)
        assert check.passed
        assert check.evidence["share_off"] < 0.02
        assert check.evidence["share_without_gradient"] == 0

    @pytest.mark.parametrize("function", [rounded, straight_through, bytes_straight_through])
    def test_rounding_is_detected(self, case, function, before):
        network, x, y = case
        # The pixels of the digits are multiples of 1/16. Rounding to 1/8 would leave many of them unchanged, so all are
        # scaled and shifted.
        with prepare(before(function, network), (0.9 * x + 0.02), y) as prepared:
            check = gradients_predict(prepared)
        assert not check.passed
        assert check.evidence["share_off"] > 0.5
        assert check.evidence["share_without_gradient"] == (1 if function is rounded else 0)

    def test_rounded_activations_are_detected(self, case, function_layer):
        network, x, y = case
        inside = nn.Sequential(
            *network[:3], function_layer(lambda h: h + ((4 * h).round() / 4 - h).detach()), *network[3:]
        ).eval()
        with prepare(inside, x, y) as prepared:
            assert not gradients_predict(prepared).passed

    def test_a_scale_of_the_logits_is_no_rounding(self, case, after):
        network, x, y = case
        for scale in (1e-6, 1e6):
            with prepare(after(network, lambda h, s=scale: s * h), x, y) as prepared:
                assert gradients_predict(prepared).passed

    def test_a_network_that_converts_to_float32_is_checked_in_float32(self, case, before):
        network, x, y = case
        for function, passed in ((lambda v: v.float(), True), (lambda v: straight_through(v).float(), False)):
            with prepare(before(function, network), x, y) as prepared:
                assert gradients_predict(prepared).passed is passed

    def test_a_constant_network_rounds_nothing(self, case, before, after):
        _, x, y = case
        with prepare(after(before(lambda v: 0 * v, nn.Flatten()), lambda h: h[:, :10] + torch.arange(10)), x, y) as prepared:
            check = gradients_predict(prepared)
        assert check.passed
        assert check.evidence["share_without_gradient"] == 1

    def test_a_step_does_not_leave_the_pixel_range(self, case, before):
        network, x, y = case
        assert (x == 0).double().mean() > 0.3
        with prepare(before(lambda v: torch.where((v < 0) | (v > 1), 9.0, v), network), x, y) as prepared:
            assert gradients_predict(prepared).passed

    @pytest.mark.parametrize("norm", [Linf(), L2()])
    def test_scale_does_not_matter(self, case, norm, after):
        network, x, y = case
        epsilon = 0.12 if norm == Linf() else 0.6
        errors = {}
        for scale in (1, 0.01, 100, 1000):
            with prepare(after(network, lambda h, s=scale: s * h), x, y) as prepared:
                check = scale_does_not_matter(prepared, norm, epsilon)
            assert check.name == f"scale_does_not_matter_{norm.name}"
            errors[scale] = check.evidence
            # The remaining two cases, L2 with scales 0.01 and 100, have no expected outcome.
            if scale == 1:
                assert check.passed
            if (norm, scale) in ((Linf(), 0.01), (Linf(), 100), (Linf(), 1000), (L2(), 1000)):
                assert not check.passed, scale
        assert errors[100]["share_without_cross_entropy_gradient"] > errors[1]["share_without_cross_entropy_gradient"]
        # The errors by the margin and with rescaled logits do not depend on the scale.
        assert errors[1]["error_by_margin"] == pytest.approx(errors[1000]["error_by_margin"], abs=0.01)
        assert errors[1]["error_rescaled"] == pytest.approx(errors[1000]["error_rescaled"], abs=0.01)

    def test_scales_that_differ_between_images_are_detected_by_the_margin(self, case, function_layer):
        network, x, y = case
        bright = x.flatten(1).mean(1).quantile(0.55)

        def uneven(points):
            return torch.where(points.flatten(1).mean(1, keepdim=True) > bright, 1000.0, 1.0) * network(points)

        with prepare(function_layer(uneven), x, y) as prepared:
            check = scale_does_not_matter(prepared, Linf(), 0.12)
        assert not check.passed
        # The logits are rescaled by the median margin, which is that of the images with small logits. No single factor
        # suits both groups of images.
        assert check.evidence["error_rescaled"] - check.evidence["error_as_given"] < 0.03
        assert check.evidence["error_by_margin"] - check.evidence["error_as_given"] > 0.1

    def test_logits_all_equal_have_no_scale(self, case, before):
        _, x, y = case
        with prepare(before(lambda v: 0 * v, nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))), x, y) as prepared:
            check = scale_does_not_matter(prepared, Linf(), 0.1)
        assert check.passed
        assert check.evidence["median_margin"] == 0


class TestAttacks:
    @pytest.mark.parametrize("function", [rounded, torch.Tensor.detach])
    def test_reaches_chance(self, case, function, before):
        network, x, y = case
        with prepare(network, x, y) as prepared:
            check = reaches_chance(prepared)
        assert check.passed
        assert check.evidence["chance"] == pytest.approx(0.9)
        with prepare(before(function, network), x, y) as prepared:
            check = reaches_chance(prepared)
        assert not check.passed
        assert check.evidence["error"] < 0.9

    def test_large_logits_alone_do_not_keep_the_error_from_chance(self, case, after):
        # Cross-entropy has no gradient here, but the attack of the check uses the margin.
        network, x, y = case
        with prepare(after(network, lambda h: 1e4 * h), x, y) as prepared:
            assert reaches_chance(prepared).evidence["error"] == 1

    @pytest.mark.parametrize(("norm", "grid"), [(Linf(), [0.1, 0.3, 0.6]), (L2(), [0.5, 1.5, 4.0])])
    def test_noise_is_weaker(self, case, norm, grid, before):
        network, x, y = case
        with prepare(network, x, y) as prepared:
            check = noise_is_weaker(prepared, norm, worst(network, x, y, FGSM(norm=norm), grid=grid), grid)
        assert check.name == f"noise_is_weaker_{norm.name}"
        assert check.passed
        masked = before(rounded, network)
        with prepare(masked, x, y) as prepared:
            check = noise_is_weaker(prepared, norm, worst(masked, x, y, FGSM(norm=norm), grid=grid), grid)
        assert not check.passed
        assert check.evidence["largest_excess"] > 0.03
        assert check.evidence["epsilon"] in grid

    @pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.12), (L2(), 0.6)])
    def test_enough_steps(self, case, norm, epsilon):
        network, x, y = case
        outcomes = {}
        for name, attack in {
            "short": PGD(norm=norm, steps=2, step_size=0.1, random_start=False),
            "long": PGD(norm=norm, steps=25, step_size=0.1, loss=margin),
            "apgd": APGD(norm=norm, steps=26),
        }.items():
            with prepare(network, x, y) as prepared:
                r = worst(network, x, y, attack, grid=[epsilon])
                outcomes[name] = enough_steps(prepared, name, attack, r, epsilon)
        assert {name: check.passed for name, check in outcomes.items()} == {"short": False, "long": True, "apgd": True}
        short = outcomes["short"].evidence
        assert (short["attack"], short["steps"], short["longer"]) == ("short", 2, 8)
        assert (outcomes["long"].evidence["longer"], outcomes["apgd"].evidence["longer"]) == (100, 52)
        assert short["newly_fooled"] > 0.05
        # The error plus the newly fooled share is the error under the worst case of the short and the longer attack.
        longer = PGD(norm=norm, steps=8, step_size=0.1, random_start=False)
        both = worst(network, x, y, longer, PGD(norm=norm, steps=2, step_size=0.1, random_start=False), grid=[epsilon])
        assert short["error"] + short["newly_fooled"] == pytest.approx((both <= epsilon).mean())

    @pytest.mark.parametrize(("norm", "epsilon"), [(Linf(), 0.12), (L2(), 0.6), (L1(), 4.0)])
    def test_square_is_weaker(self, case, norm, epsilon, before):
        network, x, y = case
        attack = PGD(norm=norm, steps=20, loss=margin)
        verdicts = []
        for subjected in (network, before(rounded, network)):
            r = worst(subjected, x, y, attack, grid=[epsilon])
            with prepare(subjected, x, y) as prepared:
                check = square_is_weaker(prepared, norm, r, epsilon)
            assert check.name == f"square_is_weaker_{norm.name}"
            verdicts.append(check.passed)
        assert verdicts == [True, False]
        assert check.evidence["fooled_by_black_box_alone"] > 0.1


class TestCurves:
    def test_kinds(self, networks):
        transfer = Transfer(source=networks["usual"], attack=PGD())
        assert [is_black_box(a) for a in (Square(), HopSkipJump(), transfer, PGD(), UniformNoise())] == [True] * 3 + [
            False
        ] * 2
        assert [is_many_step(a) for a in (PGD(), APGD())] == [True, True]
        # IterativeLL has many steps, but its target is the least likely class. So FGSM beats it even without a fault.
        assert not any(is_many_step(a) for a in (FGSM(), StepLL(), IterativeLL(), UniformNoise(), Square(), transfer))

    def test_many_steps_beat_one(self, case):
        network, x, y = case
        attacks = {"fgsm": FGSM(), "step_ll": StepLL(), "pgd": PGD(), "short": PGD(steps=1, step_size=0.01)}
        radii_by_attack = measured(network, x, y, attacks)
        check = many_steps_beat_one(Linf(), attacks, radii_by_attack, GRID)
        assert check.name == "many_steps_beat_one_linf"
        assert check.passed
        # The planted fault is an attack whose step is too short to cross the ball.
        broken = {name: attacks[name] for name in ("fgsm", "step_ll", "short")}
        check = many_steps_beat_one(Linf(), broken, {name: radii_by_attack[name] for name in broken}, GRID)
        assert not check.passed
        assert check.evidence["attack"] == "fgsm"
        gaps = [(radii_by_attack["fgsm"] <= e).mean() - (radii_by_attack["short"] <= e).mean() for e in GRID]
        assert check.evidence["largest_excess"] == pytest.approx(max(gaps))

    @pytest.mark.parametrize(("fooled", "passed"), [(30, True), (31, False)])
    def test_the_tolerance_is_three_images_in_a_hundred(self, fooled, passed):
        weak = np.where(np.arange(1000) < fooled, 0.1, INF)
        check = cross_entropy_not_masked(Linf(), np.full(1000, INF), weak, [0.05, 0.1, 0.2])
        assert check.passed is passed
        assert check.evidence["largest_excess"] == pytest.approx(fooled / 1000)
        assert check.evidence["epsilon"] == 0.1

    def test_cross_entropy_not_masked(self, case, after):
        network, x, y = case
        verdicts = []
        # At a scale of 100 the softmax of float32 is exactly one-hot on most images, and cross-entropy has no gradient.
        for scale in (1, 100):
            attacks = {loss: PGD(random_start=False, loss=loss) for loss in (cross_entropy, margin)}
            radii_by_attack = measured(after(network, lambda h, s=scale: s * h), x, y, attacks)
            check = cross_entropy_not_masked(Linf(), radii_by_attack[cross_entropy], radii_by_attack[margin], GRID)
            assert check.name == "cross_entropy_not_masked_linf"
            verdicts.append(check.passed)
        assert verdicts == [True, False]
        # A higher error under cross-entropy than under the margin is no fault.
        check = cross_entropy_not_masked(Linf(), radii_by_attack[margin], radii_by_attack[cross_entropy], GRID)
        assert (check.passed, check.evidence["largest_excess"]) == (True, 0)

    def test_black_box_is_weaker(self, case, before):
        network, x, y = case
        for function, passed in ((lambda v: v, True), (rounded, False)):
            radii_by_attack = measured(before(function, network), x, y, {"pgd": PGD(), "square": Square(queries=60)}, FEW)
            check = black_box_is_weaker(Linf(), radii_by_attack["pgd"], radii_by_attack["square"], FEW)
            assert check.name == "black_box_is_weaker_linf"
            assert check.passed is passed
        epsilon = check.evidence["epsilon"]
        alone = ((radii_by_attack["square"] <= epsilon) & (radii_by_attack["pgd"] > epsilon)).mean()
        assert check.evidence["fooled_by_black_box_alone"] == pytest.approx(alone)

    @pytest.mark.parametrize(("n", "passed"), [(100, False), (400, False), (402, True), (10_000, True)])
    def test_enough_images(self, n, passed):
        half = np.where(np.arange(n) < n // 2, 0.1, INF)
        check = enough_images(half, [0.05, 0.1])
        assert check.passed is passed
        interval = binomtest(n // 2, n).proportion_ci(0.95, "exact")
        assert check.evidence["half_width"] == pytest.approx((interval.high - interval.low) / 2)
        assert (check.evidence["images"], check.evidence["epsilon"]) == (n, 0.1)

    def test_an_error_near_zero_needs_fewer_images(self):
        assert enough_images(np.full(100, INF), [0.1]).passed

    def test_comparison_resolved(self):
        first = np.where(np.arange(400) < 200, 0.1, INF)
        for more, passed in ((3, False), (40, True)):
            second = np.where(np.arange(400) < 200 + more, 0.1, INF)
            check = comparison_resolved(first, second, 0.1)
            assert check.passed is passed
            assert check.evidence["difference"] == pytest.approx(-more / 400)
        assert comparison_resolved(first, first, 0.1).evidence["images_needed"] == "infinitely many"
        # Radii that exceed epsilon only by rounding count as fooled, as in `compare`.
        above = comparison_resolved(first * (1 + 1e-12), second * (1 + 1e-12), 0.1)
        assert above.evidence == check.evidence

    def test_the_images_needed_suffice(self):
        generator = np.random.default_rng(0)
        first, second = (np.where(generator.random(300) < share, 0.1, INF) for share in (0.4, 0.45))
        check = comparison_resolved(first, second, 0.1)
        assert not check.passed
        times = int(np.ceil(check.evidence["images_needed"] * 1.1 / 300))
        assert comparison_resolved(np.tile(first, times), np.tile(second, times), 0.1).passed


LINF = {"fgsm": FGSM(), "pgd": PGD(steps=20), "pgd_margin": PGD(steps=20, loss=margin)}


class TestAll:
    @pytest.mark.parametrize("n", [100, 450])
    @pytest.mark.parametrize("kind", ["usual", "adversarial"])
    def test_clean_networks_pass(self, networks, tested, kind, n):
        network, x, y = networks[kind], tested[0][:n], tested[1][:n]
        outcomes = check_network(network, x, y)
        outcomes += check_attacks(network, x, y, LINF, measured(network, x, y, LINF, FEW), {"linf": FEW})
        assert [check.name for check in outcomes] == [
            "tells_classes_apart",
            "deterministic",
            "logits_not_probabilities",
            "batch_independent",
            "normalised_inside",
            "gradients_alive",
            "gradients_predict",
            "reaches_chance",
            "many_steps_beat_one_linf",
            "cross_entropy_not_masked_linf",
            "noise_is_weaker_linf",
            "scale_does_not_matter_linf",
            "enough_steps_linf",
            "square_is_weaker_linf",
            "finds_planted_linf",
            "enough_images",
        ]
        failed = [explain(check) for check in outcomes if not check.passed]
        assert failed == ([] if n == 450 else [explain(outcomes[-1])])

    def test_what_was_measured_decides_what_is_checked(self, networks, tested):
        network, x, y = networks["usual"], *(t[:60] for t in tested)
        flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), network)
        grids = {"linf": [0.1], "l2": [0.5]}

        def names(attacks, points=x, subjected=network):
            radii_by_attack = {
                name: radii(subjected, points, y, a, grids[a.norm.name]).numpy() for name, a in attacks.items()
            }
            return {check.name for check in check_attacks(subjected, points, y, attacks, radii_by_attack, grids)}

        again = {"scale_does_not_matter_linf", "square_is_weaker_linf", "white_box_is_weaker_linf"}
        assert names({"noise": UniformNoise()}) == {"enough_images"} | again
        # Square needs images (N, C, H, W).
        fgsm = {"noise_is_weaker_linf", "scale_does_not_matter_linf", "enough_images"}
        assert names({"fgsm": FGSM()}, x.flatten(1), flat) == fgsm
        assert names({"fgsm": FGSM()}) == fgsm | {"square_is_weaker_linf"}
        both = names({"fgsm": FGSM(), "square": Square(queries=20)})
        assert both == fgsm | {"square_is_weaker_linf", "black_box_is_weaker_linf"}
        asked_enough = names({"fgsm": FGSM(), "square": Square(queries=200)})
        assert asked_enough == fgsm | {"black_box_is_weaker_linf"}
        # Attacks of different norms are not compared.
        two = names({"fgsm": FGSM(), "pgd_l2": PGD(norm=L2(), loss=margin)})
        assert {"enough_steps_l2", "noise_is_weaker_l2", "square_is_weaker_l2"} <= two
        assert not {name for name in two if name.startswith(("many_steps", "cross_entropy", "black_box"))}

    @pytest.mark.parametrize("attack", [UniformNoise(), Square(queries=1), HopSkipJump(queries=100)], ids=repr)
    def test_what_uses_no_gradients_is_no_measure_of_robustness(self, networks, tested, attack):
        network, x, y = networks["usual"], *(t[:150] for t in tested)
        radii_by_attack = {"it": radii(network, x, y, attack, FEW).numpy()}
        outcomes = {c.name: c for c in check_attacks(network, x, y, {"it": attack}, radii_by_attack, {"linf": FEW})}
        assert not outcomes["white_box_is_weaker_linf"].passed
        assert "uses gradients" in explain(outcomes["white_box_is_weaker_linf"])

    def test_no_attack_no_check(self, networks, tested):
        assert check_attacks(networks["usual"], *tested, {}, {}, {}) == []

    def test_radii_of_other_images_are_refused(self, networks, tested):
        with pytest.raises(ValueError, match=r"measured must hold 450 radii of fgsm.* got 3"):
            check_attacks(networks["usual"], *tested, {"fgsm": FGSM()}, {"fgsm": np.zeros(3)}, {"linf": GRID})

    def test_the_widest_interval_of_all_norms_counts(self, networks, tested):
        network, x, y = networks["usual"], *(t[:60] for t in tested)
        attacks = {"fgsm": FGSM(), "fgsm_l2": FGSM(norm=L2())}
        radii_by_attack = {"fgsm": np.full(60, INF), "fgsm_l2": np.where(np.arange(60) < 30, 0.5, INF)}
        (check,) = [
            c
            for c in check_attacks(network, x, y, attacks, radii_by_attack, {"linf": [0.1], "l2": [0.5]})
            if "images" in c.name
        ]
        assert check.evidence["epsilon"] == 0.5

    def test_the_network_is_left_as_it_was(self, conv, images):
        network, x = conv(), images()
        y = network(x).argmax(1)
        network.train()
        state = {name: value.clone() for name, value in network.state_dict().items()}
        random = torch.get_rng_state()
        check_network(network, x, y)
        check_attacks(network, x, y, LINF, measured(network, x, y, LINF, FEW), {"linf": FEW})
        assert all(module.training for module in network.modules())
        assert all(p.requires_grad and p.grad is None for p in network.parameters())
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)

    def test_checks_are_reproducible(self, case):
        assert check_network(*case) == check_network(*case)


class TestSentence:
    def test_every_check_has_sentences_for_both_outcomes(self, networks, tested):
        network, x, y = networks["usual"], *(t[:60] for t in tested)
        attacks = LINF | {"square": Square(queries=20), "pgd_l2": PGD(norm=L2(), steps=20)}
        radii_by_attack = measured(network, x, y, attacks, FEW)
        outcomes = check_network(network, x, y)
        outcomes += check_attacks(network, x, y, attacks, radii_by_attack, {"linf": FEW, "l2": FEW})
        outcomes += check_attacks(network, x, y, {"noise": UniformNoise()}, {"noise": np.full(60, INF)}, {"linf": FEW})
        outcomes.append(comparison_resolved(radii_by_attack["fgsm"], radii_by_attack["pgd"], 0.1))
        kinds = {kind for check in outcomes for kind in SENTENCES if check.name.startswith(kind)}
        of_tables = list(SENTENCES)[list(SENTENCES).index("accuracies_in_range") :]
        assert kinds == set(SENTENCES) - {*of_tables} | {"comparison_resolved"}
        for check in outcomes:
            for passed in (True, False):
                message = explain(CheckResult(check.name, passed, check.evidence))
                assert message.endswith(".")
                assert "{" not in message

    def test_no_name_is_the_beginning_of_another(self):
        # `explain` looks for a key that is the beginning of the name of the check, because many names end with the norm.
        for name in SENTENCES:
            assert [other for other in SENTENCES if other.startswith(f"{name}_")] == []

    def test_fields_can_be_filled_from_json(self):
        for pair in SENTENCES.values():
            for text in pair:
                assert all(field is None or field.isidentifier() for _, field, _, _ in string.Formatter().parse(text))

    def test_evidence_of_another_version_is_shown_as_it_is(self):
        assert explain(CheckResult("enough_steps_linf", False, {"more": 1})) == "enough_steps_linf failed: more 1."
        odd = CheckResult("deterministic", False, {"largest_logit_difference": "x", "largest_logit": 1.0})
        assert explain(odd).startswith("deterministic failed")

    def test_a_custom_check_is_explained_by_its_evidence(self):
        assert explain(CheckResult("own", False, {"share": 0.5, "what": "x"})) == "own failed: share 0.5, what x."


def test_evidence_of_training_mode_is_the_same_each_time(conv, images):
    # The network has dropout, which is random in training mode.
    network, x = conv(), images(20)
    first, again = batch_independent(network, x), batch_independent(network, x)
    assert first.evidence["difference_in_training_mode"] > 0
    assert first == again


class Answers(nn.Module):
    """A network that predicts given classes, in the order of the images."""

    def __init__(self, classes, count=3):
        super().__init__()
        self.logits = nn.functional.one_hot(torch.tensor(classes), count).float()

    def forward(self, x):
        return self.logits[: len(x)] + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("predicted", "labels", "passed"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 1], False),  # One class for every image.
        ([0, 1, 2, 0], [0, 1, 2, 1], True),
        ([0, 1, 2, 2], [0, 0, 0, 1], False),  # Class 0 for every image would be right for three of four images.
        ([0, 0, 0, 0], [0, 0, 0, 0], True),  # There is only one label.
    ],
)
def test_a_network_that_does_not_tell_classes_apart_fails(predicted, labels, passed):
    x, y = torch.rand(len(labels), 1, 2, 2), torch.tensor(labels)
    with prepare(Answers(predicted), x, y) as prepared:
        check = tells_classes_apart(prepared)
    assert check.passed is passed
    assert check.evidence["classes"] == len(set(predicted))
    assert explain(check)
