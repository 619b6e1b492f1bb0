"""Every example config is valid, and the searches on digits and MNIST run at their smallest size.

Continuous integration reads its test command from the README.
"""

import gzip
import json
import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
import yaml

import nas
from nas.analysis.requirements import parse_requirements
from nas.cli import commands
from nas.config.files import parse_config
from nas.config.writer import as_data

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_digits_yaml_is_the_default_config_with_every_key():
    written = yaml.safe_load((EXAMPLES / "digits.yaml").read_text(encoding="utf-8"))
    assert nas.load_config(EXAMPLES / "digits.yaml") == nas.Config()
    # The file contains every key.
    assert written == json.loads(json.dumps(as_data(nas.Config())))


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_config_is_valid(name):
    nas.load_config(EXAMPLES / name)


def test_commands_of_the_workflow_are_understood():
    workflow = yaml.safe_load((EXAMPLES / "robustness_gate.yml").read_text(encoding="utf-8"))
    (line,) = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if step.get("run", "").startswith("hardcell")]
    _, name, *arguments = shlex.split(line)
    with click.Context(commands, **commands.context_settings) as parent:
        context = commands.commands[name].make_context(name, arguments, parent=parent)
    assert len(parse_requirements(context.params["require"])) == 3


@pytest.mark.parametrize(
    "name",
    [pytest.param("digits.yaml", marks=pytest.mark.slow), "custom_space.yaml", "custom_cells.yaml", "custom_attack.yaml"],
)
def test_searches_on_digits_run(name, tmp_path, smallest):
    run = nas.search(nas.load_config(EXAMPLES / name, smallest), run=tmp_path / "run")
    assert [trial.state for trial in run.trials].count("complete") >= 1
    assert all(outcome.passed for outcome in nas.verify(run.bundles[0].folder, trust=True))


@pytest.mark.slow
def test_mnist_runs_on_the_real_images(tmp_path, shared_data, smallest):
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    # torchvision needs the unpacked files.
    for packed in (shared_data / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    overrides = [*smallest, f"data.path={tmp_path / 'mnist'}", "space.channels=2", "search.trials=1"]
    run = nas.search(nas.load_config(EXAMPLES / "mnist.yaml", overrides), run=tmp_path / "run")
    assert run.bundles[0].stored.input_shape == (1, 28, 28)
    assert run.bundles[0].profile.record["dataset"] == "mnist"


def test_the_benchmark_measures_passes_and_trials(smallest):
    benchmark = runpy.run_path(str(ROOT / "tests" / "benchmarks" / "trials.py"))
    config = parse_config(None, overrides=[*smallest, "search.sampler=random"])
    measured = benchmark["measure"](config)
    assert measured["trained_trials"] == 2
    assert 0 < measured["share_forward"] + measured["share_backward"] < 1
    assert 0 < measured["share_outside_passes"] < 1


def readme_commands():
    """Returns the install commands in the code blocks of the README, in order."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if re.match(r"    pip install ", line)]


def test_the_readme_opens_with_the_two_commands_and_ci_runs_the_second():
    commands = readme_commands()
    assert commands[:2] == ["pip install . && hardcell search", "pip install '.[test]' && pytest"]
    # Continuous integration extracts its test command from the README with this pattern.
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -E '([^']+)' README.md", script)[1]
    taken = [
        line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if re.search(pattern, line)
    ]
    assert taken[0] == commands[1]
