"""Runs, resumes and reads the searches that `architecture_search.py` and `generalisation.py` analyse.

A child is a network that a search trains. The controller is the PPO policy that proposes children after the first random
ones. The reward of a child is its adversarial accuracy on validation images. The terms are from Cubuk et al.
(arXiv:1711.02846).

Each search is `examples/paper_search.yaml` at a size of SEARCH_SCALES. By default, images are averaged over 2x2 pixels
(14x14 for MNIST, 16x16 for CIFAR-10), so that tens of children take minutes.
"""

from __future__ import annotations

import io
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING

import cells
import lab
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import nas
from nas.data import open_data, open_test
from nas.files import write_atomic
from nas.pipeline.events import FinalistsStarted, RunStarted, TrialFinished
from nas.pipeline.search import resume_events, search_events
from nas.spaces.options import open_space
from nas.study.trial import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable

YAML = lab.ROOT / "examples" / "paper_search.yaml"


@dataclass(frozen=True)
class Scale:
    """Size of a search.

    Attributes:
        train: Number of training images.
        validation: Number of validation images.
        measured: Number of attacked images: validation images for the reward, and as many test images for the analysis.
        test: Number of test images for clean errors, for the analysis.
        halved: Whether images are averaged over 2x2 pixels.
        channels: Number of channels of the first cell.
        cells_per_stage: Number of normal cells in each stage.
        stages: Number of stages.
        epochs: Number of training epochs of a child.
        batch_size: Number of images in one training step.
        trials: Number of children.
        random_trials: Number of children that are drawn at random. They come first.
        batch: Number of children per controller update.
    """

    train: int
    validation: int
    measured: int
    test: int
    halved: bool
    channels: int
    cells_per_stage: int
    stages: int
    epochs: int
    batch_size: int
    trials: int
    random_trials: int
    batch: int


SEARCH_SCALES = {
    "smoke": Scale(300, 100, 100, 100, False, 4, 1, 2, epochs=2, batch_size=32, trials=6, random_trials=4, batch=2),
    "default": Scale(700, 300, 300, 2000, True, 4, 1, 2, epochs=4, batch_size=32, trials=28, random_trials=12, batch=4),
    "full": Scale(
        45_000, 5000, 2000, 10_000, False, 16, 2, 3, epochs=20, batch_size=128, trials=300, random_trials=100, batch=20
    ),
}


def data_sets(size: str) -> tuple[str, ...]:
    """Returns the names of the data sets of a size."""
    return ("digits",) if size == "smoke" else ("mnist", "cifar10")


def data_section(data: str, scale: Scale, work: Path) -> dict[str, object]:
    """Prepares the images and returns the section `data` of a config."""
    pool = scale.train + scale.validation
    data_config = lab.data_config(data, lab.Size(train=pool, test=scale.test, epochs=1, channels=1), work)
    if scale.halved:
        file = work / "data" / f"{data}-halved-{pool}-{scale.test}.npz"
        if not file.exists():
            train, test = open_data(data_config).train.first(pool), open_test(data_config).first(scale.test)
            content = io.BytesIO()
            arrays = {
                "x_train": F.avg_pool2d(train.x, 2),
                "y_train": train.y,
                "x_test": F.avg_pool2d(test.x, 2),
                "y_test": test.y,
            }
            np.savez(content, **{name: array.numpy() for name, array in arrays.items()})
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content.getvalue())
        name, path = "npz", str(file)
    else:
        name, path = data_config.name, data_config.path
    return {
        "name": name,
        "path": path and str(Path(path).resolve()),
        "validation": scale.validation / pool,
        "limit": pool,
    }


def search_config(data: str, scale: Scale, work: Path) -> nas.Config:
    """Returns the config of `paper_search.yaml` with a data set and the numbers of a scale."""
    values = {
        **{f"data.{name}": value for name, value in data_section(data, scale, work).items()},
        "space.channels": scale.channels,
        "space.cells_per_stage": scale.cells_per_stage,
        "space.stages": scale.stages,
        "training.recipe.epsilon": lab.EPSILONS[data],
        "training.epochs": scale.epochs,
        "training.batch_size": scale.batch_size,
        "evaluation.epsilon": lab.EPSILONS[data],
        "evaluation.images": scale.measured,
        "search.trials": scale.trials,
        "search.random_trials": scale.random_trials,
        "search.sampler.batch": scale.batch,
    }
    return nas.load_config(YAML, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def run_folder(data: str, out: Path) -> Path:
    """Returns the run folder of a search."""
    return out / "runs" / data


def search(data: str, size: str, out: Path, on_progress: Callable[[str, int, int], None]) -> None:
    """Runs or resumes a search. It stops after the trials, before the finalists are trained.

    Args:
        data: Name of the data set.
        size: A name of SEARCH_SCALES.
        out: Output folder.
        on_progress: Function of the name of the data set, the number of finished trials and the number of all trials.
    """
    folder, scale = run_folder(data, out), SEARCH_SCALES[size]
    if (folder / "config.yaml").exists():
        run = nas.read_run(folder, trust=True)
        if sum(trial.state in ENDED for trial in run.trials) >= run.config.search.trials:
            on_progress(data, run.config.search.trials, run.config.search.trials)
            return
        events = resume_events(folder)
    else:
        events = search_events(search_config(data, scale, out.parent), folder)
    finished = trials = 0
    with closing(events):
        for event in events:
            match event:
                case RunStarted():
                    finished, trials = event.finished, event.trials
                case TrialFinished():
                    finished += 1
                case FinalistsStarted():
                    return
                case _:
                    continue
            on_progress(data, finished, trials)


def search_all(size: str, out: Path, workers: int) -> None:
    """Runs or resumes all searches in parallel, with a progress bar for each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        progress_tasks = {
            data: progress.add_task(f"search on {data}", total=SEARCH_SCALES[size].trials) for data in data_sets(size)
        }

        def show(data: str, finished: int, trials: int) -> None:
            progress.update(progress_tasks[data], completed=finished, total=trials)

        if workers <= 1 or len(progress_tasks) == 1:
            torch.set_num_threads(1)
            for data in progress_tasks:
                search(data, size, out, show)
            return
        context = multiprocessing.get_context("spawn")
        with (
            context.Manager() as manager,
            ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            queue = manager.Queue()
            running = [pool.submit(_search, data, size, out, queue) for data in progress_tasks]
            while not queue.empty() or not all(future.done() for future in running):
                try:
                    show(*queue.get(timeout=0.5))
                except Empty:
                    continue
            for future in running:
                future.result()


def _search(data: str, size: str, out: Path, queue) -> None:
    search(data, size, out, lambda *progress: queue.put(progress))


def read_children(data: str, out: Path) -> list[dict]:
    """Returns one row of numbers for each fully trained child, without duplicates, in the order of the search."""
    run = nas.read_run(run_folder(data, out), trust=True)
    space = open_space(run.config.space, trust=True)
    return [
        {
            "number": trial.number,
            "key": trial.key,
            "random": trial.random,
            "seconds": trial.seconds,
            "depth": sum(cells.depth(graph) for graph in space.graphs(trial.architecture).values()),
            "architecture": dict(trial.architecture),
            **trial.metrics,
        }
        for trial in run.trials
        if trial.state == "complete" and trial.duplicate_of is None
    ]


def search_settings(data: str, out: Path) -> dict:
    """Returns the data and the settings of a search."""
    config = nas.read_run(run_folder(data, out), trust=True).config
    x = open_data(config.data).train.x
    return {
        "image": list(x.shape[1:]),
        "train_images": len(x),
        "test_images": len(open_test(config.data).x),
        "attacked_images": config.evaluation.images,
        "epochs": config.training.epochs,
        "epsilon": config.evaluation.epsilon,
        "space": dict(config.space.options),
        "trials": config.search.trials,
        "random_trials": config.search.random_trials,
        "sampler": asdict(config.search.sampler),
    }


def child_groups(rows: list[dict]) -> dict[str, list[dict]]:
    """Returns all children, and the random children alone, because the controller's children are not a random sample."""
    return {"all": rows, "random": [row for row in rows if row["random"]]}
