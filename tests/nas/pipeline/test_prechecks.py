"""Checks of candidates before the search."""

import time
from dataclasses import replace

import pytest

from nas.config.files import parse_config
from nas.errors import RunError
from nas.executors import Job, Precheck
from nas.pipeline.prechecks import Prechecks
from nas.pipeline.prepare import prepare
from nas.pipeline.search import resume_events, search_events


@pytest.fixture(autouse=True)
def exported_first():
    """The export is one of the checks."""


@pytest.fixture
def checks(custom_space):
    """A factory of the checks of a space with two kinds of networks; the second kind cannot be built."""
    return lambda *settings: Prechecks(prepare(custom_space("works,raises in build", *settings)))


def test_the_first_candidate_is_that_of_the_first_trial(checks):
    first = [{"kind": "works", "width": 8}, {"kind": "works", "width": 4}]
    with checks() as opened:
        assert opened.first_buildable(first) == first[0]


def test_other_architectures_are_tried_if_one_cannot_be_built(checks):
    unbuildable = [{"kind": "raises in build", "width": width} for width in (4, 8)] * 6
    with checks() as opened:
        assert opened.first_buildable(unbuildable)["kind"] == "works"


def test_no_architecture_can_be_built(custom_space):
    with (
        Prechecks(prepare(custom_space("raises in build"))) as opened,
        pytest.raises(RunError, match="no network can be built"),
    ):
        opened.first_buildable()


def test_a_precheck_reports_the_size_of_the_network(checks):
    with checks() as opened:
        small, large = (opened.precheck(Job(0, {"kind": "works", "width": width}, {}, 0)) for width in (4, 8))
    assert isinstance(small, Precheck)
    assert small.metrics["parameters"] < large.metrics["parameters"]


def test_a_search_checks_its_own_first_architectures_and_a_resume_does_not(custom_space, tmp_path, break_off, monkeypatch):
    tried = []
    monkeypatch.setattr(Prechecks, "first_buildable", lambda self, first=(): tried.append(list(first)))
    monkeypatch.setattr(Prechecks, "check_exportable", lambda self, architecture: None)
    first = [{"kind": "works", "width": 4}]
    break_off(search_events(custom_space("works", f"search.first={first}", "search.trials=3"), tmp_path / "run"), 1)
    next(resume_events(tmp_path / "run"))
    assert tried == [first, []]


def test_canonical_form_that_cannot_be_computed_is_a_reason(custom_space):
    evaluate = prepare(custom_space("works"))
    broken = replace(evaluate, space=replace(evaluate.space, canonical=lambda architecture: 1 / 0))
    with (
        Prechecks(broken) as opened,
        pytest.raises(RunError, match="no network can be built: its canonical form: ZeroDivisionError"),
    ):
        opened.first_buildable()


def test_export_that_takes_too_long_is_named(checks, monkeypatch):
    monkeypatch.setattr("nas.pipeline.prechecks.EXPORT_SECONDS", 1.0)
    monkeypatch.setattr("nas.pipeline.prechecks.failed_exports", lambda *_: time.sleep(60))
    with (
        checks("search.time_limit=1") as opened,
        pytest.raises(RunError, match=r"space .*: the export of a network took longer than 1 s"),
    ):
        opened.check_exportable({"kind": "works", "width": 4})


def test_eight_bit_refuses_images_off_the_grid_before_the_search():
    # The pixels of scikit-learn's digits are multiples of 1/16.
    config = parse_config({"data": {"limit": 100}, "evaluation": {"attacks": {"files": "eight_bit"}}})
    with pytest.raises(
        RunError, match="the validation images cannot be used: x must have pixels that are multiples of 1/255"
    ):
        prepare(config)


def test_the_epsilons_of_all_norms_are_compared_with_the_size_of_the_images():
    attacks = {"linf": "pgd", "l2": {"name": "pgd", "norm": "l2"}}
    config = parse_config({"data": {"limit": 100}, "evaluation": {"attacks": attacks, "other_norms": {"l2": 8.5}}})
    with pytest.raises(RunError, match=r"epsilon must be at most 8 in l2 on images of 64 values, got 8\.5"):
        prepare(config)
