"""Checks of candidates before the search."""

import pytest

from nas.errors import RunError
from nas.executors import Job, Precheck
from nas.pipeline.prechecks import Prechecks
from nas.pipeline.search import prepare


@pytest.fixture
def checks(custom_space):
    """A factory of the checks of a space with two kinds of networks; the second kind cannot be built."""
    return lambda *settings: Prechecks(prepare(custom_space("works,raises in build", *settings)))


def test_the_first_candidate_is_that_of_the_first_trial(checks):
    first = [{"kind": "works", "width": 8}, {"kind": "works", "width": 4}]
    with checks(f"search.first={first}") as started:
        assert started.first_buildable() == first[0]


def test_other_architectures_are_tried_if_one_cannot_be_built(checks):
    with checks('search.first=[{"kind": "raises in build", "width": 8}]') as started:
        assert started.first_buildable()["kind"] == "works"


def test_no_architecture_can_be_built(custom_space):
    with (
        Prechecks(prepare(custom_space("raises in build"))) as started,
        pytest.raises(RunError, match="no network can be built"),
    ):
        started.first_buildable()


def test_a_precheck_reports_the_size_of_the_network(checks):
    with checks() as started:
        small, large = (started.precheck(Job(0, {"kind": "works", "width": width}, {}, 0)) for width in (4, 8))
    assert isinstance(small, Precheck)
    assert small.metrics["parameters"] < large.metrics["parameters"]
