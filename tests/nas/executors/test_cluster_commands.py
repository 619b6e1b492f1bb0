"""The cluster commands of the guide and the SLURM script run as printed, on two simulated nodes on this machine."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import nas

ROOT = Path(__file__).parents[3]
# The command `ray` on node SLURM_PROCID of a SLURM job. Both simulated nodes share this machine,
# perhaps with other programs that use Ray. So this command must neither look for running Ray processes nor stop them.
RAY = """#!{python}
import os, sys
from ray.scripts import scripts, symmetric_run

symmetric_run.check_ray_already_started = lambda: False
if os.environ["SLURM_PROCID"] != "0":  # Only the first node has the address of the head node.
    symmetric_run.psutil.net_if_addrs = dict
if sys.argv[1] == "stop":
    with open("stopped", "a") as file:
        file.write(os.environ["SLURM_PROCID"])
    sys.exit()
scripts.main()
"""
CONFIG = """
threads: 1
data: {name: digits, limit: 120}
training: {epochs: 1}
search: {trials: 2, random_trials: 1}
finalists: {count: 1, epochs: 1, images: 40, references: false, attacks: {fgsm: fgsm}}
"""
# The command `srun`: starts a command once for each node, and waits for the first node.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=1 "$@" > node1.txt 2>&1 &
SLURM_PROCID=0 "$@"
"""


def processes(mark):
    """Returns the ids of the processes whose environment contains a string."""
    pids = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes():
                pids.append(int(place.name))
        except OSError:
            continue
    return pids


@pytest.fixture
def environment(tmp_path):
    """Environment of the nodes. Processes with this environment are ended afterwards."""
    if not subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.strip():
        pytest.skip("needs a network interface, and `hostname -I`")
    mark = f"HARDCELL_TEST={tmp_path}"
    # Paths of sockets must be short.
    short = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "hardcell").write_text(f"#!{sys.executable}\nfrom nas.cli import main\nmain()\n", encoding="utf-8")
    (commands / "hardcell").chmod(0o755)
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HARDCELL_TEST": str(tmp_path),
        "HOME": str(tmp_path),
        "RAY_TMPDIR": str(short),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    while pids := processes(mark.encode()):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def config(tmp_path):
    """Config file of a search with two trials."""
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def free_port(low=20000, high=30000):
    """Returns a port on which no process listens."""
    for port in range(low + os.getpid() % 5000, high):
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def lines_of_the_guide(where):
    """Returns the commands of the guide whose comment starts with `where` or with "on every node", in order."""
    guide = (ROOT / "nas" / "README.md").read_text(encoding="utf-8")
    block = next(
        block for block in re.findall(r"^```sh\n(.*?)^```", guide, re.DOTALL | re.MULTILINE) if "ray start" in block
    )
    commands = [line.partition(" # ") for line in block.splitlines()]
    return "\n".join(command for command, _, place in commands if place.startswith(("on every node", where)))


@pytest.mark.ray
def test_the_commands_of_the_guide(environment, config):
    port, head = str(free_port()), config.parent
    node = head / "node"
    start, _, search = lines_of_the_guide("on the head node").rpartition("\n")

    def shell(commands, home):
        commands = "set -e\n" + commands.replace("6379", port).replace("HEAD", "127.0.0.1")
        subprocess.run(["bash", "-c", commands], cwd=head, env={**environment, "HOME": str(home)}, check=True)

    shell(start, head)
    shutil.copytree(head / ".ray", node / ".ray")
    shell(lines_of_the_guide("on every other node"), node)
    shell(f"export RAY_AUTH_MODE=token\n{search} --run {head / 'run'}", head)
    assert nas.status(head / "run").trials["complete"] == 2
    assert processes(f"HOME={node}".encode())


@pytest.fixture
def slurm(environment, config):
    """Function that runs the SLURM script with the given program text of `srun`, and returns its output."""

    def submit(srun):
        folder, port = config.parent, free_port()
        for name, text in (("ray", RAY.format(python=sys.executable)), ("srun", srun)):
            (folder / "bin" / name).write_text(text, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        job = {"SLURM_JOB_ID": str(port), "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
        script = ["bash", ROOT / "examples" / "slurm.sbatch", config, folder / "run"]
        done = subprocess.run(
            script,
            cwd=folder,
            env={**environment, **job},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return submit


@pytest.mark.ray
def test_the_slurm_script_searches_on_two_nodes(slurm, tmp_path):
    output = slurm(SRUN)
    assert "Running command on head node: ['hardcell', 'search'" in output
    assert nas.status(tmp_path / "run").state == "finished"
    with (tmp_path / "run" / "leaderboard.csv").open(encoding="utf-8") as file:
        nodes = [row["worker"].partition(":")[0] for row in csv.DictReader(file)]
    assert len(nodes) == len(set(nodes)) == 2
    # The first node stops Ray at the end.
    assert (tmp_path / "stopped").read_text(encoding="utf-8") == "0"


def test_the_slurm_script_continues_a_run(slurm, tmp_path):
    arguments = "#!/bin/bash\necho $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $*\n"
    assert re.search(r"^token 64 .* ray symmetric-run .* -- hardcell search \S+mine.yaml --run", slurm(arguments))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert slurm(arguments).endswith(f"-- hardcell resume {tmp_path / 'run'}\n")
