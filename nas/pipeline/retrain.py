"""Makes bundles from candidates: longer training, a profile on the test split, and export."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evaluators import ProfileOptions, profile
from evaluators.profiles.union import error_over_union
from nas.bundle.export import export_bundle
from nas.bundle.export_formats import files_of
from nas.bundle.load import open_bundles
from nas.bundle.manifest import Provenance, is_bundle
from nas.config.writer import as_data
from nas.data import Split, open_test
from nas.errors import BundleError
from nas.evaluation.base import reason_of
from nas.pipeline.events import BundleFailed, BundleFinished, EpochFinished, FinalistsStarted, StageStarted
from nas.runs.environment import environment
from nas.seeds import seed_of
from nas.spaces.options import open_space
from nas.study.trial import ENDED
from nas.training.checkpoints import Checkpoint, CheckpointError, FileStore, checkpoint_file, trial_file
from nas.training.network import build_network
from nas.training.train import train

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nas.evaluation.train_and_attack import TrainAndAttack
    from nas.pipeline.events import Event
    from nas.runs.folder import RunFolder
    from nas.study.finalists import Candidate
    from nas.study.trial import Trial


def make_bundles(folder: RunFolder, candidates: Sequence[Candidate], evaluate: TrainAndAttack) -> Iterator[Event]:
    """Makes a bundle of each candidate and yields the events; existing bundles are not changed.

    A candidate is skipped, with a `BundleFailed` event, if its training, profile or export fails or its existing bundle is
    damaged.

    Raises:
        OSError: a file cannot be written.
        CheckpointError: a checkpoint cannot be written or read.
    """
    names = [candidate.name for candidate in candidates]
    missing = [candidate for candidate in candidates if not is_bundle(folder.bundles / candidate.name)]
    damaged = [bundle for bundle in open_bundles(folder.bundles)[1] if bundle.folder.name in names]
    yield FinalistsStarted(tuple(names), len(names) - len(missing) - len(damaged))
    for bundle in damaged:
        yield BundleFailed(bundle.folder.name, bundle.reason)
    if not missing:
        return
    test = open_test(evaluate.config.data).first(evaluate.config.finalists.images)
    folder.bundles.mkdir(exist_ok=True)
    _clear_partial(folder)
    for candidate in missing:
        try:
            yield from _make(folder, candidate, evaluate, test)
        except (OSError, CheckpointError):
            raise
        except BundleError as error:
            yield BundleFailed(candidate.name, str(error))
        except (Exception, SystemExit) as error:  # The code of a network may raise any error. Only this candidate fails.
            yield BundleFailed(candidate.name, reason_of(error))


def remove_checkpoints(folder: RunFolder, trials: Sequence[Trial]) -> None:
    """Removes the checkpoints of trials that have ended, and of finalists and references that have a bundle."""
    running = {trial_file(folder.path, trial.number).name for trial in trials if trial.state not in ENDED}
    checkpoints = trial_file(folder.path, 0).parent
    for path in checkpoints.glob("*"):
        of_trial = path.name.startswith("trial-")
        if path.name.startswith(".") or (path.name not in running if of_trial else is_bundle(folder.bundles / path.stem)):
            path.unlink(missing_ok=True)
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _clear_partial(folder: RunFolder) -> None:
    """Removes partial bundles of processes that no longer exist."""
    for partial in folder.bundles.glob(".*.partial"):
        process = partial.name.split(".")[-3]
        if not (process.isdigit() and Path("/proc", process).exists()):
            shutil.rmtree(partial, ignore_errors=True)


def _make(folder: RunFolder, candidate: Candidate, evaluate: TrainAndAttack, test: Split) -> Iterator[Event]:
    config, data, device = evaluate.config, evaluate.data, evaluate.device
    space = open_space(candidate.space, trust=True)
    # The seed depends on the architecture, so that a bundle does not depend on its rank or on the other finalists.
    seed = seed_of(config.seed, "finalist", int(candidate.key, 16))
    network = build_network(space, candidate.architecture, data.train.x, len(data.classes), seed_of(seed, "weights"))
    checkpoint = FileStore(checkpoint_file(folder.path, candidate.name))
    kept, least = 0, float("inf")
    for epoch in train(
        network,
        data,
        config.training,
        epsilon=config.evaluation.epsilon,
        epochs=config.finalists.epochs,
        seed=seed,
        checkpoint=Checkpoint(checkpoint, config.search.checkpoint_seconds),
    ):
        if epoch.adversarial_error is not None and epoch.adversarial_error <= least:
            kept, least = epoch.epoch, epoch.adversarial_error
        yield EpochFinished(candidate.name, epoch)
    yield StageStarted(candidate.name, "profile")
    norm = config.norm
    on_device = test.to(device)
    robustness = profile(
        network,
        on_device.x,
        on_device.y,
        config.finalists.attacks,
        epsilons=config.finalists.epsilons,
        options=ProfileOptions(
            include={norm: [config.evaluation.epsilon]},
            union=config.epsilons_by_norm if config.evaluation.other_norms else None,
            dataset=config.data.name,
            split="test",
        ),
        seed=seed_of(seed, "profile"),
    )
    yield StageStarted(candidate.name, "export")
    network = network.cpu().to(memory_format=torch.contiguous_format)
    provenance = Provenance(
        config=as_data(config),
        norm=norm,
        epsilon=config.evaluation.epsilon,
        seed=seed,
        kept_epoch=kept,
        classes=data.classes,
        data={"train": data.train.hash, "validation": data.validation.hash, "test": test.hash},
        environment=environment(device),
    )
    target = folder.bundles / candidate.name
    forms = files_of(config.finalists.forms)
    export_bundle(target, candidate, space, network, robustness, test.x[:64], provenance, forms)
    checkpoint.path.unlink(missing_ok=True)
    error = error_over_union(robustness, config.evaluation.epsilon, norm)
    yield BundleFinished(candidate.name, target, robustness.record["clean_error"], error)
