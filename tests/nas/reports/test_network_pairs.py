"""Sentences and pictures of a report on all networks and candidates: transfer, disagreement, exponents, correlations."""

import dataclasses
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import PGD, Linf, NoPowerLaw, PowerLaw, fit_power_law, rank_correlation, transfer_matrix
from evaluators.regions import Sampling, disagreement
from evaluators.statistics.heterogeneity import Observation, heterogeneity
from evaluators.transferability.rates import asymmetry
from evaluators.transferability.universal import universal_transfer
from nas.analysis.compare.result import universal_sentence
from nas.analysis.profile import parse_profile_config
from nas.bundle.load import open_bundle
from nas.data import open_test
from nas.reports.network_pairs import NetworkPairs, report_network_pairs
from nas.reports.networks import duplicates, load_bundles
from nas.reports.page import render_report
from nas.reports.search_figures import worst_case_laws
from nas.reports.statistics_text import correlations_sentences, exponents_sentence, nearest_sentence
from nas.runs.run import read_run
from nas.study.trial import Trial


@pytest.fixture(scope="module")
def run(finished_run):
    return read_run(finished_run)


@pytest.fixture(scope="module")
def opened(run):
    bundles, left_out = load_bundles(run.bundles)
    assert left_out == {}
    return bundles


# Opening bundles.


def test_every_bundle_is_opened_with_the_images_of_its_profile(run, opened):
    assert list(opened) == [bundle.name for bundle in run.bundles]
    for one in opened.values():
        assert len(one.test.x) == one.bundle.profile.record["n"]
        assert one.network(one.test.x[:2]).shape == (2, 10)
        assert one.passes(2.0) == int(2 * 3e10 / one.bundle.profile.record["cost"]["macs"])


@pytest.fixture
def other_images(tmp_path):
    """Images with three channels, which networks for digits reject."""
    file = tmp_path / "others.npz"
    np.savez(
        file,
        x_train=np.random.rand(40, 3, 8, 8),
        y_train=np.arange(40) % 10,
        x_test=np.random.rand(20, 3, 8, 8),
        y_test=np.arange(20) % 10,
    )
    return file


def of_these(bundle, file):
    """Returns a bundle with the hash and the number of the test images in a file."""
    test = open_test(parse_profile_config({"data": {"name": "npz", "path": str(file)}}).data)
    record = {**bundle.profile.record, "n": len(test.x)}
    manifest = {**bundle.manifest, "data": {**bundle.manifest["data"], "test": test.hash}}
    return dataclasses.replace(bundle, manifest=manifest, profile=dataclasses.replace(bundle.profile, record=record))


def test_duplicates_are_found_by_the_checksums_of_their_weights(run, bundle_copy):
    first, second = run.bundles[:2]
    files = {**second.manifest["files"], "weights.safetensors": first.manifest["files"]["weights.safetensors"]}
    twin = dataclasses.replace(second, manifest={**second.manifest, "files": files})
    assert duplicates(run.bundles) == {}
    assert duplicates([first, twin]) == {second.name: first.name}
    page = render_report(dataclasses.replace(run, bundles=(first, twin)))
    assert re.search(f"<code>{second.name}</code> is [^.]*<code>{first.name}</code>", page)
    assert "McNemar" not in page  # Without the duplicate, only one network is left.


def test_bundles_whose_files_or_images_are_missing_or_different_are_left_out(bundle_copy, other_images):
    bundle = open_bundle(bundle_copy)

    def changed(**parts):
        return dataclasses.replace(bundle, manifest={**bundle.manifest, **parts})

    gone = {**bundle.manifest["config"], "data": {"name": "npz", "path": "gone.npz"}}
    assert load_bundles([changed(config=gone)]) == ({}, {bundle.name: "gone.npz: no such file"})
    opened, reasons = load_bundles([changed(data={"test": "of other images"})])
    assert opened == {}
    assert "test images of digits" in reasons[bundle.name]
    assert list(load_bundles([bundle])[0]) == [bundle.name]
    small = {**bundle.manifest["config"], "data": {"name": "npz", "path": str(other_images)}}
    assert "cannot take the images of npz" in load_bundles([of_these(changed(config=small), other_images)])[1][bundle.name]
    shutil.rmtree(bundle_copy)
    assert list(load_bundles([bundle])[1]) == [bundle.name]


# Transfer and disagreement.


def test_transfer_and_disagreement_are_those_of_the_evaluators(opened):
    pairs = report_network_pairs(opened, 0.2, "linf")
    networks, test = {name: one.network for name, one in opened.items()}, next(iter(opened.values())).test
    matrix = transfer_matrix(networks, test.x[:200], test.y[:200], PGD(), [0.1, 0.2, 0.4])
    *carried, uneven, parted = pairs.sentences
    reach = [[one for one in universal_transfer(matrix) if one.epsilon == epsilon] for epsilon in (0.1, 0.2, 0.4)]
    assert len(carried) == len(reach)
    for sentence, sources in zip(carried, reach, strict=True):
        assert "(L∞)" in sentence
        assert universal_sentence(sources) in sentence
    asymmetries = asymmetry(matrix)
    count = sum(one.corrected < 0.05 for one in asymmetries)
    assert re.findall(r"\d+", uneven) == [str(count), str(len(asymmetries))]
    assert "Holm" in uneven
    assert len(pairs.pictures) == 3
    for picture in pairs.pictures:
        ElementTree.fromstring(picture)
    votes = disagreement(list(networks.values()), test.x[:50], Linf(), [0.0, 0.1, 0.2, 0.4], sampling=Sampling(samples=40))
    places = ("at the clean images themselves", "within 0.1", "within 0.2", "within 0.4")
    for place, share, (low, high) in zip(places, votes.mean_share, votes.mean_share_interval, strict=True):
        assert f" {100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f}) {place}" in parted


def test_no_epsilon_is_larger_than_the_pixel_range(opened):
    assert " within 1." in report_network_pairs(opened, 1.0, "linf").sentences[-1]


def test_one_network_has_no_pairs(opened):
    name, one = next(iter(opened.items()))
    assert report_network_pairs({name: one}, 0.1, "linf") == NetworkPairs()


def test_measurements_that_fail_are_reported(opened):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such layer")

    (first, one), (second, other) = list(opened.items())[:2]
    broken = {first: one, second: dataclasses.replace(other, network=Broken())}
    pairs = report_network_pairs(broken, 0.1, "linf")
    assert pairs.pictures == ()
    transfer, disagree = pairs.sentences
    for sentence, topic in ((transfer, "adversarial"), (disagree, "Disagreement")):
        assert topic in sentence
        assert "not measured" in sentence
        assert "no such layer" in sentence


def test_what_would_take_long_is_left_out(opened):
    def heavier(one, macs):
        record = {**one.bundle.profile.record, "cost": {"macs": macs}}
        return dataclasses.replace(
            one,
            bundle=dataclasses.replace(one.bundle, profile=dataclasses.replace(one.bundle.profile, record=record)),
        )

    pairs = report_network_pairs({name: heavier(one, 10**11) for name, one in opened.items()}, 0.1, "linf")
    assert pairs.pictures == ()
    assert len(pairs.sentences) == 2
    assert all("not measured" in sentence and "`hardcell compare`" in sentence for sentence in pairs.sentences)


def test_too_few_images_that_all_networks_classify_correctly_are_reported(opened):
    (first, one), (second, other) = list(opened.items())[:2]

    class Wrong(nn.Module):
        def forward(self, x):
            return -one.network(x)

    pairs = report_network_pairs({first: one, second: dataclasses.replace(other, network=Wrong())}, 0.1, "linf")
    assert "not measured: only 0 of " in pairs.sentences[0]
    assert " 100 % (" in pairs.sentences[1]


# Exponents.


def law(exponent):
    radii = torch.distributions.Beta(exponent, 1.0).sample((400,)).double().numpy()
    fitted = fit_power_law(radii)
    assert isinstance(fitted, PowerLaw)
    return fitted


def test_exponents_that_differ_and_those_that_may_be_equal():
    torch.manual_seed(0)
    one, other, far = law(1.0), law(1.0), law(3.0)
    spread = heterogeneity([Observation(x.exponent, x.exponent_interval, {}) for x in (one, far)])
    low, high = sorted((one.exponent, far.exponent))
    sentence = exponents_sentence({"a": one, "b": far})
    for text in (
        " 2 networks",
        f"{low:.2f} and {high:.2f}",
        "The exponents differ significantly",
        "Cochran's Q",
        f"p = {spread.heterogeneity_p:.2g}",
    ):
        assert text in sentence
    sentence = exponents_sentence({"a": one, "b": other, "c": NoPowerLaw("too steep")})
    assert "do not differ significantly" in sentence
    assert "For 1 of the 3 networks, no power law fits" in sentence
    assert exponents_sentence({"a": one, "c": NoPowerLaw("too steep")}) is None
    certain = dataclasses.replace(other, exponent_interval=(1.0, 1.0))
    assert exponents_sentence({"a": one, "b": certain}) is None
    assert exponents_sentence({"a": one, "b": certain, "c": far}).count(" 2 networks") == 1


# Logit differences.


def test_nearest_differences_in_words():
    nearest = {"near_zero": {"density": 0.3786, "interval": [0.222, 0.599]}, "distance_to_independent": 0.2316}
    sentence = nearest_sentence({"nearest": nearest})
    assert "near zero is 0.38 (95 % interval 0.22 to 0.60)" in sentence
    assert " is 0.23; 0 means" in sentence
    assert nearest_sentence({"nearest": None}) is None
    assert nearest_sentence({}) is None  # An older profile.


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
    sentences = correlations_sentences(trials)
    assert len(sentences) == 2
    for sentence, count, name in zip(sentences, (10, 8), ("measured", "random"), strict=True):
        assert re.search(rf" {count} {name} .*\(95 % intervals\)", sentence)
        assert f"clean error {rank_correlation(clean[:count], errors[:count])}" in sentence
        assert f"parameters {rank_correlation(range(count), errors[:count])}" in sentence
    assert len(correlations_sentences(trials[:8])) == 1  # All of them are random.
    others = [trial(20, 0.9, state="failed"), trial(21, 0.9, duplicate_of=1)]
    assert correlations_sentences([*trials, *others]) == sentences
    assert correlations_sentences(trials[:2]) == []


def test_trials_without_the_metrics_have_no_correlations():
    bare = [dataclasses.replace(trial(n, 0.1 * n), metrics={"latency": 1.0 * n}) for n in range(9)]
    assert correlations_sentences(bare) == []
    lonely = [dataclasses.replace(trial(n, 0.1 * n), metrics={"adversarial_error": 0.1 * n}) for n in range(9)]
    assert correlations_sentences(lonely) == []


def test_the_page_holds_it_all(run, opened):
    text = render_report(run).replace("&#39;", "'")
    for sentence in (*report_network_pairs(opened, 0.05, "linf").sentences, *correlations_sentences(run.trials)):
        assert sentence in text
    assert text.count("(mean field)") == len(run.bundles)
    laws = worst_case_laws(run.bundles, "linf")
    assert exponents_sentence(laws) is None or exponents_sentence(laws) in text
    assert text.count("difference between its two largest logits") == len(run.bundles)


def test_the_page_shows_how_exponents_vary_and_what_is_left_out(run, monkeypatch):
    torch.manual_seed(0)
    laws = dict(
        zip((bundle.name for bundle in run.bundles), [law(1.0), law(3.0), *[NoPowerLaw("too steep")] * 9], strict=False)
    )
    monkeypatch.setattr("nas.reports.page.worst_case_laws", lambda bundles, norm: laws)
    name = run.bundles[0].name
    monkeypatch.setattr("nas.reports.page.load_bundles", lambda bundles, trust: ({}, {name: "gone.npz: no such file"}))
    text = render_report(run).replace("&#39;", "'")
    assert exponents_sentence(laws) in text
    assert re.search(f"<code>{name}</code> is left out [^.]*: gone.npz: no such file", text)


def test_older_profiles_without_a_mean_field_are_shown(run, monkeypatch):
    monkeypatch.setattr("nas.reports.page.load_bundles", lambda bundles, trust: ({}, {}))
    bundle = run.bundles[0]
    record = json.loads(json.dumps(bundle.profile.record))
    del record["margins"]["nearest"]
    for entry in record["margins"]["first_order"].values():
        del entry["mean_field_error"]
    old = dataclasses.replace(bundle, profile=dataclasses.replace(bundle.profile, record=record))
    text = render_report(dataclasses.replace(run, bundles=(old,)))
    assert "mean field" not in text
    assert "difference between its two largest logits" not in text
