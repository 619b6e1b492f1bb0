"""The report is one self-contained page and shows failed checks prominently."""

import dataclasses
import html
import json
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from evaluators import FGSM, L2, PGD, ProfileOptions, RobustnessProfile, Smoothing, fit_power_law, profile
from evaluators.profiles.attack_entry import attack_entry, disagreements
from evaluators.profiles.attack_rows import attack_rows
from nas.bundle.card import _row
from nas.bundle.manifest import digest_of
from nas.cli.tables import law_cell
from nas.errors import SearchFailedError
from nas.formatting import format_p_value
from nas.pipeline.search import search, search_events
from nas.plots.power_law import law_line
from nas.plots.profile import error_curves_figure, profile_figures
from nas.reports.page import render_report
from nas.reports.search_figures import best_so_far, clean_against_adversarial, error_curves, worst_case_laws
from nas.reports.statistics_text import exponents_sentence
from nas.reports.verdict import verdicts
from nas.runs.run import read_run

pytestmark = pytest.mark.usefixtures("no_surfaces")


class Page(HTMLParser):
    """Collects the resources that a browser would fetch and the text that it would show."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.tags, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        # xmlns is a name, not an address. Links must also stay inside the page.
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "metadata"} & set(self.open):
            self.text.append(data)


def shown(text):
    return " ".join(" ".join(Page(text).text).split())


@pytest.fixture(scope="module")
def finished(finished_run):
    return read_run(finished_run)


def test_page_fetches_nothing(finished):
    text = finished.folder.report.read_text()
    page = Page(text)
    assert all(place.startswith(("#", "data:")) for place in page.fetched)
    assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & set(page.tags)
    assert "@import" not in text
    assert all(place.startswith("#") for place in re.findall(r"url\(['\"]?([^)'\"]*)", text))
    # The only addresses are XML namespaces and matplotlib's own address in the metadata of a figure.
    visible = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    assert set(re.findall(r"\s(\S{,40})=\"https?://", visible)) <= {"xmlns", "xmlns:xlink"}
    assert not re.search(r"https?://", re.sub(r"xmlns(:\w+)?=\"[^\"]*\"", "", visible))


def test_links_within_the_page_lead_somewhere(finished):
    text = finished.folder.report.read_text()
    targets = set(re.findall(r"\bid=\"([^\"]+)\"", text))
    assert {place[1:] for place in Page(text).fetched if place.startswith("#")} <= targets


def test_page_holds_every_bundle_every_verdict_and_the_leaderboard(finished):
    text = shown(finished.folder.report.read_text())
    for bundle in finished.bundles:
        assert bundle.name in text
        assert f"{bundle.profile.error_at(0.05):.3f}" in text
    assert len(verdicts(finished)) == 2
    for verdict in verdicts(finished):
        assert str(verdict) in text
    for trial in finished.trials:
        if trial.state == "complete":
            assert trial.key in text
    assert "FAILED" not in text or any(bundle.profile.failed_checks() for bundle in finished.bundles)


def test_page_of_the_same_run_is_the_same(finished):
    assert render_report(finished) == render_report(finished)


def with_profile(bundle, change=None, radii=None):
    record = json.loads(json.dumps(bundle.profile.record))
    if change:
        change(record)
        record.pop("worst_case")  # It is then computed from the radii.
    record = json.loads(json.dumps(record))
    return dataclasses.replace(bundle, profile=RobustnessProfile(record, radii or bundle.profile.radii))


def fail_a_check(record):
    for check in record["checks"]:
        check["passed"] = check["name"] != "gradients_alive"


def test_failed_check_is_shown_before_the_numbers(finished):
    best, *others = finished.bundles
    assert "gradients_alive" not in [c for b in others for c in b.profile.failed_checks()]
    text = shown(render_report(dataclasses.replace(finished, bundles=(with_profile(best, fail_a_check), *others))))
    numbers = text.index("multiply-accumulates")
    assert "FAILED" in text[:numbers]
    warning = text.index("Failed checks: gradients_alive")
    assert warning > text.rindex(best.name, 0, warning)
    assert "FAILED" not in shown(
        render_report(dataclasses.replace(finished, bundles=tuple(with_profile(b, pass_all) for b in finished.bundles)))
    )


def test_failed_check_is_given_in_full(finished):
    best, *others = finished.bundles
    passing = [with_profile(bundle, pass_all) for bundle in others]
    page = render_report(dataclasses.replace(finished, bundles=(with_profile(best, fail_a_check), *passing)))
    listed = re.search(r"<ul>\s*<li>(.*?)</li>\s*</ul>", page, re.DOTALL)[1]
    assert best.name in listed
    assert "gradients alive" in listed
    assert page.index(listed) < page.index("<h2>Leaderboard")
    all_pass = render_report(dataclasses.replace(finished, bundles=(with_profile(best, pass_all), *passing)))
    assert "passed, for all 3 networks" in shown(all_pass)


def test_answer_comes_first_and_statistics_are_folded(finished):
    page = render_report(finished)
    parts = [
        "<h2>Result",
        'class="cards"',
        'class="wide"',
        "<h2>Checks",
        "<h2>Leaderboard",
        "<h2>The search",
        "<h2>Networks",
    ]
    assert sorted(parts, key=page.index) == parts
    assert page.index("<h2>Result") < page.index(str(verdicts(finished)[0])[:30]) < page.index("<h2>Checks")
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    for folded in ("for its explanation", "error at the largest epsilon", "config.yaml"):
        assert folded in page
        assert folded not in unfolded


def pass_all(record):
    for check in record["checks"]:
        check["passed"] = True


def test_run_without_bundles(finished):
    page = render_report(dataclasses.replace(finished, bundles=()))
    assert "Leaderboard" in shown(page)
    assert 'class="verdict' in render_report(finished)
    assert 'class="verdict' not in page


def test_run_with_finalists_and_no_references(finished):
    text = shown(render_report(dataclasses.replace(finished, bundles=finished.bundles[:1])))
    assert "No reference" in text
    assert "The search beat" not in text
    assert "did not beat" not in text


def test_damaged_bundle_is_named_before_the_others(run_copy):
    (best,) = (run_copy / "bundles").glob("1-*")
    (best / "radii.npz").write_bytes(b"damage")
    run = read_run(run_copy)
    assert [bundle.role for bundle in run.bundles] == ["random", "residual"]
    text = shown(render_report(run))
    damage = re.search(rf"{best.name} is damaged[^.]*: .*radii\.npz", text).start()
    assert damage < text.index(run.bundles[0].name)


def test_run_of_which_all_bundles_are_damaged(run_copy):
    for bundle in (run_copy / "bundles").iterdir():
        (bundle / "manifest.json").write_text("{}")
    run = read_run(run_copy)
    assert run.bundles == ()
    text = shown(render_report(run))
    assert text.count("is damaged") == 3
    assert "Leaderboard" in text


def test_run_that_has_not_begun(tiny, tmp_path):
    events = search_events(tiny(), tmp_path / "run")
    next(events)
    events.close()
    text = shown(render_report(read_run(tmp_path / "run")))
    assert "0 / 6 trials" in text
    assert "No trial is complete yet." in text


def test_run_with_no_complete_trial_shows_the_failures(custom_space, tmp_path):
    with pytest.raises(SearchFailedError):
        search(custom_space("raises in training", "search.trials=3"), tmp_path / "run")
    text = shown(render_report(read_run(tmp_path / "run")))
    assert "No trial is complete yet." in text
    assert "trial 0: RuntimeError: broken in training" in text


def test_reasons_are_text_and_not_markup(custom_space, tmp_path, finished):
    nasty = dataclasses.replace(finished.trials[0], state="failed", reason="<script>alert(1)</script>")
    text = render_report(dataclasses.replace(finished, trials=(*finished.trials, nasty)))
    assert "script" not in Page(text).tags
    assert "<script>alert(1)</script>" in shown(text)


def test_space_of_the_users_own_whose_file_is_gone(custom_space, tmp_path, cli):
    config = custom_space("works", "search.trials=2", "search.random_trials=2", "finalists.epochs=1")
    run = search(config, tmp_path / "run")
    (tmp_path / "own.py").unlink()
    # The report then runs as in a new process, which has not imported the file.
    for name in [name for name in sys.modules if name.startswith("hardcell_user_own")]:
        del sys.modules[name]
    code, out, err = cli("report", tmp_path / "run")
    assert (code, err) == (0, "")
    assert run.bundles[0].name in shown(run.folder.report.read_text())
    code, out, _ = cli("status", tmp_path / "run")
    assert code == 0
    assert run.bundles[0].name[:12] in out


def figures(run):
    objective, norm, epsilon = run.config.objective, run.config.norm, run.config.evaluation.epsilon
    yield best_so_far(run.trials, objective)
    yield clean_against_adversarial(run.trials, objective)
    yield error_curves(run.bundles, worst_case_laws(run.bundles, norm), norm, epsilon)
    for bundle in run.bundles:
        yield from profile_figures(bundle.profile, norm, epsilon).values()


def test_figures_are_xml_and_hold_what_they_plot(finished, finished_run):
    texts = [*figures(finished), *(path.read_text() for path in finished_run.glob("bundles/*/plots/*.svg"))]
    assert len(texts) >= 3 + 3 + 4
    for text in texts:
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter())) > 5


@pytest.mark.parametrize("value", [0.0, np.inf], ids=["always fooled", "never fooled"])
def test_figures_of_a_network_with_nothing_to_plot(value, finished):
    """The page also renders if every image is misclassified, or if no attack succeeds."""
    radii = {name: np.full_like(measured, value) for name, measured in finished.bundles[0].profile.radii.items()}

    def change(record):
        for entry in record["attacks"].values():
            flips = None if value == 0 else [0.0 for _ in entry["error"]]
            entry["error"] = [1.0 if value == 0 else 0.0 for _ in entry["error"]]
            entry["flip_rate"] = flips
            entry["flip_interval"] = None if flips is None else [[0.0, 0.06] for _ in flips]
            entry["median_radius"] = 0.0 if value == 0 else None
            entry["power_law"] = {"reason": "no flips"}

    bundle = with_profile(finished.bundles[0], change, radii)
    ElementTree.fromstring(error_curves_figure(bundle.profile, "linf", 0.05))
    ElementTree.fromstring(error_curves([bundle], worst_case_laws([bundle], "linf"), "linf", 0.05))
    assert "no flips" in shown(render_report(dataclasses.replace(finished, bundles=(bundle,))))


def test_a_law_with_a_rejected_fit_is_shown_and_marked(finished):
    epsilons = np.linspace(0.01, 0.1, 91)
    radii = np.concatenate([np.linspace(0.011, 0.014, 250), np.linspace(0.07, 0.1, 250)])
    radii = epsilons[np.searchsorted(epsilons, radii)]
    law = fit_power_law(radii, epsilons)
    assert law.fit == "rejected"
    mark = format_p_value(law.p_value)

    def change(record):
        record["n"] = len(radii)
        for entry in record["attacks"].values():
            entry.update(attack_entry(radii, epsilons.tolist(), exact=False))

    bundle = with_profile(finished.bundles[0], change, dict.fromkeys(finished.bundles[0].profile.radii, radii))
    label = f"exponent {law.exponent:.2f} (fit rejected, {mark})"
    figures = [error_curves_figure(bundle.profile, "linf", 0.05)]
    assert f"fgsm, {label}" in labels_of(figures[0])
    low, high = law.exponent_interval
    both = f"exponent {law.exponent:.2f} [{low:.2f}, {high:.2f}] (fit rejected, {mark})"
    laws = worst_case_laws([bundle], "linf")
    figures.append(error_curves([bundle], laws, "linf", 0.05))
    assert f"{bundle.name}, {both}" in labels_of(figures[1])
    for figure in figures:  # The dashes of a law are those of no other line.
        assert re.search(r"stroke-dasharray: 5.25,2.8; .*stroke-width: 3.5", figure)
    text = shown(render_report(dataclasses.replace(finished, bundles=(bundle,))))
    assert f"rejected, {mark}" in text
    assert law_cell(law).endswith(f", fit rejected, {mark}")
    assert law_line(law)["linestyle"] != law_line(dataclasses.replace(law, p_value=0.1))["linestyle"] == "-"
    assert f"The fit is rejected ({mark}): the curve is not a power law." in _row(attack_rows(bundle.profile)[0])
    assert exponents_sentence({"a": law, "b": law}) is None


def test_an_older_profile_without_the_rejected_law_agrees_with_its_radii(finished):
    epsilons = np.linspace(0.01, 0.1, 91).tolist()
    radii = np.array(epsilons)[np.searchsorted(epsilons, np.repeat([0.012, 0.0125, 0.08, 0.085, 0.09], 100))]

    def change(law):
        def run(record):
            record["clean_error"] = 0.0
            for entry in record["attacks"].values():
                entry.update(attack_entry(radii, epsilons, exact=False))
                assert entry["power_law"]["fit"] == "rejected"
                entry["power_law"] = law

        return run

    of_all = dict.fromkeys(finished.bundles[0].profile.radii, radii)
    for law, wrong in (({"reason": "no power law fits"}, 0), ({"reason": "none", "exponent": 1.0}, len(of_all))):
        assert len(disagreements(with_profile(finished.bundles[0], change(law), of_all).profile)) == wrong


def test_a_reason_in_place_of_an_accepted_law_does_not_agree(finished):
    epsilons = np.geomspace(0.01, 1, 20).tolist()
    radii = np.array(epsilons)[np.searchsorted(epsilons, np.linspace(0.0001, 1, 500) ** 0.5)]

    def change(record):
        record["clean_error"] = 0.0
        for entry in record["attacks"].values():
            entry.update(attack_entry(radii, epsilons, exact=False))
            assert entry["power_law"]["fit"] == "accepted"
            entry["power_law"] = {"reason": "no power law fits"}

    of_all = dict.fromkeys(finished.bundles[0].profile.radii, radii)
    assert len(disagreements(with_profile(finished.bundles[0], change, of_all).profile)) == len(of_all)


def labels_of(svg):
    """Returns the texts of a picture; matplotlib draws them as shapes and keeps them in comments."""
    return [html.unescape(text).strip() for text in re.findall(r"<!--(.*?)-->", svg, flags=re.DOTALL)]


def test_pictures_of_a_profile_are_those_that_it_has_numbers_for(conv, images):
    network, x = conv(), images(40)
    y = network.eval()(x).argmax(1)
    attacks = {"fgsm": FGSM(), "pgd": PGD(norm=L2(), steps=3)}
    plain = profile_figures(profile(network, x, y, attacks=attacks))
    assert list(plain) == ["error_curves", "margins"]
    assert len([label for label in labels_of(plain["error_curves"]) if label.startswith("first order")]) == 2
    assert labels_of(plain["error_curves"]).count("mean field") == 2
    assert {"nearest wrong class", "second wrong class", "third wrong class"} <= set(labels_of(plain["margins"]))
    more = profile_figures(
        profile(network, x, y, attacks=attacks, options=ProfileOptions(corruptions=True, smoothing=Smoothing(sigma=0.1)))
    )
    assert list(more) == ["error_curves", "margins", "corruptions", "certificates"]
    assert {"gaussian noise", "jpeg", "severity", "clean"} <= set(labels_of(more["corruptions"]))
    assert "certified error, noise of 0.1" in labels_of(more["certificates"])
    few = profile_figures(profile(network, x[:5], y[:5], attacks=attacks))
    assert list(few) == ["error_curves"]


def test_every_attack_of_many_is_drawn(conv, images):
    network, x = conv(), images(40)
    attacks = {f"attack {number}": FGSM() for number in range(9)}
    drawn = labels_of(error_curves_figure(profile(network, x, network.eval()(x).argmax(1), attacks=attacks)))
    assert all(any(label.startswith(name) for label in drawn) for name in attacks)


def test_first_order_curve_of_a_linear_network_lies_on_the_measured_one():
    """For a linear network, the first-order curve goes through the measured errors of FGSM."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, dtype=torch.float64))
    x = 0.3 + 0.4 * torch.rand(200, 1, 4, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = network(x).argmax(1)
    measured = profile(network, x, y, attacks={"fgsm": FGSM()}, epsilons={"linf": [0.01, 0.03, 0.1, 0.2, 0.29]})
    (entry,) = measured.record["attacks"].values()
    theory = measured.record["margins"]["first_order"]["linf"]
    assert theory["predicted_error"] == entry["error"]
    assert "first order" in labels_of(error_curves_figure(measured))


def with_radii(bundle, values):
    return with_profile(bundle, radii={name: np.array(values, dtype=float) for name in bundle.profile.radii})


@pytest.mark.parametrize(
    ("mine", "other", "verb", "beaten"),
    [
        ([1.0] * 60, [0.01] * 60, "beat", True),
        ([0.01] * 60, [1.0] * 60, "lost to", False),
        # Five discordant images, all in one direction: p = 1/16 in McNemar's exact two-sided test.
        ([1.0] * 60, [0.01] * 5 + [1.0] * 55, "did not beat", False),
        # Six discordant images: p = 1/32.
        ([1.0] * 60, [0.01] * 6 + [1.0] * 54, "beat", True),
    ],
    ids=["beaten", "lost", "not distinguishable", "barely beaten"],
)
def test_verdict_sentences(mine, other, verb, beaten, finished):
    best, random, _ = finished.bundles
    bundles = (with_radii(best, mine), with_radii(random, other))
    (verdict,) = verdicts(dataclasses.replace(finished, bundles=bundles))
    errors = [sum(radius <= 0.05 for radius in radii) / 60 for radii in (mine, other)]
    text = str(verdict)
    assert re.match(rf"The search {verb} .*random.*\({random.name}\)", text)
    for number in (
        f"error is {errors[0]:.3f} against {errors[1]:.3f}",
        "epsilon 0.05",
        "60 test images",
        f"difference is {errors[0] - errors[1]:.3f} (",
    ):
        assert number in text
    low, high = re.search(r"interval (-?[01]\.\d{3}) to (-?[01]\.\d{3}); paired test, p = ", text).groups()
    assert float(low) <= errors[0] - errors[1] <= float(high)
    assert verdict.beaten is beaten


def test_verdict_gives_the_p_value(finished):
    best, random, _ = finished.bundles
    bundles = (with_radii(best, [1.0] * 60), with_radii(random, [0.01] * 5 + [1.0] * 55))
    (verdict,) = verdicts(dataclasses.replace(finished, bundles=bundles))
    assert verdict.over_all.verdict() == "not distinguishable"
    one, over_all = str(verdict).split("Over all epsilons")
    assert "paired test, p = 0.062" in one
    assert "the larger radius on 0.083 of the images, the reference on 0.000." in over_all
    assert "is 0.083 (95 % interval 0.018 to 0.181; sign test, p = 0.062)" in over_all


def test_verdict_over_all_epsilons_may_differ_from_that_at_one(finished):
    """The errors at 0.05 are equal. Beyond 0.05, one of the networks has the larger radius on 50 of 60 images."""
    best, random, _ = finished.bundles
    later = max(set(best.profile.epsilons("linf")) & set(random.profile.epsilons("linf")))
    assert later > 0.05
    long, short = [0.01] * 10 + [np.inf] * 50, [0.01] * 10 + [later] * 50
    for mine, other, more in ((long, short, "more"), (short, long, "less")):
        (verdict,) = verdicts(dataclasses.replace(finished, bundles=(with_radii(best, mine), with_radii(random, other))))
        assert not verdict.beaten
        assert verdict.over_all.verdict() == f"{more} robust"
        assert f"{more} robust" in str(verdict).split("Over all epsilons")[1]


def test_no_verdict_over_all_epsilons_where_grids_share_but_one(finished):
    best, random, _ = finished.bundles

    def move(record):
        for entry in record["attacks"].values():
            entry["epsilons"] = [e if e == 0.05 else 1.01 * e for e in entry["epsilons"]]

    (verdict,) = verdicts(dataclasses.replace(finished, bundles=(best, with_profile(random, move))))
    assert verdict.over_all is None
    assert "Over all epsilons" not in str(verdict)


def test_verdict_on_one_and_the_same_architecture(finished):
    best, random, _ = finished.bundles
    same = dataclasses.replace(random, stored=dataclasses.replace(random.stored, key=best.stored.key))
    (verdict,) = verdicts(dataclasses.replace(finished, bundles=(best, with_profile(same, radii=best.profile.radii))))
    assert re.match(rf"The search did not beat .*\({random.name}\)", str(verdict))
    assert "architecture" in str(verdict)
    assert "p = " not in str(verdict)
    assert not verdict.beaten


def test_no_verdict_without_a_finalist_or_a_reference(finished):
    best, random, residual = finished.bundles
    assert verdicts(dataclasses.replace(finished, bundles=(best,))) == []
    assert verdicts(dataclasses.replace(finished, bundles=(random, residual))) == []


def test_verdicts_are_about_the_best_finalist(finished):
    best, random, _ = finished.bundles
    second = dataclasses.replace(best, name="2-000000000000")
    (verdict,) = verdicts(dataclasses.replace(finished, bundles=(best, second, random)))
    assert verdict.finalist == best.name


def test_bundle_that_lost_its_rank_is_not_reported(run_copy):
    # A bundle that was exported during the search may lose the rank in its name to another architecture.
    (best,) = (run_copy / "bundles").glob("1-*")
    (random,) = (run_copy / "bundles").glob("random-*")
    other = best.rename(best.with_name("1-000000000000"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["name"] = other.name
    (other / "manifest.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
    assert [bundle.name for bundle in read_run(run_copy).bundles if bundle.role == "finalist"] == []
    assert random.name in [bundle.name for bundle in read_run(run_copy).bundles]


def test_leaderboard_has_a_row_for_every_trial(finished):
    import csv

    with finished.folder.leaderboard.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(6))
    for row, trial in zip(rows, finished.trials, strict=True):
        assert row["state"] == trial.state
        if trial.state == "complete":
            assert float(row["adversarial_error"]) == trial.metrics["adversarial_error"]


def test_page_shows_the_config_and_the_environment(finished):
    text = shown(finished.folder.report.read_text())
    environment = json.loads(finished.folder.environment.read_text())
    assert environment["versions"]["torch"] in text
    assert " ".join(yaml.safe_dump({"weight_decay": 0.0005}).split()) in text
