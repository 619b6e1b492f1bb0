"""Cell spaces in YAML: options, custom operations and messages."""

import pickle
import re
import subprocess
import sys

import pytest
import torch
import yaml

from nas.config.files import load_config, parse_config
from nas.config.writer import as_data, commented_config, dump_config
from nas.errors import ConfigError
from nas.spaces.options import open_space

OPERATIONS_FILE = """
import functools

from torch import nn

from search_spaces import OPERATIONS, Operation, SearchSpace, cell_space


def wave(channels, stride):
    return OPERATIONS["conv3x3"](channels, stride)


def sized(channels, stride, kernel):
    return OPERATIONS[f"conv{kernel}x{kernel}"](channels, stride)


wide = functools.partial(sized, kernel=5)
narrow = lambda channels, stride: sized(channels, stride, 1)
skip = wave
COUNT = 3


def strideless(channels, stride):
    return nn.Conv2d(channels, channels, 3, padding=1)


def floored(channels, stride):
    return nn.AvgPool2d(stride)


def wider(channels, stride):
    return nn.Conv2d(channels, 2 * channels, 1, stride)


def inplace(channels, stride):
    return nn.ReLU(inplace=True) if stride == 1 else wave(channels, stride)


def no_module(channels, stride):
    return abs


def fails(channels, stride):
    raise KeyError("kernel")


def of_one(channels):
    return wave(channels, 1)


def make(name: str = "mine", first: Operation = wave, others: list[str | Operation] = [strideless]) -> SearchSpace:
    return cell_space(name, nodes=2, operations=["none", first, *others], channels=4, stages=1)
"""


def faults(data, folder=None):
    """Returns the faults of a config, one line each."""
    with pytest.raises(ConfigError) as error:
        parse_config(data, folder=folder)
    assert all(fault.startswith("config: ") and "\n" not in fault for fault in error.value.faults)
    return [fault.removeprefix("config: ") for fault in error.value.faults]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ops.py").write_text(OPERATIONS_FILE, encoding="utf-8")
    (tmp_path / "more.py").write_text("from ops_of_mine import wave\n", encoding="utf-8")
    (tmp_path / "again.py").write_text("def wave(channels, stride): ...\n", encoding="utf-8")
    return tmp_path


def cells(*operations, **options):
    given = {"nodes": 3, "operations": ["none", *operations], "channels": 4, "cells_per_stage": 1, "stages": 2}
    return {"space": {"name": "cells"} | given | options}


def test_options_are_read_by_their_annotations():
    config = parse_config(cells("skip", "sepconv3x3+se", topology=[[0, 1], [1, 2], [0, 2]], output="all"))
    assert config.space.options == {
        "nodes": 3,
        "inputs": 1,
        "topology": [(0, 1), (1, 2), (0, 2)],
        "output": "all",
        "operations": ["none", "skip", "sepconv3x3+se"],
        "cells": "shared",
        "channels": 4,
        "cells_per_stage": 1,
        "stages": 2,
    }
    space = open_space(config.space, trust=True)
    assert list(space.choices) == ["edge01", "edge02", "edge12"]
    assert space.size == 27
    for text in (dump_config(config), commented_config(config)):
        assert parse_config(yaml.safe_load(text)) == config
    assert "  topology: [[0, 1], [1, 2], [0, 2]]  # " in commented_config(config)


@pytest.mark.parametrize("topology", ["all_pairs", "two_inputs"])
def test_topologies_by_name(topology):
    config = parse_config(cells("skip", inputs=2, nodes=4, cells="normal_reduction", topology=topology))
    assert len(open_space(config.space, trust=True).graphs(dict(open_space(config.space, trust=True).at(0)))) == 2


def test_the_name_of_the_space_is_no_option(folder):
    """A factory may have a parameter `name`. In YAML, `name` is the reference to the factory."""
    config = parse_config({"space": "ops.py:make"}, folder=folder)
    assert config.space.options == {}
    assert as_data(config)["space"] == {"name": f"{folder.resolve()}/ops.py:make"}


def test_own_operations_are_kept_as_absolute_paths_and_opened_as_functions(folder, monkeypatch):
    config = parse_config(cells("ops.py:wave", "skip", "ops.py:wide"), folder=folder)
    place = folder.resolve() / "ops.py"
    assert config.space.options["operations"] == ["none", f"{place}:wave", "skip", f"{place}:wide"]
    monkeypatch.chdir("/")
    space = open_space(config.space, trust=True)
    assert space.choices["edge01"].values == ("none", "wave", "skip", "wide")
    assert space.operations == ("wave", "skip", "wide")
    network = space.build({"edge01": "wide", "edge12": "wave", "edge02": "skip"}, (1, 8, 8), 10)
    assert [tuple(m.kernel_size) for m in network[1].modules() if hasattr(m, "kernel_size")] == [(5, 5), (3, 3)]
    assert parse_config(yaml.safe_load(dump_config(config))) == config
    assert parse_config(yaml.safe_load(commented_config(config))) == config


def test_partials_and_lambdas_have_the_names_in_yaml(folder):
    """A partial has no `__name__`, and all lambdas have the same one."""
    config = parse_config(cells("ops.py:wide", "ops.py:narrow"), folder=folder)
    assert open_space(config.space, trust=True).operations == ("wide", "narrow")


def test_own_operations_of_a_package(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    (folder / "ops_in_package.py").write_text(OPERATIONS_FILE, encoding="utf-8")
    config = parse_config(cells("ops_in_package:wave"))
    assert config.space.options["operations"] == ["none", "ops_in_package:wave"]
    assert open_space(config.space, trust=True).operations == ("wave",)


def test_overrides_are_relative_to_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    overrides = ["space.name=cells", "space.operations=[none, ops.py:wave]"]
    config = parse_config({}, folder=folder / "elsewhere", overrides=overrides)
    assert config.space.options["operations"] == ["none", f"{folder.resolve()}/ops.py:wave"]


def test_functions_of_a_user_take_operations_by_their_annotations_too(folder):
    """Defaults that are functions are left to the factory, so that settings are plain data."""
    data = {"space": {"name": "ops.py:make", "first": "ops.py:narrow", "others": ["conv1x1", "ops.py:wave"]}}
    config = parse_config(data, folder=folder)
    place = folder.resolve() / "ops.py"
    assert config.space.options == {"first": f"{place}:narrow", "others": ["conv1x1", f"{place}:wave"]}
    assert open_space(config.space, trust=True).operations == ("narrow", "conv1x1", "wave")
    assert open_space(parse_config({"space": "ops.py:make"}, folder=folder).space, trust=True).size == 3


@pytest.mark.slow
def test_a_process_of_its_own_opens_the_same_space(folder):
    config = parse_config(cells("ops.py:wave"), folder=folder)
    opened = "open_space(pickle.load(sys.stdin.buffer), trust=True)"
    code = f"import pickle, sys; from nas.config.reader import open_space; print({opened}.size)"
    sent = pickle.dumps(config.space)
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout == b"8\n"


@pytest.mark.parametrize(
    ("operations", "place", "message"),
    [
        (["sepcon3x3"], 1, "must be one of none, .*, or FILE.py:NAME, got 'sepcon3x3'; did you mean 'sepconv3x3'?$"),
        (["skip+sepcon3x3"], 1, "must be one of none, .*, got 'sepcon3x3'; did you mean 'sepconv3x3'?$"),
        ([3], 1, "must be the name of an operation, or FILE.py:NAME, got 3$"),
        ([["skip"]], 1, "must be the name of an operation, or FILE.py:NAME, got ['skip']$"),
        (["skip", "skip"], 2, "is called 'skip' like space.operations[1]; operations must differ in name$"),
        (["ops.py:wave", "again.py:wave"], 2, "is called 'wave' like space.operations[1]; operations must differ"),
        (["ops.py:skip"], 1, "is called 'skip' like a built-in operation; "),
        (["gone.py:wave"], 1, "/.*/gone.py does not exist$"),
        (["more.py:wave"], 1, "/.*/more.py, line 1, does not import: ModuleNotFoundError: No module named 'ops_of_mine'$"),
        (["no_such_module:wave"], 1, "module 'no_such_module' does not import: ModuleNotFoundError: "),
        (["ops.py:waves"], 1, "ops.py has no 'waves'$"),
        (["ops.py:COUNT"], 1, "must name a function of (channels, stride) that returns a module, got 3$"),
        (["skip+ops.py:wave"], 1, "cannot add a custom function to other operations; .*, got "),
    ],
)
def test_entries_that_will_not_do_are_refused(folder, operations, place, message):
    (fault,) = faults(cells(*operations), folder=folder)
    pattern = re.escape(message).replace(r"\.\*", ".*").removesuffix(r"\$") + ("$" if message.endswith("$") else "")
    assert re.match(rf"space\.operations\[{place}\] {pattern}", fault), fault


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("of_one", "cannot be used with 4 channels: TypeError: of_one() takes 1 positional argument but 2 were given"),
        ("fails", "cannot be used with 4 channels: KeyError: 'kernel'"),
        (
            "no_module",
            "cannot be used with 4 channels: TypeError: a function of (channels, stride) must return a torch.nn.Module, "
            "got <built-in function abs>",
        ),
        ("wider", "must map (N, C, H, W) to (N, C, H, W), got (2, 8, 9, 6) for (2, 4, 9, 6)"),
        ("inplace", "changes its input, which other edges also read; look for inplace=True and +="),
    ],
)
def test_functions_that_will_not_do_are_refused(folder, operation, message):
    assert faults(cells(f"ops.py:{operation}"), folder=folder) == [
        f"space is refused: operation '{operation}' at stride 1 {message}"
    ]


@pytest.mark.parametrize(("operation", "sides"), [("strideless", "9, 6"), ("floored", "4, 3")])
def test_strides_are_tried_where_there_are_any(folder, operation, sides):
    """With shared cells, the residual blocks between the stages have the stride, so no edge is tried at stride 2."""
    parse_config(cells(f"ops.py:{operation}"), folder=folder)
    (fault,) = faults(cells(f"ops.py:{operation}", cells="normal_reduction"), folder=folder)
    assert fault == (
        f"space is refused: operation '{operation}' at stride 2 must map (N, C, H, W) to (N, C, ceil(H/2), ceil(W/2)), "
        f"got (2, 8, {sides}) for (2, 8, 9, 6)"
    )


def test_checking_an_operation_draws_no_random_numbers(folder):
    config = parse_config(cells("ops.py:wave"), folder=folder)
    torch.manual_seed(0)
    open_space(config.space, trust=True)
    first = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(first, torch.rand(1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "topology",
            "al_pairs",
            "must be one of all_pairs, two_inputs or a list, got 'al_pairs'; did you mean 'all_pairs'?",
        ),
        ("topology", 3, "must be one of all_pairs, two_inputs or a list, got 3"),
        ("topology", [[0, 1], [1]], "[1] must be a list of 2, got [1]"),
        ("topology", [[0, 1], [1, "x"]], "[1][1] must be int, got 'x'"),
        ("output", "lst", "must be one of last, all, unused, got 'lst'; did you mean 'last'?"),
        ("cells", 1, "must be one of shared, normal_reduction, each, got 1"),
        ("operations", "skip", "must be a list, got 'skip'"),
        ("operations", None, "must be a list, got None"),
    ],
)
def test_options_that_will_not_do_are_refused(key, value, message):
    assert faults(cells("skip", **{key: value})) == [f"space.{key}{'' if message.startswith('[') else ' '}{message}"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"topology": [[0, 1], [1, 0]]}, ("space", "edge must lead", "not an input", "got [1, 0]")),
        ({"nodes": 0}, ("space", "nodes must be at least 1, got 0")),
        ({"chanels": 4}, ("unknown key space.chanels; did you mean 'channels'?",)),
        ({"operations": ["none"]}, ("space", "operations must hold at least one", "'none'", "got ['none']")),
    ],
)
def test_faults_that_the_space_finds_are_named(options, parts):
    (fault,) = faults(cells("skip", **options))
    assert all(part in fault for part in parts), fault


def test_the_file_is_named(folder):
    (folder / "search.yaml").write_text(yaml.safe_dump(cells("ops.py:waves")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^/.*/search\.yaml: space\.operations\[1\] ops\.py has no 'waves'$"):
        load_config(folder / "search.yaml")
