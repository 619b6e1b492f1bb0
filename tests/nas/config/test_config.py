"""Reading and writing of YAML settings, and messages of all faults."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evaluators.attacks import ATTACKS, FGSM, LOSSES, PGD, StepLL, margin
from evaluators.norms import L2, Linf
from nas.config import metrics as nas_metrics
from nas.config import schema as settings
from nas.config.evaluators import EVALUATORS
from nas.config.files import load_config, parse_config
from nas.config.schema import Config
from nas.config.writer import as_data, commented_config, documented, dump_config
from nas.errors import ConfigError, HardcellError
from nas.executors import EXECUTORS
from nas.samplers import SAMPLERS, TPE, Random
from nas.spaces.options import open_space
from nas.training.early_stopping import Halving
from nas.training.recipes import RECIPES, Adversarial, Standard
from search_spaces import SPACES

USER_FILE = '''
"""Custom classes."""

from dataclasses import dataclass

from evaluators.attacks import Attack
from evaluators.norms import Linf, Norm
from nas.training.recipes import Recipe
from search_spaces import Choice, SearchSpace


@dataclass(frozen=True, kw_only=True)
class Push(Attack):
    """Pushes.

    Attributes:
        norm: Shape of the ball.
        strength: How much.
    """

    norm: Norm = Linf()
    strength: float = 0.5

    def perturb(self, target, x, epsilon, noise):
        return self.strength * epsilon * x.sign()


@dataclass(frozen=True, kw_only=True)
class Smooth(Recipe):
    """Smooths.

    Attributes:
        amount: How much.
        attack: An attack.
    """

    amount: float = 0.1
    attack: Attack = Push()

    def points(self, network, x, y, noise):
        return x

    def loss(self, network, x, points, y):
        return network(points).square().mean()


def plain(logits, y):
    """Returns a loss."""
    return logits.sum(1)


def make(width: int = 3, gain: float = 0.5, other: bool = False) -> SearchSpace:
    """Returns a space.

    Args:
        width: How wide.
        gain: How much.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return SearchSpace(name="mine", choices={"a": Choice(*range(width))}, build=lambda *a: None)


def lists(widths: list[int] = (), mixed: int | str = 1, free: dict = None) -> SearchSpace:
    return make()


def raises() -> SearchSpace:
    raise KeyError("inside the factory")


def no_space() -> int:
    return 3


instance = make(2)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return tmp_path


def faults(data, **arguments):
    """Returns the faults of a config, one line each."""
    with pytest.raises(ConfigError) as error:
        parse_config(data, **arguments)
    assert str(error.value) == "\n".join(error.value.faults)
    assert all(fault.startswith("config: ") or "--set" in fault for fault in error.value.faults)
    return [fault.removeprefix("config: ") for fault in error.value.faults]


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


ALL_SECTIONS = [
    kind
    for n in dir(settings)
    if n.endswith("Config") and dataclasses.is_dataclass(kind := getattr(settings, n)) and kind not in EVALUATORS.values()
]


class TestDefaults:
    @pytest.mark.parametrize("data", [None, {}, {"data": {}, "training": None, "search": {}}])
    def test_nothing_is_the_defaults(self, data):
        assert parse_config(data) == Config()

    def test_norm_is_that_of_the_attacks_of_the_evaluation(self):
        assert Config().norm == "linf"
        attacks = {"attacks": {"a": {"name": "pgd", "norm": "l2"}}, "epsilon": 2}
        changed = parse_config({"evaluation": attacks, "training": {"selection": {"norm": "l2"}}})
        assert changed.norm == "l2"
        # The selection attack uses evaluation.epsilon, which is measured in the norm of evaluation.attacks.
        with pytest.raises(ConfigError, match=r"training\.selection must be in l2, the norm of evaluation\.attacks"):
            parse_config({"evaluation": attacks})

    @pytest.mark.parametrize(
        "kind",
        [
            *ALL_SECTIONS,
            *ATTACKS.values(),
            *RECIPES.values(),
            *SAMPLERS.values(),
            *EXECUTORS.values(),
            *EVALUATORS.values(),
            Halving,
        ],
        ids=lambda kind: kind.__name__,
    )
    def test_every_setting_is_documented_and_no_other(self, kind):
        assert list(documented(kind)) == [f.name for f in dataclasses.fields(kind)]
        assert all(text and "  " not in text for text in documented(kind).values())

    @pytest.mark.parametrize("space", SPACES.values())
    def test_every_setting_of_a_space_is_documented(self, space):
        hints = typing.get_type_hints(space)
        assert list(documented(space)) == [name for name in hints if name != "return"]

    def test_long_entries_are_joined_to_one_line(self):
        assert documented(settings.Config)["threads"].endswith("reproduces the weights bit for bit.")
        assert documented(len) == {}


class TestWriting:
    def test_commented_config_reads_back(self):
        assert parse_config(yaml.safe_load(commented_config(Config()))) == Config()

    def test_every_key_has_a_comment(self):
        lines = [line for line in commented_config(Config()).splitlines() if line and not line.startswith("#")]
        for line in lines:
            assert re.fullmatch(r"\s*[a-z0-9_]+:( .*)?  # \S.*", line), line
        # There is one line for every key, at any depth.
        assert len(lines) == sum(1 for _ in keys(as_data(Config())))

    def test_comments_are_those_of_the_docstrings(self):
        text = commented_config(Config())
        for kind in ALL_SECTIONS:
            for name, description in documented(kind).items():
                if name != "options":
                    assert f"# {description}\n" in text, (kind, name)

    @pytest.mark.parametrize(
        "data",
        [
            {"space": "macro", "training": {"recipe": "standard"}},
            *({"training": {"recipe": {"name": name, "label_smoothing": 0.1}}} for name in RECIPES),
            {"training": {"recipe": {"name": "mixture", "attack": {"name": "pgd", "norm": "l2"}, "epsilon": 1.5}}},
            {"objective": {"constraints": {}, "minimise": ["clean_error", "parameters"]}},
            {"finalists": {"epsilons": {"linf": [0.01, 0.1]}}},
            {"data": {"name": "npz", "path": "a: b #c.npz"}},
            {"evaluation": {"attacks": {"yes": "pgd", "1": "fgsm"}}},
        ],
    )
    def test_config_with_and_without_comments_reads_back(self, data):
        config = parse_config(data)
        assert parse_config(yaml.safe_load(dump_config(config))) == config
        assert parse_config(yaml.safe_load(commented_config(config))) == config

    def test_dumped_config_is_complete(self):
        data = yaml.safe_load(dump_config(Config()))
        assert list(data) == [f.name for f in dataclasses.fields(Config)]
        assert data["space"] == {"name": "cell201", "channels": 8, "cells_per_stage": 1, "stages": 2}
        assert data["training"]["selection"] == {
            "name": "pgd",
            "norm": "linf",
            "loss": "margin",
            "steps": 5,
            "step_size": 0.4,
            "random_start": True,
            "restarts": 1,
        }
        assert data["search"]["sampler"] == {"name": "tpe", "candidates": 24}

    def test_user_things_read_back(self, folder):
        config = parse_config(USER, folder=folder)
        assert parse_config(yaml.safe_load(dump_config(config)), folder=folder) == config
        assert parse_config(yaml.safe_load(commented_config(config)), folder=folder) == config

    def test_user_things_are_written_as_files_another_process_can_find(self, folder):
        data = as_data(parse_config(USER, folder=folder))
        file = (folder / "mine.py").resolve()
        assert data["space"]["name"] == f"{file}:make"
        assert data["training"]["recipe"]["name"] == f"{file}:Smooth"
        assert data["training"]["selection"]["name"] == f"{file}:Push"
        assert data["training"]["recipe"]["attack"]["name"] == f"{file}:Push"

    def test_user_loss_reads_back(self, folder):
        config = parse_config({"training": {"selection": {"loss": "mine.py:plain"}}}, folder=folder)
        assert parse_config(yaml.safe_load(dump_config(config)), folder=folder) == config


USER = {
    "space": {"name": "mine.py:make", "width": 5},
    "training": {"recipe": {"name": "mine.py:Smooth", "amount": "1/4"}, "selection": {"name": "mine.py:Push"}},
}


def keys(data):
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from keys(value)


class TestReading:
    def test_plain_settings_are_read(self):
        config = parse_config(
            {
                "seed": 7,
                "threads": 2,
                "data": {"name": "npz", "path": "x.npz", "limit": 100},
                "training": {"epochs": 3, "flip": True, "precision": "bfloat16", "learning_rate": 1},
                "objective": {"minimise": ["adversarial_error", "macs"], "constraints": {"parameters": 1000}},
            }
        )
        assert (config.seed, config.threads, config.data.limit) == (7, 2, 100)
        assert (config.training.epochs, config.training.flip, config.training.precision) == (3, True, "bfloat16")
        assert config.training.learning_rate == 1.0
        assert isinstance(config.training.learning_rate, float)
        assert config.objective.minimise == ("adversarial_error", "macs")
        assert config.objective.constraints == {"parameters": 1000.0}

    @pytest.mark.parametrize(
        ("written", "number"),
        [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("1.5/255", 1.5 / 255), ("1e-2", 0.01), ("5E-2", 0.05), (1, 1.0)],
    )
    def test_numbers_may_be_fractions_or_in_scientific_notation(self, written, number):
        config = parse_config({"evaluation": {"epsilon": written}, "finalists": {"epsilons": {"linf": [written]}}})
        assert config.evaluation.epsilon == number
        assert config.finalists.epsilons == {"linf": (number,)}

    def test_bare_name_takes_the_defaults_of_the_thing(self):
        config = parse_config(
            {
                "space": "macro",
                "training": {"recipe": "standard", "selection": "fgsm"},
                "search": {"sampler": "random", "executor": "local"},
                "evaluation": {"attacks": {"a": "step_ll"}},
            }
        )
        assert config.space.name == "macro"
        assert config.space.options == {"stages": 3}
        assert (config.training.recipe, config.training.selection) == (Standard(), FGSM())
        assert config.search.sampler == Random()
        assert config.evaluation.attacks == {"a": StepLL()}

    def test_named_section_takes_the_defaults_of_its_own(self):
        config = parse_config(
            {"training": {"selection": {"name": "pgd", "steps": 7}}, "space": {"name": "cell201", "stages": 1}}
        )
        assert config.training.selection == PGD(steps=7)
        assert config.space.options == {"channels": 16, "cells_per_stage": 5, "stages": 1}

    def test_nameless_section_changes_the_default(self):
        config = parse_config({"training": {"selection": {"steps": 7}}, "space": {"stages": 1}})
        assert config.training.selection == PGD(steps=7, step_size=0.4, loss=margin)
        assert config.space.options == {"channels": 8, "cells_per_stage": 1, "stages": 1}
        assert config.space.name == "cell201"

    def test_nested_things_are_read(self):
        recipe = {"name": "adversarial", "attack": {"steps": 3, "norm": "l2"}, "epsilon": "1/2"}
        assert parse_config({"training": {"recipe": recipe}}).training.recipe == Adversarial(
            attack=PGD(steps=3, step_size=1.25, norm=L2()), epsilon=0.5
        )

    @pytest.mark.parametrize("loss", LOSSES)
    def test_losses_are_read_by_name(self, loss):
        assert parse_config({"training": {"selection": {"loss": loss}}}).training.selection.loss is LOSSES[loss]

    def test_path_is_relative_to_the_folder_of_the_config(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        data = {"data": {"name": "npz", "path": "sub/x.npz"}}
        assert parse_config(data, folder=tmp_path).data.path == f"{tmp_path.resolve()}/sub/x.npz"
        monkeypatch.chdir(tmp_path)
        assert parse_config(data).data.path == f"{tmp_path.resolve()}/sub/x.npz"
        home = {"data": {"name": "npz", "path": "~/x.npz"}}
        assert parse_config(home, folder=tmp_path).data.path == f"{tmp_path.resolve()}/home/x.npz"

    def test_path_to_the_home_of_nobody_is_a_fault(self, tmp_path):
        assert "data.path" in faults({"data": {"name": "npz", "path": "~no-such-user/x"}}, folder=tmp_path)[0]


class TestUserThings:
    def test_user_things_are_read(self, folder):
        config = parse_config(USER, folder=folder)
        assert config.space.name == f"{folder.resolve()}/mine.py:make"
        assert config.space.options == {"width": 5, "gain": 0.5, "other": False}
        assert open_space(config.space, trust=True).size == 5
        assert (type(config.training.recipe).__name__, config.training.recipe.amount) == ("Smooth", 0.25)
        assert type(config.training.selection).__name__ == "Push"
        assert config.training.selection.strength == 0.5

    def test_space_may_be_an_object(self, folder):
        config = parse_config({"space": "mine.py:instance"}, folder=folder)
        assert open_space(config.space, trust=True).size == 2
        assert config.space.options == {}

    def test_space_options_are_read_by_their_annotations(self, folder):
        space = {"name": "mine.py:make", "gain": "1/4", "other": True}
        options = parse_config({"space": space}, folder=folder).space.options
        assert (options["gain"], options["other"]) == (0.25, True)

    @pytest.mark.parametrize("options", [{"widths": [1, 2]}, {"mixed": 3}, {"mixed": "three"}, {"free": {"a": 1}}])
    def test_other_annotations_of_a_space_do_no_harm(self, folder, options):
        try:
            read = parse_config({"space": {"name": "mine.py:lists", **options}}, folder=folder).space.options
        except ConfigError:
            return  # A refusal with a message is also accepted.
        assert {name: list(read[name]) if name == "widths" else read[name] for name in options} == options

    def test_annotations_for_type_checkers_alone_do_no_harm(self, tmp_path):
        (tmp_path / "typed.py").write_text(
            "from __future__ import annotations\n"
            "from typing import TYPE_CHECKING\n"
            "from search_spaces import cell201\n"
            "if TYPE_CHECKING:\n"
            "    from search_spaces import SearchSpace\n"
            "def make(width: int = 3) -> SearchSpace:\n"
            "    return cell201()\n"
        )
        try:
            config = parse_config({"space": {"name": "typed.py:make", "width": 4}}, folder=tmp_path)
        except ConfigError:
            return
        assert config.space.options == {"width": 4}

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("space", "none.py:make", r"^space .*none\.py does not exist$"),
            (
                "space",
                "broken.py:make",
                r"^space .*broken\.py, line \d+, does not import: ZeroDivisionError: division by zero$",
            ),
            ("space", "mine.py:none", r"^space mine\.py has no 'none'$"),
            ("space", "mine.py:no_space", r"^space is refused: .*:no_space must be a SearchSpace, or a function .*, got 3$"),
            ("space", "mine.py:USER_FILE", r"^space mine\.py has no 'USER_FILE'$"),
            (
                "space",
                "math:pi",
                r"^space is refused: math:pi must be a SearchSpace, or a function that returns one, got 3\.14",
            ),
            ("space", {"name": "mine.py:make", "width": 0}, r"^space is refused: width must be at least 1, got 0$"),
            ("space", {"name": "mine.py:make", "widht": 1}, r"^unknown key space\.widht; did you mean 'width'\?$"),
            ("space", {"name": "mine.py:make", "width": "x"}, r"^space\.width must be int, got 'x'$"),
            ("space", {"name": "mine.py:instance", "width": 1}, r"^unknown key space\.width$"),
            ("space", "mine.py:raises", r"^space .*KeyError|^space is refused: .*inside the factory"),
            ("space", "builtins:dict", r"^space "),
            ("training.recipe", "mine.py:Push", r"^training\.recipe must name a dataclass derived from Recipe, got <class"),
            (
                "training.recipe",
                "mine.py:plain",
                r"^training\.recipe must name a dataclass derived from Recipe, got <function",
            ),
            ("training.selection", "mine.py:Smooth", r"^training\.selection must name a dataclass derived from Attack"),
            ("training.selection", "evaluators.attacks:Attack", r"^training\.selection "),
            ("training.selection", {"loss": "mine.py:none"}, r"^training\.selection\.loss mine\.py has no 'none'$"),
            ("training.selection", {"loss": "math:pi"}, r"^training\.selection\.loss "),
            ("search.sampler", "mine.py:Push", r"^search\.sampler must name a dataclass derived from Sampler"),
        ],
    )
    def test_user_things_that_will_not_do_are_refused(self, folder, path, value, message):
        (fault,) = faults(nested(path, value), folder=folder)
        assert re.search(message, fault), fault


METRICS = ", ".join(nas_metrics.METRICS)
GRID = "must hold epsilons above 0 in pixel units (8/255, not 8)"
_KEYS = [
    f"{section}.{f.name}"
    for section, kind in typing.get_type_hints(Config).items()
    if dataclasses.is_dataclass(kind)
    for f in dataclasses.fields(kind)
]
_plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
_words = st.sampled_from(
    [f.name for kind in [*ALL_SECTIONS, PGD, Adversarial, TPE] for f in dataclasses.fields(kind)]
    + ["channels", "stages", "pgd", "linf", "l2", "clean_error"]
)
_names = st.sampled_from(
    [
        "cell201",
        "macro",
        "pgd",
        "fgsm",
        "margin",
        "l2",
        "tpe",
        "random",
        "standard",
        "local",
        "math:pi",
        ":",
        "x.py:y",
        "npz",
    ]
)
_trees = st.recursive(
    _plain | _names | st.sampled_from(["8/255", "1/0", "0/0", "1e400", "9" * 400 + "/1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words | _plain, inner, max_size=5),
    max_leaves=25,
)
# The sections have valid names, so that most examples pass the check of the keys.
_sections = st.fixed_dictionaries(
    {},
    optional={
        f.name: _trees
        | st.dictionaries(st.sampled_from(["name", *(g.name for g in dataclasses.fields(f.default))]), _trees, max_size=4)
        if dataclasses.is_dataclass(f.default)
        else _trees
        for f in dataclasses.fields(Config)
    },
)


def test_name_and_settings_may_come_in_either_order():
    """Ray on a cluster needs the name of the executor and its address."""
    name, address = "search.executor.name=ray", "search.executor.address=auto"
    for overrides in ([name, address], [address, name]):
        assert parse_config(None, overrides=overrides).search.executor.address == "auto"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"search": {"stopping": {}}, "training": {"epochs": 1}},
            "search.stopping has no rung in 1 epochs; lower search.stopping.first or",
        ),
        ({"search": {"stopping": {"reduction": float("inf")}}}, "reduction must be above 1 and at most 1000, got inf"),
        ({"search": {"time_limit": float("inf")}}, "search.time_limit must be at most 1e+08, got inf"),
        (
            {"evaluator": {"name": "table", "path": "t.csv", "columns": {"adversarial_error": "a"}}},
            "got 'clean_error'; if it comes from a default, set objective.minimise, or objective.constraints: {}",
        ),
    ],
)
def test_settings_of_a_search_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(settings)


class TestFaults:
    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            # Unknown keys.
            ("sead", 1, "unknown key sead; did you mean 'seed'?"),
            ("search.trails", 1, "unknown key search.trails; did you mean 'trials'?"),
            ("training.recipe.epsilom", 1, "unknown key training.recipe.epsilom; did you mean 'epsilon'?"),
            ("training.selection.stps", 1, "unknown key training.selection.stps; did you mean 'steps'?"),
            ("space.chanels", 1, "unknown key space.chanels; did you mean 'channels'?"),
            ("space", {"name": "macro", "channels": 1}, "unknown key space.channels; valid keys: stages"),
            ("search.executor.zzz", 1, "unknown key search.executor.zzz; valid keys: workers"),
            (
                "evaluation.zzz",
                1,
                "unknown key evaluation.zzz; valid keys: epsilon, epsilons, other_norms, attacks, images, record",
            ),
            ("data", {1: 2}, "unknown key data.1; valid keys: name, path, test, validation, limit, split_seed"),
            # Types.
            ("search.trials", "ten", "search.trials must be int, got 'ten'"),
            ("search.trials", 10.0, "search.trials must be int, got 10.0"),
            ("search.trials", True, "search.trials must be int, got True"),
            ("search.trials", None, "search.trials must be int, got None"),
            ("search.trials", [1], "search.trials must be int, got [1]"),
            ("data.limit", "all", "data.limit must be int, got 'all'"),
            ("data.path", 3, "data.path must be a string, got 3"),
            ("device", 0, "device must be a string, got 0"),
            ("training.flip", "yes", "training.flip must be true or false, got 'yes'"),
            ("training.flip", 1, "training.flip must be true or false, got 1"),
            ("training.learning_rate", "fast", "training.learning_rate must be a number, got 'fast'"),
            ("training.learning_rate", True, "training.learning_rate must be a number, got True"),
            ("evaluation.epsilon", "8/0", "evaluation.epsilon must be a number, got '8/0'"),
            ("evaluation.epsilon", "8/255/2", "evaluation.epsilon must be a number, got '8/255/2'"),
            (
                "training.precision",
                "float16",
                "training.precision must be one of auto, float32, bfloat16, got 'float16'; did you mean 'bfloat16'?",
            ),
            ("training.precision", ["auto"], "training.precision must be one of auto, float32, bfloat16, got ['auto']"),
            ("training", 3, "training must be a mapping, got 3"),
            ("training", ["epochs"], "training must be a mapping, got ['epochs']"),
            ("objective.constraints", ["clean_error"], "objective.constraints must be a mapping, got ['clean_error']"),
            ("objective.constraints", None, "objective.constraints must be a mapping, got None"),
            ("objective.constraints.macs", "x", "objective.constraints.macs must be a number, got 'x'"),
            ("evaluation.attacks", ["pgd"], "evaluation.attacks must be a mapping, got ['pgd']"),
            ("objective.minimise", "macs", "objective.minimise must be a list, got 'macs'"),
            # Bounds.
            ("seed", -1, "seed must be at least 0, got -1"),
            ("threads", 0, "threads must be at least 1, got 0"),
            ("data.test", 0, "data.test must be at least 0.01, got 0"),
            ("data.test", 1, "data.test must be at most 0.9, got 1"),
            ("data.limit", 19, "data.limit must be at least 20, got 19"),
            ("training.batch_size", 1, "training.batch_size must be at least 2, got 1"),
            ("training.learning_rate", float("nan"), "training.learning_rate must be a number, got nan"),
            ("training.learning_rate", float("inf"), "training.learning_rate must be at most 100, got inf"),
            ("training.selection_from", 1.5, "training.selection_from must be at most 1, got 1.5"),
            ("search.attempts", 0, "search.attempts must be at least 1, got 0"),
            (
                "evaluation.epsilon",
                8,
                "evaluation.epsilon must be at most 1, got 8; epsilons are in pixel units, so write 8/255 rather than 8",
            ),
            ("evaluation.epsilon", 0, "evaluation.epsilon must be at least 1e-06, got 0"),
            ("seed", 2**31, "seed must be at most 2147483647, got 2147483648"),
            # Errors raised by the settings classes.
            (
                "training.recipe.epsilon",
                8,
                "training.recipe is refused: epsilon must be above 0 and at most 1, in pixel units (8/255, not 8), got 8",
            ),
            ("training.selection.steps", 0, "training.selection is refused: steps must be at least 1, got 0"),
            ("search.sampler.candidates", 0, "search.sampler is refused: candidates must be at least 1, got 0"),
            ("space.channels", 0, "space is refused: channels must be at least 1, got 0"),
            ("space", {"name": "macro", "stages": 5}, "space is refused: stages must be 1, 2, 3 or 4, got 5"),
            # Names.
            (
                "data.name",
                "mnst",
                "data.name must be one of digits, mnist, fashion_mnist, cifar10, folder, npz, got 'mnst'",
            ),
            ("data.name", "folder", "data.path must be given for folder"),
            ("data.name", "npz", "data.path must be given for npz"),
            (
                "space",
                "cell202",
                f"space must be one of {', '.join(SPACES)}, or FILE.py:NAME, got 'cell202'; did you mean 'cell201'?",
            ),
            ("space", None, "space must be a name, or a mapping with a name, got None"),
            ("space", ["cell201"], "space must be a name, or a mapping with a name, got ['cell201']"),
            ("space.name", 3, "space.name must be a string, got 3"),
            (
                "training.recipe",
                "adversary",
                "training.recipe must be one of standard, adversarial, fast, n_fgsm, fgsm_pgi, free, pgd, trades, "
                "mart, mixture, or FILE.py:NAME, got 'adversary'; "
                "did you mean 'adversarial'?",
            ),
            ("training.recipe", None, "training.recipe must be a name, or a mapping with a name, got None"),
            ("training.recipe.name", 3, "training.recipe.name must be a string, got 3"),
            ("training.recipe", ["x"], "training.recipe must be a name, or a mapping with a name, got ['x']"),
            (
                "training.selection.norm",
                "l0",
                "training.selection.norm must be one of linf, l2, l1, or FILE.py:NAME, got 'l0'",
            ),
            (
                "training.selection.loss",
                "margins",
                "training.selection.loss must be one of cross_entropy, margin, dlr, or FILE.py:NAME, got 'margins'; "
                "did you mean 'margin'?",
            ),
            ("training.selection.loss", 3, "training.selection.loss must be a name, got 3"),
            (
                "search.sampler",
                "tpee",
                "search.sampler must be one of random, grid, tpe, nsga2, evolution, ppo, surrogate, or FILE.py:NAME, "
                "got 'tpee'; did you mean 'tpe'?",
            ),
            (
                "search.executor",
                "lcal",
                "search.executor must be one of local, ray, or FILE.py:NAME, got 'lcal'; did you mean 'local'?",
            ),
            # Combinations of settings.
            ("evaluation.attacks", {}, "evaluation.attacks must name at least one attack"),
            ("finalists.attacks", {}, "finalists.attacks must name at least one attack"),
            (
                "evaluation.attacks",
                {"a": "pgd", "b": {"name": "pgd", "norm": "l2"}},
                "evaluation.attacks must share one norm, because epsilon is measured in it; or set other_norms: {l2: "
                "EPSILON}",
            ),
            (
                "evaluation.other_norms",
                {"l2": 0.5},
                "evaluation.other_norms.l2 has no attack of that norm; the attacks use linf",
            ),
            (
                "evaluation.other_norms",
                {"linf": 0.1},
                "evaluation.other_norms must leave out one norm of the attacks, that of epsilon",
            ),
            (
                "evaluation.other_norms",
                {"linf": 8},
                "evaluation.other_norms.linf must be an epsilon above 0 in pixel units (8/255, not 8), got 8",
            ),
            (
                "evaluation",
                {"attacks": {"a": "pgd", "b": {"name": "pgd", "norm": "l1"}}, "other_norms": {"l1": 0}},
                "evaluation.other_norms.l1 must be an epsilon above 0 in pixel units (8/255, not 8), got 0",
            ),
            (
                "evaluation",
                {"attacks": {"a": "pgd", "b": {"name": "pgd", "norm": "l1"}}, "other_norms": {"l1": 1}},
                "finalists.attacks must hold an attack in l1, a norm of evaluation.other_norms",
            ),
            (
                "finalists.attacks",
                {"a": {"name": "pgd", "norm": "l2"}},
                "finalists.attacks must hold an attack in linf, the norm of evaluation.attacks",
            ),
            ("objective.minimise", ["error"], f"objective.minimise must hold metrics ({METRICS}), got 'error'"),
            ("objective.minimise", [], "objective.minimise must hold at least one metric, each once"),
            ("objective.minimise", ["macs", "macs"], "objective.minimise must hold at least one metric, each once"),
            ("objective.constraints", {"error": 1}, f"objective.constraints must hold metrics ({METRICS}), got 'error'"),
            ("finalists.epsilons", {"l0": [0.1]}, "finalists.epsilons must be named by norm (linf, l2, l1), got 'l0'"),
            ("finalists.epsilons", {"linf": [0.1, 8]}, f"finalists.epsilons.linf {GRID}, got [0.1, 8.0]"),
            ("finalists.epsilons", {"linf": []}, f"finalists.epsilons.linf {GRID}, got []"),
            ("finalists.epsilons", {"l2": [0]}, f"finalists.epsilons.l2 {GRID}, got [0.0]"),
        ],
    )
    def test_every_fault_says_where_what_and_the_remedy(self, path, value, message):
        assert message in faults(nested(path, value))

    @pytest.mark.parametrize("section", ["evaluation", "finalists"])
    @pytest.mark.parametrize(
        ("attack", "message"),
        [
            ({"steps": 5}, f"must have a name: one of {', '.join(ATTACKS)}"),
            ("pgdd", f"must be one of {', '.join(ATTACKS)}, or FILE.py:NAME, got 'pgdd'; did you mean 'pgd'?"),
            (None, "must be a name, or a mapping with a name, got None"),
            ({"name": "pgd", "steps": 0}, "is refused: steps must be at least 1, got 0"),
            ({"name": "pgd", "steps": "x"}, "must be int, got 'x'"),
        ],
    )
    def test_faults_of_attacks_in_a_mapping(self, section, attack, message):
        messages = faults({section: {"attacks": {"mine": attack, "other": "pgd"}}})
        assert [fault for fault in messages if fault.startswith(f"{section}.attacks.mine") and fault.endswith(message)]
        assert len(messages) == 1

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("finalists.epsilons", {"linf": [float("nan")]}),
            ("finalists.epsilons", {"l2": [float("inf")]}),
            ("objective.constraints", {"clean_error": float("nan")}),
            ("training.recipe.epsilon", float("nan")),
            ("training.selection.step_size", float("nan")),
            ("training.selection.step_size", float("inf")),
            ("training.recipe", {"epsilon": float("inf"), "attack": {"norm": "l2"}}),
            ("evaluation.epsilon", 10**400),
            ("seed", 10**400),
        ],
    )
    def test_numbers_that_are_no_numbers_are_faults(self, path, value):
        assert faults(nested(path, value))

    @pytest.mark.parametrize("name", ["file", "args", "kwds", "allow_pickle"])
    def test_names_that_profiles_cannot_use_are_faults_before_any_work(self, name):
        assert faults({"finalists": {"attacks": {name: "pgd"}}})

    def test_all_faults_are_listed_at_once_and_each_once(self):
        messages = faults(
            {
                "sead": 1,
                "device": 3,
                "data": {"test": 2, "validation": -1, "limit": "x"},
                "space": {"chanels": 3, "stages": "two"},
                "training": {"recipe": "advers", "epochs": 0, "shift": 99},
                "evaluation": {"epsilon": 8},
                "objective": {"minimise": ["error"], "constraints": {"errors": 1}},
                "search": {"trails": 3, "sampler": {"name": "tpe", "candidates": 0}},
            }
        )
        starts = (
            "unknown key sead", "device", "data.test", "data.validation", "data.limit", "unknown key space.chanels",
            "space.stages", "training.recipe", "training.epochs", "training.shift", "evaluation.epsilon",
            "objective.minimise", "objective.constraints", "unknown key search.trails", "search.sampler",
        )  # fmt: skip
        for start in starts:
            assert sum(fault.startswith(start) for fault in messages) == 1, (start, messages)
        assert len(messages) == len(starts)

    def test_a_fault_causes_no_others(self):
        assert len(faults({"objective": {"minimise": [1]}})) == 1
        assert len(faults({"training": {"recipe": {"epsilon": "x"}}})) == 1
        assert len(faults({"finalists": {"epsilons": {"linf": ["x"]}}})) == 1

    @pytest.mark.parametrize("data", [[1], "text", 3])
    def test_a_config_is_a_mapping(self, data):
        assert faults(data) == [f"must be a mapping of sections, got {data!r}"]

    def test_it_is_an_error_for_the_user(self):
        assert issubclass(ConfigError, HardcellError)
        assert ConfigError(["a"]).exit_code == 2

    @given(_sections | _trees)
    def test_any_data_gives_a_config_or_a_config_error(self, data):
        try:
            config = parse_config(data)
        except ConfigError:
            return
        assert parse_config(as_data(config)) == config


class TestOverrides:
    def test_nested_keys_are_set_and_the_rest_stays(self):
        config = parse_config(
            {"seed": 3, "training": {"epochs": 4, "recipe": "adversarial"}},
            overrides=["training.batch_size=32", "training.recipe.attack.steps=2", "data.limit=100", "space.stages=1"],
        )
        assert (config.seed, config.training.epochs, config.training.batch_size, config.data.limit) == (3, 4, 32, 100)
        assert config.training.recipe == Adversarial(attack=PGD(steps=2, step_size=1.25))
        assert config.space.options == {"channels": 8, "cells_per_stage": 1, "stages": 1}

    def test_they_win_over_the_file_and_later_ones_over_earlier(self):
        assert parse_config({"seed": 3}, overrides=["seed=4", "seed=5"]).seed == 5

    def test_values_are_yaml(self):
        overrides = [
            "objective.minimise=[macs, clean_error]",
            "evaluation.epsilon=8/255",
            "data.limit=null",
            "training.flip=true",
        ]
        config = parse_config({"data": {"limit": 50}}, overrides=overrides)
        assert config.objective.minimise == ("macs", "clean_error")
        assert config.evaluation.epsilon == 8 / 255
        assert config.data.limit is None
        assert config.training.flip is True

    def test_an_equals_sign_in_the_value_belongs_to_it(self):
        assert Path(parse_config({}, overrides=["data.path='a=b.npz'"]).data.path).name == "a=b.npz"

    @pytest.mark.parametrize(
        "override", ["training.selection=fgsm", "training.selection.name=fgsm", "training.selection={name: fgsm}"]
    )
    def test_another_name_drops_the_settings_of_the_old_thing(self, override):
        assert parse_config({"training": {"selection": {"steps": 9}}}, overrides=[override]).training.selection == FGSM()

    def test_settings_of_the_new_thing_may_follow(self):
        overrides = ["training.selection.name=fgsm", "training.selection.loss=margin", "space.name=macro", "space.stages=2"]
        config = parse_config({}, overrides=overrides)
        assert config.training.selection == FGSM(loss=margin)
        assert (config.space.name, config.space.options) == ("macro", {"stages": 2})

    def test_the_same_name_keeps_the_settings(self):
        config = parse_config({"training": {"selection": {"steps": 9}}}, overrides=["training.selection.name=pgd"])
        assert config.training.selection == PGD(steps=9, step_size=0.4, loss=margin)

    def test_an_attack_may_be_added(self):
        config = parse_config({}, overrides=["evaluation.attacks.mine=fgsm"])
        assert list(config.evaluation.attacks) == ["pgd", "pgd_margin", "mine"]

    def test_another_source_keeps_the_splits(self):
        # All sources share the settings of the splits, so a new source keeps these settings.
        config = parse_config({"data": {"limit": 100, "test": 0.5}}, overrides=["data.name=mnist"])
        assert (config.data.name, config.data.limit, config.data.test) == ("mnist", 100, 0.5)

    def test_path_and_name_may_come_in_either_order(self):
        for overrides in (["data.name=npz", "data.path=x.npz"], ["data.path=x.npz", "data.name=npz"]):
            assert Path(parse_config({}, overrides=overrides).data.path).name == "x.npz"

    @pytest.mark.parametrize("overrides", [["data={name: npz, path: x.npz}"], ["data.name=npz", "data.path=x.npz"]])
    def test_data_path_is_relative_to_the_working_directory(self, folder, monkeypatch, overrides):
        monkeypatch.chdir(folder)
        config = parse_config({}, folder=folder / "elsewhere", overrides=overrides)
        assert config.data.path == f"{folder.resolve()}/x.npz"
        # Paths in the file that no override changes stay relative to the file.
        config = parse_config({"data": {"path": "x.npz"}}, folder=folder / "elsewhere", overrides=["data.name=npz"])
        assert config.data.path == f"{folder.resolve()}/elsewhere/x.npz"

    @pytest.mark.parametrize("space", ["space=mine.py:make", "space.name=mine.py:make", "space={name: mine.py:make}"])
    def test_user_files_are_relative_to_the_working_directory(self, folder, monkeypatch, space):
        monkeypatch.chdir(folder)
        overrides = [
            space,
            "training.recipe={name: mine.py:Smooth, attack: mine.py:Push}",
            "training.selection.loss=mine.py:plain",
            "evaluation.attacks.mine=mine.py:Push",
        ]
        data = as_data(parse_config({}, folder=folder / "elsewhere", overrides=overrides))
        file = folder.resolve() / "mine.py"
        assert data["space"]["name"] == f"{file}:make"
        assert data["training"]["recipe"]["name"] == f"{file}:Smooth"
        assert data["training"]["recipe"]["attack"]["name"] == f"{file}:Push"
        assert data["training"]["selection"]["loss"] == f"{file}:plain"
        assert data["evaluation"]["attacks"]["mine"]["name"] == f"{file}:Push"

    def test_user_files_of_the_file_stay_relative_to_it_under_other_settings(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        config = parse_config(USER, folder=folder, overrides=["space.width=2", "training.recipe.attack.strength=1"])
        assert config.space.name == f"{folder.resolve()}/mine.py:make"
        assert config.space.options["width"] == 2
        assert config.training.recipe.attack.strength == 1

    @pytest.mark.parametrize(
        ("data", "override"),
        [
            ({"search": {"trials": "ten"}}, "search.trials=3"),
            ({"space": "nowhere.py:make"}, "space=cell201"),
            ({"space": {"name": "cel201", "channels": 4}}, "space.name=cell201"),
            ({"training": {"selection": {"name": "pgd", "stps": 3}}}, "training.selection=pgd"),
            ({"training": {"recipe": {"name": "adversarial", "epsilon": 8}}}, "training.recipe.epsilon=8/255"),
            ({"training": 3}, "training={epochs: 3}"),
            ({"data": {"name": "npz"}}, "data.path=x.npz"),
            # This norm is a fault only because the default attacks of the evaluation are in linf.
            ({"training": {"selection": {"norm": "l2"}}}, "training.selection.norm=linf"),
        ],
    )
    def test_they_mend_what_is_faulty_in_the_file(self, data, override):
        with pytest.raises(ConfigError):
            parse_config(data)
        parse_config(data, overrides=[override])

    def test_user_things_of_the_file_stay(self, folder):
        data = {**USER, "training": {**USER["training"], "selection": {"loss": "mine.py:plain"}}}
        assert parse_config(data, folder=folder, overrides=["seed=0"]) == parse_config(data, folder=folder)

    @pytest.mark.parametrize("override", ["seed", "", "=3", ".=3", "training.=3", ".seed=3", "training..epochs=3"])
    def test_malformed_ones_are_refused(self, override):
        assert faults({}, overrides=[override]) == [f"--set must be section.key=value, got {override!r}"]

    def test_values_that_are_no_yaml_are_refused(self):
        assert faults({}, overrides=["seed=[1"]) == ["--set seed: not YAML: '[1'"]

    def test_dates_that_do_not_exist_are_refused(self):
        assert faults({}, overrides=["seed=2024-13-45"])

    def test_faults_say_that_they_come_from_an_override(self):
        assert faults({}, overrides=["search.trails=3", "search.trials=x"]) == [
            "--set: unknown key search.trails; did you mean 'trials'?",
            "--set: search.trials must be int, got 'x'",
        ]  # fmt: skip

    def test_faults_of_the_file_and_of_overrides_are_listed_at_once_with_their_source(self):
        data = {"sead": 1, "search": {"attempts": "x"}, "training": {"recipe": {"name": "adversarial", "attack": "pgd"}}}
        assert faults(data, overrides=["seed=x", "search.trials=x", "training.recipe.attack.steps=0"]) == [
            "unknown key sead; did you mean 'seed'?",
            "--set: seed must be int, got 'x'",
            "--set: training.recipe.attack is refused: steps must be at least 1, got 0",
            "--set: search.trials must be int, got 'x'",
            "search.attempts must be int, got 'x'",
        ]

    @given(_sections, st.sampled_from(_KEYS), st.lists(_words | st.just("name"), max_size=2), _trees)
    def test_any_override_gives_a_config_or_a_config_error(self, data, key, inner, value):
        override = f"{'.'.join([key, *inner])}={yaml.safe_dump(value, default_flow_style=True)}"
        try:
            config = parse_config(data, overrides=[override])
        except ConfigError:
            return
        assert parse_config(as_data(config)) == config


class TestFiles:
    def test_a_file_is_read(self, folder):
        (folder / "run.yaml").write_text("seed: 3\nspace: mine.py:make\ndata: {name: npz, path: x.npz}\n")
        config = load_config(folder / "run.yaml", ["search.trials=5"])
        assert (config.seed, config.search.trials) == (3, 5)
        assert config.space.name == f"{folder.resolve()}/mine.py:make"
        assert config.data.path == f"{folder.resolve()}/x.npz"

    def test_the_working_directory_does_not_matter(self, folder, monkeypatch):
        (folder / "run.yaml").write_text("space: mine.py:make\n")
        monkeypatch.chdir(folder)
        (folder / "sub").mkdir()
        here = load_config(Path("run.yaml"))
        monkeypatch.chdir(folder / "sub")
        assert load_config(folder / "run.yaml") == here

    def test_an_empty_file_is_the_defaults(self, tmp_path):
        (tmp_path / "run.yaml").write_text("# nothing\n")
        assert load_config(tmp_path / "run.yaml") == Config()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"run\.yaml: cannot be read: No such file or directory$"),
            (b"a: [1", r"run\.yaml: is not YAML: .*line 1"),
            (b"\xff\xfe\xfa", r"run\.yaml: must be text in UTF-8$"),
            (b"a: !!python/object:os.system x", r"run\.yaml: is not YAML: line 1: must hold no tag, got .*os.system"),
            (b"- 1", r"run\.yaml: must be a mapping of sections, got \[1\]$"),
            (b"seed: x", r"run\.yaml: seed must be int, got 'x'$"),
            (b"seed: 2024-13-45", r"run\.yaml: "),
        ],
    )
    def test_files_that_will_not_do_are_refused(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "run.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=message) as error:
            load_config(tmp_path / "run.yaml")
        assert "\n" not in str(error.value)

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
            load_config(tmp_path)


def test_norms_of_the_default_attacks():
    attacks = Config().finalists.attacks
    assert {name: attack.norm for name, attack in attacks.items() if attack.norm != Linf()} == {"ddn": L2()}
