"""StudySampler: proposals depend on seed, trial number and earlier trials, and are not duplicates."""

import warnings

import optuna
import pytest

from nas.errors import RunError
from nas.samplers import NSGA2, SAMPLERS, TPE, Random, Sampler, StudySampler
from search_spaces import Choice, SearchSpace, cell201, darts, mlp

SPACE = cell201(4, 1, 1)
RANDOM_TRIALS = 5


def sampler(seed=0, kind=None, random_trials=RANDOM_TRIALS, space=SPACE, first=()):
    return StudySampler(kind or TPE(), space, seed=seed, random_trials=random_trials, first=first)


def cost(architecture):
    """Returns a toy objective: the length of the operation's name times the number of the edge, summed over the edges."""
    return sum(len(o) * (i + 1) for i, o in enumerate(architecture.values()))


def advance(study, trials, value=cost, space=SPACE):
    """Runs trials; returns the architectures that were drawn."""
    drawn = []
    for _ in range(trials):
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, value(drawn[-1]))
    return drawn


def fresh(**settings):
    return optuna.create_study(sampler=sampler(**settings))


ALL = [kind() for kind in SAMPLERS.values()]
NAMES = [*SAMPLERS]


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_two_studies_of_one_seed_agree(kind):
    assert advance(fresh(kind=kind), 14) == advance(fresh(kind=kind), 14)


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_another_seed_draws_otherwise(kind):
    assert advance(fresh(kind=kind), 6) != advance(fresh(kind=kind, seed=1), 6)


def test_trials_draw_independently():
    drawn = advance(fresh(kind=Random()), 40)
    assert len({tuple(a.values()) for a in drawn}) >= 38  # The space has 15,625 architectures.


def test_what_came_before_in_the_process_does_not_matter():
    whole = advance(fresh(), 12)
    for seed in range(3):
        advance(fresh(seed=seed), 4)
    assert advance(fresh(), 12) == whole


def test_one_sampler_serves_several_studies():
    one = sampler()
    first, second = (optuna.create_study(sampler=one) for _ in range(2))
    wanted = advance(fresh(), 3)
    for number in range(3):  # Alternate, so that both studies propose for the same trial number.
        assert advance(first, 1) == advance(second, 1) == [wanted[number]]


def test_order_of_suggesting_does_not_matter_to_random_trials():
    study = fresh(kind=Random())
    asked = [study.ask() for _ in range(4)]
    drawn = {trial.number: SPACE.suggest(trial) for trial in reversed(asked)}
    assert [drawn[n] for n in range(4)] == advance(fresh(kind=Random()), 4)


def test_first_trials_are_those_of_the_random_sampler():
    tpe, uniform = advance(fresh(), 20), advance(fresh(kind=Random()), 20)
    assert tpe[:RANDOM_TRIALS] == uniform[:RANDOM_TRIALS]
    assert tpe != uniform


def test_first_trials_do_not_depend_on_what_is_told():
    assert advance(fresh(), RANDOM_TRIALS) == advance(fresh(), RANDOM_TRIALS, value=lambda architecture: 0.0)


def test_random_trials_are_uniform():
    # No architectures of this space are equivalent. Of several equivalent ones, a sampler proposes one, so shares differ.
    plain = SearchSpace(name="plain", choices=SPACE.choices, build=SPACE.build)
    drawn = advance(fresh(random_trials=1000, space=plain), 400, space=plain)
    for edge, choice in SPACE.choices.items():
        for value in choice.values:
            share = sum(a[edge] == value for a in drawn) / len(drawn)
            assert abs(share - 0.2) < 5 * (0.2 * 0.8 / len(drawn)) ** 0.5


def test_tpe_depends_on_the_study():
    up, down = advance(fresh(), 20), advance(fresh(), 20, value=lambda a: -cost(a))
    assert up[:RANDOM_TRIALS] == down[:RANDOM_TRIALS]
    assert up[RANDOM_TRIALS:] != down[RANDOM_TRIALS:]


def test_first_trial_after_the_random_ones_depends_on_the_values():
    differing = 0
    for seed in range(5):
        up, down = (advance(fresh(seed=seed), RANDOM_TRIALS + 1, value=lambda a, s=sign: s * cost(a)) for sign in (1, -1))
        assert up[:-1] == down[:-1]
        differing += up[-1] != down[-1]
    assert differing >= 4


def test_tpe_finds_better_ones_than_chance():
    def mean(kind):
        drawn = [a for seed in range(3) for a in advance(fresh(kind=kind, seed=seed, random_trials=8), 40)[25:]]
        return sum(map(cost, drawn)) / len(drawn)

    assert mean(TPE()) < 0.8 * mean(Random())


def test_tpe_keeps_to_the_constraints():
    def violations(*, constrained):
        count = 0
        for seed in range(3):
            study = fresh(seed=seed, random_trials=8)
            for number in range(40):
                trial = study.ask()
                convolutions = sum(o.startswith("conv") for o in SPACE.suggest(trial).values())
                if constrained:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                        trial.set_constraint("convolutions", convolutions - 1.0)
                study.tell(trial, -convolutions)  # The objective favours many convolutions.
                count += number >= 20 and convolutions > 1
        return count

    assert violations(constrained=True) < 0.75 * violations(constrained=False)


def test_two_studies_with_failed_and_pruned_trials_agree():
    drawn = []
    for _ in range(2):
        study, proposals = fresh(), []
        for number in range(14):
            trial = study.ask()
            proposals.append(SPACE.suggest(trial))
            if number % 4 == 1:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif number % 4 == 2:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, cost(proposals[-1]))
        drawn.append(proposals)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("stops", [(5,), (2, 7, 8)])
@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_resumed_equals_uninterrupted(tmp_path, kind, stops):
    whole = advance(fresh(kind=kind), 12)
    drawn = []
    for start, end in zip((0, *stops), (*stops, 12), strict=True):
        # Reopen the study each time, as another process would.
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
        study = optuna.create_study(study_name="s", storage=storage, sampler=sampler(kind=kind), load_if_exists=True)
        drawn += advance(study, end - start)
        storage.engine.dispose()
    assert drawn == whole


def test_a_trial_cut_short_does_not_change_later_random_trials():
    study = fresh(kind=Random())
    advance(study, 2)
    study.ask()  # This trial gets no values, as if its process was killed.
    assert advance(study, 2) == advance(fresh(kind=Random()), 5)[3:]


def test_more_candidates_propose_otherwise():
    assert advance(fresh(), 14) != advance(fresh(kind=TPE(candidates=1)), 14)


@pytest.mark.parametrize("candidates", [0, -1])
def test_candidates_below_1_are_refused(candidates):
    with pytest.raises(ValueError, match=f"^candidates must be at least 1, got {candidates}$"):
        TPE(candidates=candidates)


def test_two_studies_of_two_objectives_agree():
    drawn = []
    for _ in range(2):
        study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler())
        drawn.append([])
        for _ in range(12):
            trial = study.ask()
            drawn[-1].append(SPACE.suggest(trial))
            convolutions = sum(o.startswith("conv") for o in drawn[-1][-1].values())
            study.tell(trial, [cost(drawn[-1][-1]), -convolutions])
    assert drawn[0] == drawn[1]


def reopened(study, storage, number):
    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


@pytest.mark.parametrize("left", [0, 1, 3, 6])
def test_trial_that_a_killed_process_left_is_proposed_as_it_was(left):
    """The killed process has stored only the first `left` choices, and other trials have finished since."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="left", sampler=sampler())
    advance(study, 8)
    trial = study.ask()
    trial.set_user_attr("proposed", trial.relative_params)
    proposed = dict(trial.relative_params)
    for name in list(SPACE.choices)[:left]:
        trial.suggest_categorical(name, SPACE.choices[name].values)
    advance(study, 3, value=lambda architecture: -100.0)
    assert SPACE.suggest(reopened(study, storage, 8)) == proposed


def test_choices_that_a_killed_process_left_are_kept():
    for left in range(1, len(SPACE.choices)):
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name="left", sampler=sampler())
        trial = study.ask()
        whole = trial.relative_params
        for name in list(SPACE.choices)[:left]:
            trial.suggest_categorical(name, SPACE.choices[name].values)
        assert SPACE.suggest(reopened(study, storage, 0)) == whole


class TestNew:
    """No proposal is equivalent to an earlier one while a new architecture exists."""

    @pytest.mark.parametrize("kind", ALL, ids=NAMES)
    @pytest.mark.parametrize("space", [SPACE, darts(channels=8, layers=3)], ids=["cell201", "darts"])
    def test_no_two_trials_are_of_equal_function(self, kind, space):
        study = fresh(kind=kind, space=space)
        # Few architectures are good, so samplers tend to propose the same ones again.
        drawn = advance(study, 25, value=lambda a: sum(value != "skip" for value in a.values()), space=space)
        assert len({space.key(a) for a in drawn}) == 25

    @pytest.mark.parametrize("kind", ALL, ids=NAMES)
    def test_small_space_is_searched_whole_and_then_anything_is_drawn(self, kind):
        def canonical(architecture):
            unused = architecture["a"] == 0
            return {**architecture, "b": "x"} if unused else dict(architecture)

        small = SearchSpace(
            name="small",
            choices={"a": Choice(0, 1, 2.5), "b": Choice("x", "y", None), "c": Choice(True, False)},
            build=SPACE.build,
            canonical=canonical,
        )
        study = fresh(kind=kind, random_trials=2, space=small)
        drawn = advance(study, 20, value=lambda a: float(a["a"]), space=small)
        keys = [small.key(a) for a in drawn]
        assert len(set(keys[:14])) == 14  # If a is 0, b has no effect: 2 * 3 * 2 + 1 * 1 * 2.
        assert {*keys} == {*keys[:14]}

    def test_architectures_of_running_trials_are_not_proposed_again(self):
        study = fresh(kind=Random(), space=mlp(), random_trials=1)
        keys = [mlp().key(mlp().suggest(study.ask())) for _ in range(30)]
        assert len(set(keys)) == 30

    def test_given_architectures_may_be_equivalent_and_are_not_proposed_again(self):
        cells = [SPACE.at(0), SPACE.at(0), SPACE.at(7)]
        study = fresh(kind=Random(), first=cells)
        assert advance(study, 3) == cells
        assert not {SPACE.key(a) for a in advance(study, 30)} & {SPACE.key(a) for a in cells}


def test_values_keep_their_types():
    space = SearchSpace(name="mixed", choices={"a": Choice(1, 1.0, True, "1", None)}, build=SPACE.build)
    for kind in ALL:
        drawn = advance(fresh(kind=kind, space=space, random_trials=1), 5, value=lambda a: 0.0, space=space)
        assert {(type(a["a"]), a["a"]) for a in drawn} <= {
            (int, 1),
            (float, 1.0),
            (bool, True),
            (str, "1"),
            (type(None), None),
        }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "population must be at least 2, got 1"),
        ({"crossover": 1.5}, "crossover must be from 0 to 1, got 1.5"),
        ({"mutation": -1}, "mutation must be from 0 to 1, got -1"),
    ],
)
def test_settings_of_nsga2_out_of_bounds_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        NSGA2(**settings)


def test_choice_of_another_space_is_refused():
    trial = fresh().ask()
    with pytest.raises(ValueError, match="cell201 has no choice 'width' with these values"):
        trial.suggest_categorical("width", (1, 2))


class Proposes(Sampler):
    """Custom sampler that proposes the result of a given function of the history."""

    def __init__(self, what):
        self.what = what

    def propose(self, history, seed):
        return self.what(history)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            lambda history: 1 / 0,
            "search.sampler: Proposes does not propose a valid architecture: ZeroDivisionError: division by zero",
        ),
        (
            lambda history: {"edge01": "skip"},
            "search.sampler: Proposes does not propose a valid architecture: ValueError: .*'edge02' is missing",
        ),
        (lambda history: None, "search.sampler: Proposes does not propose a valid architecture: TypeError"),
    ],
)
def test_error_of_a_custom_sampler_names_the_sampler(what, message):
    study = fresh(kind=Proposes(what))
    advance(study, RANDOM_TRIALS)
    with pytest.raises(RunError, match=message):
        SPACE.suggest(study.ask())
