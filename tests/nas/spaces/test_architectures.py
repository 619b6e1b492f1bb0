"""Architectures in YAML, and a search that starts with them."""

import re

import pytest
import yaml

import nas
from nas.config.files import load_config
from nas.config.writer import as_data
from nas.errors import ConfigError
from nas.pipeline.earlier_run import finalists_of, resolve_earlier_runs
from nas.pipeline.events import FinalistsStarted, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.runs.run import read_run
from nas.spaces.architectures import read_architectures
from search_spaces import PUBLISHED, cell201

CELL = dict.fromkeys(cell201().choices, "skip")


@pytest.fixture
def stored_cell(tmp_path):
    path = tmp_path / "cell.yaml"
    path.write_text(yaml.safe_dump(CELL), encoding="utf-8")
    return path


class TestRead:
    def test_published(self):
        assert read_architectures("advrush", None) == [PUBLISHED["advrush"].architecture]

    def test_choices(self):
        assert read_architectures(CELL, None) == [CELL]

    def test_file_of_choices(self, stored_cell):
        assert read_architectures("cell.yaml", stored_cell.parent) == [CELL] == read_architectures(str(stored_cell), None)

    def test_file_of_a_bundle(self, tmp_path):
        path = tmp_path / "architecture.yaml"
        path.write_text(yaml.safe_dump({"space": {"name": "cell201"}, "architecture": CELL, "key": "0"}), encoding="utf-8")
        assert read_architectures(str(path), None) == [CELL]

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            (
                "advrus",
                r"^must be one of darts_v1, .*, a YAML file, a run's folder, or choices, got 'advrus'; .* 'advrush'\?$",
            ),
            ("missing.yaml", r"missing\.yaml: No such file or directory$"),
            ("broken.yaml", r"broken\.yaml: while parsing"),
            ("text.yaml", r"text\.yaml: must hold a mapping of choices, or a list of them, got 'one'$"),
            ("list.yaml", r"^must be a name, a YAML file, or a mapping of choices, got 1$"),
            (".", r"holds no run \(no config\.yaml\)"),
            (3, r"^must be a name, a YAML file, or a mapping of choices, got 3$"),
        ],
    )
    def test_what_is_no_architecture_is_refused(self, tmp_path, reference, message):
        (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
        (tmp_path / "text.yaml").write_text("one", encoding="utf-8")
        (tmp_path / "list.yaml").write_text("[1, 2]", encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_architectures(reference, tmp_path)

    def test_list_in_a_file_holds_any_of_these_relative_to_it(self, tmp_path, stored_cell):
        deeper = tmp_path / "lists" / "deeper"
        deeper.mkdir(parents=True)
        other, third = CELL | {"edge01": "none"}, CELL | {"edge02": "none"}
        (deeper / "inner.yaml").write_text(yaml.safe_dump([other, "third.yml"]), encoding="utf-8")
        (deeper / "third.yml").write_text(yaml.safe_dump({"architecture": third}), encoding="utf-8")
        outer = tmp_path / "lists" / "outer.yaml"
        outer.write_text(yaml.safe_dump(["../cell.yaml", "deeper/inner.yaml", "advrush", CELL]), encoding="utf-8")
        wanted = [CELL, other, third, PUBLISHED["advrush"].architecture, CELL]
        assert read_architectures("lists/outer.yaml", tmp_path) == read_architectures(str(outer), None) == wanted

    def test_empty_list_in_a_file_holds_none(self, tmp_path):
        (tmp_path / "none.yaml").write_text("[]", encoding="utf-8")
        assert read_architectures("none.yaml", tmp_path) == []

    def test_list_that_holds_itself_is_refused(self, tmp_path):
        (tmp_path / "one.yaml").write_text("[two.yaml]", encoding="utf-8")
        (tmp_path / "two.yaml").write_text("[one.yaml]", encoding="utf-8")
        with pytest.raises(ValueError, match=r"(one|two)\.yaml: must not contain itself$"):
            read_architectures("one.yaml", tmp_path)


class TestConfig:
    def test_config_holds_the_choices_themselves(self, tmp_path, stored_cell):
        """A run can resume without the file."""
        path = tmp_path / "search.yaml"
        path.write_text("space: cell201\nsearch: {first: [cell.yaml]}\n", encoding="utf-8")
        config = load_config(path)
        assert config.search.first == (CELL,)
        assert as_data(config)["search"]["first"] == [CELL]
        assert nas.parse_config(as_data(config)) == config

    @pytest.mark.parametrize(
        ("first", "message"),
        [
            ("darts_v2", "search.first must be a list, got 'darts_v2'"),
            (["darts"], "search.first[0] must be one of darts_v1"),
            (
                ["darts_v2"],
                "search.first[0] is darts_v2, which is valid only in space: {name: darts, channels: 36, layers: 20}",
            ),
            (
                ["robnet_free"],
                "search.first[0] is robnet_free, which is valid only in space: {name: robnet, channels: 36, layers: 20, "
                "shared: false}",
            ),
            (
                [CELL, {**CELL, "edge03": "none", "edge13": "none", "edge23": "none"}],
                "search.first[1] has no path from input to output in any cell of cell201; ",
            ),
            (
                [{"depth": 3}],
                "search.first[0] is not an architecture of cell201: unknown choice 'depth'; choice 'edge01'",
            ),
            (
                [CELL, {**CELL, "edge01": "conv9x9"}],
                "search.first[1] is not an architecture of cell201: choice 'edge01' must",
            ),
        ],
    )
    def test_what_is_of_another_space_is_refused(self, first, message):
        with pytest.raises(ConfigError, match=re.escape(message)):
            nas.parse_config({"space": "cell201", "search": {"first": first}})


def test_fewer_trials_than_given_architectures_are_refused():
    with pytest.raises(ConfigError, match=r"search\.trials must be at least 2, one for each of search\.first, got 1$"):
        nas.parse_config({"search": {"trials": 1, "first": [CELL, CELL]}})


@pytest.fixture
def given(tiny):
    """A config of four trials (two given, one uniform, one proposed by the sampler), and the two given architectures."""
    other = CELL | {"edge03": "conv3x3"}
    return tiny("search.trials=4", "search.random_trials=1", f"search.first={[CELL, other]}"), [CELL, other]


def test_first_trials_have_the_architectures_given(tmp_path, given, trials_only):
    config, wanted = given
    space = cell201(4, 1, 1)
    trials_only(tmp_path / "run", config)
    run = read_run(tmp_path / "run")
    assert [trial.architecture for trial in run.trials[:2]] == [space.canonical(a) for a in wanted]
    assert [trial.random for trial in run.trials] == [False, False, True, False]
    assert all(trial.state == "complete" for trial in run.trials[:2])


def test_interrupted_search_begins_with_the_same(tmp_path, given, trials_only):
    """A search that is interrupted after its first trial and resumed has the trials of an uninterrupted search."""
    config, _ = given
    trials_only(tmp_path / "whole", config)
    events = search_events(config, tmp_path / "broken")
    next(event for event in events if isinstance(event, TrialFinished))
    events.close()
    resumed = resume_events(tmp_path / "broken")
    next(event for event in resumed if isinstance(event, FinalistsStarted))
    resumed.close()
    whole, broken = (read_run(tmp_path / name).trials for name in ("whole", "broken"))
    assert [t.architecture for t in whole] == [t.architecture for t in broken]
    assert [t.metrics for t in whole] == [t.metrics for t in broken]


class TestEarlierRun:
    @pytest.fixture
    def earlier(self, tiny, tmp_path, trials_only):
        trials_only(tmp_path / "earlier", tiny("search.trials=4", "finalists.count=2"))
        return tmp_path / "earlier"

    def test_stands_for_its_finalists_best_first(self, earlier, tiny, tmp_path, trials_only):
        run = read_run(earlier)
        order = sorted(run.trials, key=lambda trial: (trial.metrics["adversarial_error"], trial.number))
        assert len({trial.key for trial in order}) == 4
        best = [dict(trial.architecture) for trial in order[:2]]
        assert finalists_of(earlier) == best
        assert read_architectures("earlier", tmp_path) == read_architectures(str(earlier), None) == [earlier]
        # In a config, the folder provides the first trials of another search, which can resume without the folder.
        config = tiny(f"search.first=['{earlier}']", "search.trials=2", "seed=7")
        assert config.search.first == (earlier,)
        assert nas.parse_config(as_data(config)) == config
        assert resolve_earlier_runs(config).search.first == tuple(best)
        trials_only(tmp_path / "later", config)
        later = read_run(tmp_path / "later")
        assert [trial.architecture for trial in later.trials] == best
        assert later.config.search.first == tuple(best)

    def test_stands_among_others_in_its_place(self, earlier, tiny):
        config = tiny(f"search.first=[{CELL}, '{earlier}']")
        assert resolve_earlier_runs(config).search.first == (CELL, *finalists_of(earlier))

    def test_of_more_finalists_than_trials_is_refused(self, earlier, tiny, tmp_path):
        config = tiny(f"search.first=['{earlier}']", "search.trials=1")
        with pytest.raises(ConfigError, match=r"search\.trials must be at least 2, one for each of search\.first, got 1$"):
            search_events(config, tmp_path / "later")
        assert not (tmp_path / "later").exists()

    def test_of_another_space_is_refused(self, earlier):
        config = nas.parse_config({"space": "mlp", "search": {"first": [str(earlier)]}})
        with pytest.raises(ConfigError, match=r"search\.first\[0\] is not an architecture of mlp: unknown choice"):
            resolve_earlier_runs(config)

    def test_without_a_complete_trial_is_refused(self, tiny, tmp_path):
        events = search_events(tiny(), tmp_path / "run")
        next(events)
        events.close()
        with pytest.raises(ValueError, match=r"run: has no complete trial"):
            finalists_of(tmp_path / "run")
        config = nas.parse_config({"search": {"first": [str(tmp_path / "run")]}})
        with pytest.raises(ConfigError, match=r"search\.first\[0\] .*run: has no complete trial"):
            search_events(config, tmp_path / "later")
