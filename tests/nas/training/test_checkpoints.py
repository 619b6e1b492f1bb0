"""Checkpoints: an interrupted training resumes with bit-identical results."""

import dataclasses
import errno
import io
import shutil
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import nas
from evaluators import PGD
from nas.data import Dataset, Split
from nas.errors import RunError
from nas.pipeline.events import BundleFinished, EpochFinished
from nas.pipeline.search import resume_events, search_events
from nas.training.checkpoints import Checkpoint, CheckpointError, FileStore, checkpoint_file, trial_file
from nas.training.config import TrainingConfig
from nas.training.early_stopping import AttackBudget
from nas.training.epoch import EpochMeasures
from nas.training.recipes import FGSMPGI, NFGSM, Adversarial, Free, Standard
from nas.training.train import train

write_bytes = Path.write_bytes


def full_disk(path, content):
    """Writes half of a checkpoint and raises the error of a full disk. Writes other files completely."""
    if not (".pt." in path.name and path.name.endswith(".partial")):
        return write_bytes(path, content)
    write_bytes(path, content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


class TestFileStore:
    def test_reads_what_was_written_last(self, tmp_path):
        store = FileStore(tmp_path / "checkpoints" / "a.pt")
        assert store.read() is None
        for content in (b"one", b"two"):
            store.write(content)
            assert store.read() == content
        assert [path.name for path in store.path.parent.iterdir()] == ["a.pt"]

    def test_full_disk_is_an_error_and_leaves_the_old_checkpoint(self, tmp_path, monkeypatch):
        store = FileStore(tmp_path / "a.pt")
        store.write(b"the old one")
        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(CheckpointError) as caught:
            store.write(b"the new one")
        assert str(caught.value).startswith(f"{store.path}: No space left on device; ")
        assert "`hardcell resume`" in str(caught.value)
        assert store.read() == b"the old one"
        assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]

    def test_kill_during_a_write_leaves_the_old_checkpoint(self, tmp_path, monkeypatch):
        class KilledError(BaseException):
            pass

        def killed(path, content):
            write_bytes(path, content[:3])
            raise KilledError

        store = FileStore(tmp_path / "a.pt")
        store.write(b"the old one")
        monkeypatch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KilledError):
            store.write(b"the new one")
        assert store.read() == b"the old one"

    def test_folder_that_cannot_be_created_is_an_error(self, tmp_path):
        (tmp_path / "checkpoints").write_text("a file")
        with pytest.raises(CheckpointError, match=r"trial-3\.pt: (File exists|Not a directory); .*`hardcell resume`"):
            FileStore(trial_file(tmp_path, 3)).write(b"")

    def test_what_cannot_be_read_is_none(self, tmp_path):
        assert FileStore(tmp_path).read() is None

    def test_places(self, tmp_path):
        assert trial_file(tmp_path, 7) == tmp_path / "checkpoints" / "trial-7.pt"
        assert checkpoint_file(tmp_path, "1-abc") == tmp_path / "checkpoints" / "1-abc.pt"


class TestCheckpoint:
    def test_none_is_kept_without_a_store(self):
        checkpoint = Checkpoint(None, seconds=0)
        checkpoint.save(lambda: 1 / 0)
        assert checkpoint.load() is None

    def test_writes_when_the_time_has_passed_since_the_last(self, monkeypatch, memory_store):
        clock = [100.0]
        monkeypatch.setattr("nas.training.checkpoints.time.monotonic", lambda: clock[-1])
        checkpoint = Checkpoint(store := memory_store(), seconds=10, _written=clock[-1])
        counts = []
        for now in (100.0, 109.9, 110.0, 119.9, 120.1, 121.0, 200.0, 209.0):
            clock.append(now)
            checkpoint.save(lambda: {"now": clock[-1]})
            counts.append(len(store.written))
        assert counts == [0, 0, 1, 1, 2, 2, 3, 3]
        assert checkpoint.load() == {"now": 200.0}

    def test_zero_seconds_write_every_time_and_no_state_is_made_in_vain(self, memory_store):
        checkpoint = Checkpoint(store := memory_store(), seconds=0)
        for i in range(3):
            checkpoint.save(lambda i=i: {"i": i})
        assert len(store.written) == 3
        Checkpoint(store, seconds=1000).save(lambda: 1 / 0)

    @pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text", "no dict", "code"])
    def test_damaged_one_is_none(self, damage, memory_store):
        content = io.BytesIO()
        value = {"weights": torch.zeros(1000)}
        torch.save({"no dict": 3, "code": nn.Linear(2, 2)}.get(damage, value), content)
        whole = content.getvalue()
        half = len(whole) // 2
        damaged = {"empty": b"", "half": whole[:half], "flipped": b"\xff" * 64 + whole[64:], "text": b"text"}.get(
            damage, whole
        )
        assert Checkpoint(memory_store(damaged)).load() is None


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    return Split(torch.rand(96, 1, 6, 6, generator=generator), torch.randint(4, (96,), generator=generator), "")


def network(dropout=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 4)
        )


CONFIG = TrainingConfig(recipe=Adversarial(), batch_size=24, shift=1, flip=True, selection=PGD(steps=2), selection_from=0)
ADAMW = {"optimiser": "adamw", "schedule": "cosine", "learning_rate": 0.01, "clip_gradients": 1.0, "cutout": 2}
CONFIGS = {
    "adversarial": CONFIG,
    "standard": dataclasses.replace(CONFIG, recipe=Standard()),
    "adamw": dataclasses.replace(CONFIG, recipe=NFGSM(warm_up=0.5), **ADAMW),
    "fgsm_pgi": dataclasses.replace(CONFIG, recipe=FGSMPGI()),
    # The four batches of an epoch are no multiple of the replays, so the updates of a batch continue after a break.
    "free": dataclasses.replace(CONFIG, recipe=Free(replays=3, warm_up=0.5)),
}
EPOCHS = 5


class Training:
    """A training that records the state of the random generator in every epoch."""

    def __init__(self, split, monkeypatch, config=CONFIG, rungs=None):
        import nas.training.train as module

        self.split, self.config, self.rungs, self.drawn = split, config, rungs, []
        original = module.augment

        def augment(x, *, generator, **settings):
            self.drawn.append(generator.get_state())
            return original(x, generator=generator, **settings)

        monkeypatch.setattr(module, "augment", augment)

    def __call__(self, store=None, *, until=EPOCHS, seed=3, seconds=0):
        """Trains for `until` epochs; returns the weights, the results of the epochs and the recorded generator states.

        If there is a store and `seconds` is 0, each epoch but the last writes a checkpoint.
        """
        self.drawn.clear()
        trained, epochs = network(), []
        steps = train(
            trained,
            Dataset("toy", ("a", "b", "c"), self.split, self.split),
            self.config,
            epsilon=0.1,
            epochs=EPOCHS,
            seed=seed,
            measures=EpochMeasures(self.rungs or {}),
            checkpoint=Checkpoint(store, seconds),
        )
        while len(epochs) < until:
            epochs.append(next(steps))
        if until == EPOCHS:
            assert next(steps, None) is None
        steps.close()
        return trained.state_dict(), epochs, [*self.drawn]


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def timeless(epochs):
    return [dataclasses.replace(epoch, seconds=0) for epoch in epochs]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("broken", range(1, EPOCHS))
def test_broken_off_after_an_epoch_it_ends_as_uninterrupted(broken, config, split, monkeypatch, memory_store):
    training = Training(split, monkeypatch, config)
    weights, epochs, drawn = training()
    store = memory_store()
    _, before, _ = training(store, until=broken)
    assert len(store.written) == broken
    resumed, after, drawn_after = training(store)
    assert_same(resumed, weights)
    assert after[:broken] == before  # The stored results are unchanged, including the times.
    assert timeless(after) == timeless(epochs)
    assert len(drawn_after) == EPOCHS - broken
    assert all(torch.equal(a, b) for a, b in zip(drawn_after, drawn[broken:], strict=True))


@pytest.mark.parametrize("broken", range(1, EPOCHS))
def test_rungs_measure_the_same_after_a_break(broken, split, monkeypatch, memory_store):
    late = dataclasses.replace(CONFIG, selection_from=0.8)
    training = Training(split, monkeypatch, late, rungs={2: AttackBudget(), 4: AttackBudget()})
    weights, epochs, _ = training()
    store = memory_store()
    training(store, until=broken)
    resumed, after, _ = training(store)
    assert_same(resumed, weights)
    assert timeless(after) == timeless(epochs)
    assert [epoch.adversarial_error is not None for epoch in after] == [False, True, False, True, True]
    # Rungs do not change the training.
    assert_same(resumed, Training(split, monkeypatch, late)()[0])


def test_a_checkpoint_without_an_average_is_not_used_for_a_training_with_one(split, monkeypatch, memory_store):
    store = memory_store()
    Training(split, monkeypatch, dataclasses.replace(CONFIG, average=False))(store, until=2)
    training = Training(split, monkeypatch)
    weights, epochs, _ = training()
    afresh, after, drawn = training(store)
    assert len(drawn) == EPOCHS
    assert_same(afresh, weights)
    assert timeless(after) == timeless(epochs)


def test_a_checkpoint_of_an_earlier_version_is_named_and_the_training_starts_anew(split, monkeypatch, memory_store):
    store, training = memory_store(), Training(split, monkeypatch)
    training(store, until=2)
    state = torch.load(io.BytesIO(store.read()), weights_only=True)
    del state["collapsed"]
    torch.save(state, content := io.BytesIO())
    with pytest.warns(UserWarning, match=r"^the checkpoint is of an earlier version of Hardcell; the training starts anew$"):
        assert len(training(memory_store(content.getvalue()))[2]) == EPOCHS


def test_broken_off_after_every_epoch(split, monkeypatch, memory_store):
    training = Training(split, monkeypatch)
    weights, epochs, _ = training()
    store = memory_store()
    for until in range(1, EPOCHS):
        training(store, until=until)
    resumed, after, _ = training(store)
    assert_same(resumed, weights)
    assert timeless(after) == timeless(epochs)


@pytest.mark.parametrize("best", range(EPOCHS))
@pytest.mark.parametrize("broken", [1, 3])
def test_weights_of_the_best_epoch_are_kept_on_either_side_of_the_break(best, broken, split, monkeypatch, memory_store):
    errors = []

    def radii(network, x, y, attack, epsilons, *, seed):
        wrong = errors.pop(0)
        return torch.where(torch.arange(len(x)) < wrong, 0.0, torch.inf)

    monkeypatch.setattr("nas.training.train.radii", radii)
    training = Training(split, monkeypatch, dataclasses.replace(CONFIG, average=False))
    script = [50 + i for i in range(EPOCHS)]
    script[best] = 10
    errors[:] = script
    weights, *_ = training()
    store = memory_store()
    errors[:] = script
    training(store, until=broken)
    resumed, epochs, _ = training(store)
    assert errors == []
    assert_same(resumed, weights)
    assert min(epochs, key=lambda epoch: epoch.adversarial_error).epoch == best + 1
    # The kept weights are those of the checkpoint of the best epoch. The last epoch has no checkpoint.
    last = dict(torch.load(io.BytesIO(store.written[best]), weights_only=True))["network"] if best < EPOCHS - 1 else resumed
    assert_same(resumed, last)


@pytest.mark.parametrize("stored", ["another seed", "another number of epochs", "damaged"])
def test_unusable_checkpoint_is_ignored(stored, split, monkeypatch, memory_store):
    training = Training(split, monkeypatch)
    weights, epochs, _ = training()
    store = memory_store()
    if stored == "another seed":
        training(store, until=2, seed=4)
    elif stored == "another number of epochs":
        training(store, until=2)
        state = dict(torch.load(io.BytesIO(store.read()), weights_only=True))
        state["epochs"] = [{**epoch, "epochs": EPOCHS + 1} for epoch in state["epochs"]]
        Checkpoint(store, 0).save(lambda: state)
    else:
        training(store, until=2)
        store.write(store.read()[:-100])
    resumed, after, drawn = training(store)
    assert_same(resumed, weights)
    assert timeless(after) == timeless(epochs)
    assert len(drawn) == EPOCHS


def test_training_leaves_no_checkpoint_of_its_last_epoch(split, monkeypatch, memory_store):
    store = memory_store()
    Training(split, monkeypatch)(store)
    assert [len(torch.load(io.BytesIO(c), weights_only=True)["epochs"]) for c in store.written] == [1, 2, 3, 4]


SEARCH = ("search.checkpoint_seconds=0", "search.trials=3", "training.epochs=4", "finalists.references=false")


@pytest.fixture
def config(custom_space):
    return custom_space(
        "works,other", *SEARCH, "finalists.epochs=3", "finalists.images=20", "finalists.attacks={pgd: {name: pgd, steps: 1}}"
    )


def test_killed_trial_goes_on_from_its_checkpoint(
    config, tmp_path, study_content, break_off, trials_only, stored, monkeypatch
):
    trials_only(tmp_path / "whole", config)
    run, trained = tmp_path / "run", []
    events = search_events(config, run)
    break_off(events, 0, 3)
    assert trial_file(run, 0).exists()
    monkeypatch.setattr("nas.training.train.augment", lambda x, **_: trained.append(len(x)) or x)
    events = trials_only(run)
    whole = [event for event in events if isinstance(event, EpochFinished)]
    assert [(event.name, event.result.epoch) for event in whole] == [
        (f"trial {n}", e) for n in range(3) for e in range(1, 5)
    ]
    steps = len(trained) / (4 + 4 + 1)  # Three of the first trial's four epochs were in the checkpoint, so one was left.
    assert steps == int(steps)
    assert study_content(run) == study_content(tmp_path / "whole")
    assert list((run / "checkpoints").iterdir()) == []


def test_checkpoint_is_removed_however_a_trial_ends(custom_space, tmp_path, trials_only):
    # The network breaks in its second epoch, after a checkpoint was written.
    space = tmp_path / "own.py"
    text = space.read_text()
    space.write_text(
        text.replace(
            "        return 0 * x if",
            '        self.count = getattr(self, "count", 0) + self.training\n'
            '        if self.kind == "breaks" and self.count > 20:\n'
            '            raise RuntimeError("worn out")\n'
            "        return 0 * x if",
        )
    )
    config = custom_space("breaks,works", *SEARCH, "search.trials=6", "search.random_trials=6")
    trials_only(tmp_path / "run", config)
    trials = nas.read_run(tmp_path / "run").trials
    broken = [trial for trial in trials if trial.architecture["kind"] == "breaks"]
    assert {(trial.state, trial.reason) for trial in broken} == {("failed", "RuntimeError: worn out")}
    assert all(trial.epochs for trial in broken)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_finalists_training_goes_on_and_its_checkpoint_is_removed_with_the_bundle(config, tmp_path, trials_only):
    trials_only(tmp_path / "whole", config)
    broken = Path(shutil.copytree(tmp_path / "whole", tmp_path / "broken"))

    def finalist(run, until=None):
        epochs = []
        events = resume_events(run)
        for event in events:
            if isinstance(event, EpochFinished):
                epochs.append(event.result)
                if len(epochs) == until:
                    events.close()
            if isinstance(event, BundleFinished):
                assert list((run / "checkpoints").iterdir()) == []
        return epochs

    whole = finalist(tmp_path / "whole")
    before = finalist(broken, until=2)
    (bundle,) = nas.read_run(tmp_path / "whole").bundles
    assert [path.name for path in (broken / "checkpoints").iterdir()] == [f"{bundle.name}.pt"]
    after = finalist(broken)
    assert after[:2] == before
    assert timeless(after) == timeless(whole)
    assert len(whole) == 3
    (other,) = nas.read_run(broken).bundles
    weights = [(b.folder / "weights.safetensors") for b in (bundle, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_full_disk_ends_the_run_with_the_message_and_is_no_failure_of_the_candidate(
    config, tmp_path, stored, study_content, trials_only, monkeypatch, cli
):
    trials_only(tmp_path / "whole", config)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(RunError, match=r"trial-0\.pt: No space left on device; .*`hardcell resume`"):
            trials_only(run, config)
        for _ in range(config.search.attempts + 1):  # This is more often than a trial may be restarted.
            code, _, err = cli("resume", run)
            assert code == 2
            assert "trial-0.pt: No space left on device" in err
        (trial,) = stored(run)
        assert (trial.state, trial.user_attrs["attempts"]) == (TrialState.RUNNING, 0)
    trials_only(run)
    assert study_content(run) == study_content(tmp_path / "whole")
