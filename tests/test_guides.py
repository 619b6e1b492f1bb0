"""The code blocks and command lines of the README and the guides are valid, and their links lead to files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

import nas
from nas.cli import commands

ROOT = Path(__file__).parents[1]
GUIDES = [
    "README.md",
    "nas/README.md",
    "search_spaces/README.md",
    "evaluators/README.md",
    "examples/README.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
]


def text_of(guide):
    return (ROOT / guide).read_text(encoding="utf-8")


def blocks(guide, language):
    """The code blocks of a guide in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(guide), re.DOTALL | re.MULTILINE)


def command_lines(guide):
    """The `hardcell` command lines in shell blocks and indented lines, including those inside other commands."""
    indented = re.sub(r"^```.*?^```", "", text_of(guide), flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks(guide, "sh") for line in block.splitlines()]
    lines += re.findall(r"^    (\S.*)", indented, re.MULTILINE)
    for line in lines:
        for command in re.findall(r"(?:^|&& |'|-- )(hardcell [^#']*(?:'[^']*'[^#']*)*)", line):
            yield command.partition(" > ")[0].strip()


YAML = [pytest.param(block, id=f"{guide}-{i}") for guide in GUIDES for i, block in enumerate(blocks(guide, "yaml"))]
COMMANDS = [pytest.param(line, id=f"{guide}: {line}") for guide in GUIDES for line in command_lines(guide)]


def test_there_are_blocks_of_every_kind():
    assert len(YAML) >= 6
    assert len(COMMANDS) >= 12
    assert len([block for guide in GUIDES for block in blocks(guide, "python")]) >= 9


@pytest.mark.parametrize("text", YAML)
def test_yaml_is_a_config(text):
    nas.parse_config(yaml.safe_load(text), folder=ROOT / "examples")


@pytest.mark.parametrize("line", COMMANDS)
def test_command_line_is_understood(line):
    name, *arguments = shlex.split(line)[1:]
    command = commands.commands[name]
    with click.Context(commands, **commands.context_settings) as parent:
        command.make_context(name, arguments, parent=parent)


@pytest.mark.parametrize("guide", ["search_spaces/README.md", "evaluators/README.md", ".github/CONTRIBUTING.md"])
def test_python_runs(guide, tmp_path):
    run_python(guide, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "reader"), [("README.md", "load_config"), ("nas/README.md", "parse_config")])
def test_python_with_a_search_runs(guide, reader, tmp_path, smallest):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    overrides = [setting for setting in smallest if "attacks" not in setting]
    overrides += ["finalists.attacks={fgsm: fgsm, pgd: {name: pgd, steps: 2}}"]
    out = run_python(guide, tmp_path, reader, overrides)
    assert "finished" in out
    assert "False" not in out


def run_python(guide, folder, reader=None, overrides=()):
    """Runs the Python blocks of a guide as one program and returns its output.

    Args:
        guide: Path of the guide.
        folder: Working folder of the program.
        reader: Name of the function of `nas` that reads the config in the program. The overrides are passed to this
            function. None if no config is read.
        overrides: Overrides of the config.
    """
    code = "\n".join(blocks(guide, "python"))
    if reader is not None:
        code, count = re.subn(rf"nas\.{reader}\(([^)]*)\)", rf"nas.{reader}(\1, overrides={overrides!r})", code)
        assert count == 1
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_to_files(guide):
    targets = re.findall(r"\]\(([^)#]+)\)", text_of(guide))
    missing = [t for t in targets if not t.startswith("https://") and not (ROOT / guide).parent.joinpath(t).exists()]
    assert missing == []


@pytest.mark.parametrize("guide", GUIDES)
def test_names_of_the_python_api_exist(guide):
    names = set(re.findall(r"`nas\.(\w+)`", text_of(guide)))
    assert {name for name in names if not hasattr(nas, name)} == set()


def test_readme_is_short_and_names_every_command():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 200
    assert [name for name in commands.commands if f"`hardcell {name}" not in text] == []


def test_guide_of_nas_describes_every_function():
    text = text_of("nas/README.md")
    assert [name for name in nas.__all__ if name[0].islower() and f"nas.{name}" not in text] == []
