"""Plans of tables: which architectures, in which order, and the seeds of their trainings."""

import pytest

from nas.errors import RunError
from nas.tables import plan as plans
from nas.tables.plan import TablePlan, planned_architectures, planned_jobs, seed_number
from search_spaces import Choice, SearchSpace, cell201, macro


def build(architecture, input_shape, num_classes):
    raise AssertionError


# The sum decides: 1, 2, 3 and 4 equivalent forms of the sums 2 to 5, and so on.
SUMS = SearchSpace(
    "sums",
    {"first": Choice(*range(1, 5)), "second": Choice(*range(1, 5))},
    build,
    canonical=lambda a: {"first": min(4, a["first"] + a["second"] - 1), "second": max(1, a["first"] + a["second"] - 4)},
)


def keys(space, count, seed=0):
    return [space.key(a) for a in planned_architectures(space, TablePlan(count), seed)]


def test_all_architectures_come_once():
    planned = planned_architectures(SUMS, TablePlan(None), 0)
    assert sorted(a["first"] + a["second"] for a in planned) == [2, 3, 4, 5, 6, 7, 8]
    assert all(SUMS.canonical(a) == a for a in planned)


def test_all_functions_of_cell201_are_planned():
    """There are 15,625 cells, and 5,554 canonical forms."""
    assert len(set(keys(cell201(), None))) == 5554


@pytest.mark.parametrize("space", [cell201(), macro(stages=3)], ids=["listed", "drawn"])
def test_longer_plan_begins_with_a_shorter_one_and_seeds_differ(space):
    assert keys(space, 40)[:15] == keys(space, 15)
    assert len(set(keys(space, 40))) == 40
    assert keys(space, 15, seed=1) != keys(space, 15)


def test_first_architectures_are_a_random_sample():
    """Every one of the 16 architectures is first equally often, so each sum has a known frequency."""
    first = [planned_architectures(SUMS, TablePlan(1), seed)[0] for seed in range(1600)]
    count = sum(a["first"] + a["second"] == 5 for a in first)
    assert abs(count - 400) < 4 * (1600 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("listed", [10**6, 1])
def test_too_many_architectures_are_refused(listed, monkeypatch):
    monkeypatch.setattr(plans, "LISTED", listed)
    found = "7 architectures that differ" + (" were found" if listed == 1 else "")
    with pytest.raises(RunError, match=f"^space sums: has no 8 architectures: {found}; choose fewer, or all$"):
        planned_architectures(SUMS, TablePlan(8), 0)
    assert len(planned_architectures(SUMS, TablePlan(7), 0)) == 7


def test_all_of_a_huge_space_is_refused():
    message = (
        r"^space macro: a table of all of its 6,530,347,008 architectures is too large; choose a number of architectures$"
    )
    with pytest.raises(RunError, match=message):
        planned_architectures(macro(stages=3), TablePlan(None), 0)


@pytest.mark.parametrize(
    ("architectures", "seeds", "message"),
    [
        (0, 1, "architectures must be at least 1, got 0"),
        (1, 0, "seeds must be from 1 to 1000, got 0"),
        (1, 1001, "seeds must be from 1 to 1000, got 1001"),
    ],
)
def test_numbers_out_of_range_are_refused(architectures, seeds, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        TablePlan(architectures, seeds)


@pytest.mark.parametrize(("architectures", "seeds"), [(2.5, 1), ("3", 1), (3, 1.5)])
def test_numbers_must_be_whole(architectures, seeds):
    with pytest.raises(TypeError, match="must be a whole number, got "):
        TablePlan(architectures, seeds)


def test_jobs_do_not_depend_on_the_length_of_the_plan():
    def jobs(count, seeds):
        plan = TablePlan(count, seeds)
        return list(planned_jobs(SUMS, planned_architectures(SUMS, plan, 3), plan, 3))

    longer = jobs(7, 3)
    assert [job for job in longer if job.number // 1000 < 4 and seed_number(job) < 2] == jobs(4, 2)
    assert [seed_number(job) for job in longer] == [0] * 7 + [1] * 7 + [2] * 7
    assert len({job.number for job in longer}) == len({job.seed for job in longer}) == 21
