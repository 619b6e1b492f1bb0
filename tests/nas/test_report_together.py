"""What a report says of its networks together, and of its candidates: transfer, disagreement, exponents, correlations."""

import dataclasses
import shutil
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from evaluators import (
    PGD,
    Linf,
    NoPowerLaw,
    Observation,
    PowerLaw,
    disagreement,
    fit_power_law,
    rank_correlation,
    transfer_matrix,
    transfer_reach,
    universality,
)
from nas.bundle.load import open_bundle
from nas.comparison import universal_sentence
from nas.report.opened import open_bundles
from nas.report.page import render_report
from nas.report.sentences import correlations_sentences, exponents_sentence, nearest_sentence
from nas.report.together import Together, report_together
from nas.run import read_run
from nas.study import Trial


@pytest.fixture(scope="module")
def run(finished_run):
    return read_run(finished_run)


@pytest.fixture(scope="module")
def opened(run):
    return open_bundles(run.bundles)


# What is opened.


def test_every_bundle_is_opened_with_the_images_of_its_profile(run, opened):
    assert list(opened) == [bundle.name for bundle in run.bundles]
    for one in opened.values():
        assert len(one.test.x) == one.bundle.profile.record["n"]
        assert one.network(one.test.x[:2]).shape == (2, 10)
        assert one.passes(2.0) == int(2 * 3e10 / one.bundle.profile.record["cost"]["macs"])


def test_what_is_gone_or_another_by_now_is_left_out(bundle_copy):
    bundle = open_bundle(bundle_copy)

    def changed(**parts):
        return dataclasses.replace(bundle, manifest={**bundle.manifest, **parts})

    gone = {**bundle.manifest["config"], "data": {"name": "npz", "path": "gone.npz"}}
    assert open_bundles([changed(config=gone)]) == {}
    assert open_bundles([changed(data={"test": "of other images"})]) == {}
    assert list(open_bundles([bundle])) == [bundle.name]
    shutil.rmtree(bundle_copy)
    assert open_bundles([bundle]) == {}


# Transfer and disagreement.


def test_transfer_and_disagreement_are_those_of_the_evaluators(opened):
    found = report_together(opened, 0.3, "linf")
    networks, test = {name: one.network for name, one in opened.items()}, next(iter(opened.values())).test
    x, y = test.x, test.y
    matrix = transfer_matrix(networks, x[:200], y[:200], PGD(), [0.3])
    carried, parted = found.sentences
    assert carried == f"Crafted by PGD, {universal_sentence(transfer_reach(matrix))}."
    for picture in found.pictures:
        ElementTree.fromstring(picture)
    assert len(found.pictures) == 2
    votes = disagreement(list(networks.values()), x[:50], Linf(), [0.0, 0.3], samples=40)
    for share in votes.mean_share:
        assert f" {100 * share:.0f} % (" in parted
    assert f"{votes.mean_entropy[0]:.2f} and {votes.mean_entropy[1]:.2f} nats" in parted
    assert "within L∞ distance 0.3 of these (40 random points each" in parted


def test_one_network_alone_has_nothing_to_do_with_others(opened):
    name, one = next(iter(opened.items()))
    assert report_together({name: one}, 0.1, "linf") == Together()


def test_what_cannot_be_measured_is_told(opened):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such layer")

    (first, one), (second, other) = list(opened.items())[:2]
    broken = {first: one, second: dataclasses.replace(other, network=Broken())}
    found = report_together(broken, 0.1, "linf")
    assert found.pictures == ()
    assert found.sentences == (
        "How adversarial images carry over was not measured: no such layer.",
        "Where the networks disagree was not measured: no such layer.",
    )


def test_what_would_take_long_is_left_out(opened):
    def heavier(one, macs):
        record = {**one.bundle.profile.record, "cost": {"macs": macs}}
        return dataclasses.replace(
            one,
            bundle=dataclasses.replace(one.bundle, profile=dataclasses.replace(one.bundle.profile, record=record)),
        )

    found = report_together({name: heavier(one, 10**11) for name, one in opened.items()}, 0.1, "linf")
    assert found.pictures == ()
    assert len(found.sentences) == 2
    assert all(
        told.endswith("was not measured, for it would take long: `hardcell compare` does.") for told in found.sentences
    )


def test_few_images_that_all_are_right_on_are_told(opened):
    (first, one), (second, other) = list(opened.items())[:2]

    class Wrong(nn.Module):
        def forward(self, x):
            return -one.network(x)

    found = report_together({first: one, second: dataclasses.replace(other, network=Wrong())}, 0.1, "linf")
    assert found.sentences[0].startswith("How adversarial images carry over was not measured: only 0 of ")
    assert found.sentences[1].startswith("The networks do not all give one class to 100 % (")


# Exponents.


def law(exponent):
    radii = torch.distributions.Beta(exponent, 1.0).sample((400,)).double().numpy()
    found = fit_power_law(radii)
    assert isinstance(found, PowerLaw)
    return found


def test_exponents_that_differ_and_those_that_may_be_equal():
    torch.manual_seed(0)
    one, other, far = law(1.0), law(1.0), law(3.0)
    spread = universality([Observation(x.exponent, x.exponent_interval, {}) for x in (one, far)])
    low, high = sorted((one.exponent, far.exponent))
    assert exponents_sentence({"a": one, "b": far}) == (
        f"The exponents of 2 networks lie between {low:.2f} and {high:.2f} and are not all equal (Cochran's Q, "
        f"p = {spread.heterogeneity_p:.2g})."
    )
    told = exponents_sentence({"a": one, "b": other, "c": NoPowerLaw("too steep")})
    assert "and may all be equal" in told
    assert told.endswith("; 1 have no power law.")
    assert exponents_sentence({"a": one, "c": NoPowerLaw("too steep")}) is None


# Logit differences.


def test_nearest_differences_in_words():
    nearest = {"near_zero": {"density": 0.3786, "interval": [0.222, 0.599]}, "distance_to_independent": 0.2316}
    told = nearest_sentence({"nearest": nearest})
    assert "density near zero 0.38 (0.22 to 0.60)" in told
    assert "0.23 from those of independent logits" in told
    assert nearest_sentence({"nearest": None}) is None
    assert nearest_sentence({}) is None  # A profile of before it was measured.


# Correlations.


def trial(number, error, clean=0.1, random=True, **others):
    metrics = {"adversarial_error": error, "clean_error": clean, "parameters": 100.0 * number}
    others = {"state": "complete", "duplicate_of": None} | others
    return Trial(
        number=number, key=f"{number}", architecture={}, metrics=metrics, violation=0, seconds=1.0, reason=None,
        random=random, **others,
    )  # fmt: skip


def test_correlations_over_all_and_over_random_candidates():
    errors = [0.3, 0.5, 0.4, 0.6, 0.35, 0.45, 0.55, 0.2, 0.25, 0.7]
    clean = [0.1, 0.3, 0.15, 0.2, 0.12, 0.11, 0.4, 0.05, 0.06, 0.35]
    trials = [trial(n, e, c, random=n < 8) for n, (e, c) in enumerate(zip(errors, clean, strict=True))]
    told = correlations_sentences(trials)
    assert len(told) == 2
    for sentence, count, name in zip(told, (10, 8), ("measured", "drawn at random"), strict=True):
        assert f"over the {count} {name}, with 95 % intervals: " in sentence
        assert f"with its clean error {rank_correlation(clean[:count], errors[:count])}" in sentence
        assert f"with its parameters {rank_correlation(range(count), errors[:count])}." in sentence
    assert len(correlations_sentences(trials[:8])) == 1  # All of them are random.
    others = [trial(20, 0.9, state="failed"), trial(21, 0.9, duplicate_of=1)]
    assert correlations_sentences([*trials, *others]) == told
    assert correlations_sentences(trials[:2]) == []


def test_trials_without_the_metrics_have_no_correlations():
    bare = [dataclasses.replace(trial(n, 0.1 * n), metrics={"latency": 1.0 * n}) for n in range(9)]
    assert correlations_sentences(bare) == []
    lonely = [dataclasses.replace(trial(n, 0.1 * n), metrics={"adversarial_error": 0.1 * n}) for n in range(9)]
    assert correlations_sentences(lonely) == []


def test_the_page_holds_it_all(run, opened):
    text = render_report(run).replace("&#39;", "'")
    for sentence in (*report_together(opened, 0.05, "linf").sentences, *correlations_sentences(run.trials)):
        assert sentence in text
    assert text.count("Differences between the two largest logits") == len(run.bundles)
