"""An interrupted profile resumes from its stored parts, and equals an uninterrupted one."""

import itertools
import json
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import DDN, FGSM, L2, PGD, ProfileOptions, Transfer, UniformNoise, margins, profile, save_profile
from evaluators.engine.prepared import prepare
from evaluators.logits.margin import join_margins, margins_of
from evaluators.norms import Linf
from evaluators.profiles import parts
from evaluators.profiles.identity import hash_of_network, hash_of_tensors
from evaluators.profiles.stored_parts import (
    StoredParts,
    StoredPartsError,
    has_parts,
    is_interrupted,
    open_parts,
    remove_parts,
)
from evaluators.radius.measure import measure

ATTACKS = {"fgsm": FGSM(), "noise": UniformNoise(), "pgd": PGD(steps=2), "ddn": DDN(steps=3)}
GRIDS = {"linf": [0.01, 0.03, 0.1, 0.3], "l2": [0.1, 0.3, 1.0]}
OTHER_NETWORK = (
    "the network has other logits or gradients than those stored; it is another network, or gives random logits; "
)
# Calls of `measure` and of `margins_of` of a whole profile: parts times attacks, and parts.
PARTS, CALLS = 4, 16


@pytest.fixture
def case(linear, images):
    network, x = linear(3), images(30)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3
    return network, x, y


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 8 images."""
    monkeypatch.setattr(parts, "FEWEST", 8)
    monkeypatch.setattr(parts, "MOST", 8)


@pytest.fixture
def run(case, small_parts, tmp_path):
    """Measures the profile in the folder `tmp_path`. Settings replace those of `profile` or of its options."""

    def call(folder=tmp_path, seed=0, attacks=ATTACKS, epsilons=GRIDS, network=None, x=None, y=None, **options):
        return profile(
            case[0] if network is None else network,
            case[1] if x is None else x,
            case[2] if y is None else y,
            attacks,
            epsilons,
            options=ProfileOptions(resume=folder, **options),
            seed=seed,
        )

    return call


@pytest.fixture
def counted(monkeypatch):
    """Counts the calls of `measure` and `margins_of`. After `counted.until` calls of both, they are interrupted."""

    class Counted:
        until, calls = None, 0

        def of(self, function):
            def call(*args, **settings):
                if self.calls == self.until:
                    raise KeyboardInterrupt
                self.calls += 1
                return function(*args, **settings)

            return call

    counts = Counted()
    monkeypatch.setattr(parts, "measure", counts.of(parts.measure))
    monkeypatch.setattr(parts, "margins_of", counts.of(parts.margins_of))
    return counts


def assert_equal(one, other):
    assert one.record == other.record
    assert list(one.radii) == list(other.radii)
    for name, radii in one.radii.items():
        np.testing.assert_array_equal(radii, other.radii[name])


@pytest.mark.parametrize("epsilons", [GRIDS, None], ids=["given grid", "adaptive grid"])
@pytest.mark.parametrize("until", [0, 1, PARTS, PARTS + 6, PARTS + CALLS - 1])
def test_a_resumed_profile_equals_an_uninterrupted_one(until, epsilons, run, counted, tmp_path):
    expected = run(folder=None, epsilons=epsilons)
    assert counted.calls == PARTS + CALLS
    counted.calls, counted.until = 0, until
    with pytest.raises(KeyboardInterrupt):
        run(epsilons=epsilons)
    assert is_interrupted(tmp_path) == has_parts(tmp_path) == (until > 0)  # Files without a part are removed.
    counted.calls, counted.until = 0, None
    assert_equal(run(epsilons=epsilons), expected)
    assert counted.calls == PARTS + CALLS - until


def test_a_profile_in_parts_equals_one_in_a_single_part(case, run):
    whole = profile(*case, ATTACKS, GRIDS)
    in_parts = run(folder=None)
    for name, radii in whole.radii.items():
        np.testing.assert_array_equal(in_parts.radii[name], radii)
    assert in_parts.record["attacks"] == whole.record["attacks"]


@pytest.mark.parametrize("attack", [UniformNoise(), PGD(steps=2), UniformNoise(norm=L2()), FGSM()])
def test_the_images_of_a_part_keep_their_random_numbers(case, attack):
    epsilons = np.geomspace(0.01, 1, 30).tolist()
    with prepare(*case) as prepared:
        whole = measure(prepared, attack, epsilons)
        parts = [measure(prepared.part(slice(start, start + 11)), attack, epsilons) for start in (0, 11, 22)]
        twice = measure(prepared.part(slice(5, 25)).part(slice(6, 17)), attack, epsilons)
    assert len(whole.unique()) > 3
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(twice, whole[11:22])


def test_margins_of_parts_are_joined(case):
    whole = margins(*case, [Linf(), L2()])
    with prepare(*case) as prepared:
        joined = join_margins([margins_of(prepared.part(slice(n, n + 12)), [Linf(), L2()]) for n in (0, 12, 24)])
    for name in ("margin", "right", "entropy", "differences"):
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name))
    for name in ("linf", "l2"):
        np.testing.assert_allclose(joined.radii[name], whole.radii[name])
        np.testing.assert_allclose(joined.gradient_norms[name], whole.gradient_norms[name])


def test_the_share_without_gradients_is_that_of_all_images(images):
    class Half(nn.Module):
        def forward(self, x):
            score = torch.where(x[:, 0, 0, :1] > 0.5, x.flatten(1).sum(1, keepdim=True), 1.0)
            return torch.cat([score, 0 * score], 1)

    x = images(30)
    y = torch.zeros(30, dtype=torch.int64)
    y[3] = 1
    whole = margins(Half(), x, y, [Linf()])
    with prepare(Half(), x, y) as prepared:
        joined = join_margins([margins_of(prepared.part(slice(n, n + 7)), [Linf()]) for n in range(0, 30, 7)])
    right = [n for n in range(30) if n != 3]
    assert joined.zero_gradient_share == whole.zero_gradient_share == float((x[right, 0, 0, 0] <= 0.5).sum()) / 29
    assert 0 < whole.zero_gradient_share < 1


# What must not be mixed.


def other_network(network):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    return other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, x, y: {"network": other_network(net)}, "other network; choose"),
        (lambda net, x, y: {"x": (x + 1e-6).clamp(0, 1)}, "other images; choose"),
        (lambda net, x, y: {"y": y.roll(1)}, "other labels; choose"),
        (lambda net, x, y: {"attacks": {**ATTACKS, "pgd": PGD(steps=3)}}, "other attack pgd; choose"),
        (
            lambda net, x, y: {"attacks": {"fgsm": FGSM(), "ddn": DDN(steps=3)}},
            "other attack noise, attack pgd, order of the attacks; choose",
        ),
        (lambda net, x, y: {"attacks": dict(reversed(ATTACKS.items()))}, "other order of the attacks; choose"),
        (lambda net, x, y: {"epsilons": {**GRIDS, "linf": [0.01, 0.3]}}, "other epsilons of linf; choose"),
        (lambda net, x, y: {"epsilons": None}, "other epsilons of linf, epsilons of l2; choose"),
        (lambda net, x, y: {"include": {"l2": [0.5]}}, "other epsilons to include; choose"),
        (lambda net, x, y: {"union": {"linf": 0.1, "l2": 1}}, "other union; choose"),
        (lambda net, x, y: {"tolerance": 0.01}, r"other tolerance \(None, now 0.01\); choose"),
        (lambda net, x, y: {"seed": 1, "batch_size": 7}, r"other batch_size \(None, now 7\), seed \(0, now 1\); choose"),
    ],
)
def test_parts_of_another_profile_are_refused(change, message, case, run, counted, tmp_path):
    counted.until = 6
    with pytest.raises(KeyboardInterrupt):
        run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(StoredPartsError, match=f"^{tmp_path}: holds parts of another profile, with {message}"):
        run(**change(*case))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_parts_with_another_source_of_a_transfer_attack_are_refused(case, run):
    network = case[0]
    run(attacks={"transfer": Transfer(source=network, attack=PGD(steps=1))}, epsilons=None)
    with pytest.raises(StoredPartsError, match=r"with other attack transfer; choose another folder, or delete .*partial to"):
        run(attacks={"transfer": Transfer(source=other_network(network), attack=PGD(steps=1))}, epsilons=None)


def test_other_logits_of_the_same_weights_are_refused(case, run):
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.body, self.factor = case[0], factor

        def forward(self, x):
            return self.factor * self.body(x)

    run(network=Scaled(1.0))
    with pytest.raises(StoredPartsError, match=OTHER_NETWORK):
        run(network=Scaled(2.0))


@pytest.mark.parametrize(
    "change", [lambda x: (x * 16).round() / 16, lambda x: x.detach() + 0 * x, lambda x: x.clamp(0.125, 0.875)]
)
def test_other_code_with_the_same_clean_logits_is_refused(change, case, run, counted):
    """A defence may not change the clean logits: the clean pixels are multiples of 1/16 here."""

    class Changed(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.body, self.change = case[0], change

        def forward(self, x):
            return self.body(self.change(x))

    x = ((case[1] * 16).round() / 16).clamp(2 / 16, 14 / 16)
    run(network=Changed(lambda x: x), x=x)
    counted.calls = 0
    run(network=Changed(lambda x: 1.0 * x), x=x)
    assert counted.calls == 0
    with pytest.raises(StoredPartsError, match=OTHER_NETWORK):
        run(network=Changed(change), x=x)


def test_a_profile_that_another_process_measures_is_refused(run, tmp_path):
    with open_parts(tmp_path, dict), pytest.raises(StoredPartsError, match=r"another process measures this profile; wait"):
        run()


def test_a_failing_network_leaves_no_files(run, tmp_path):
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(network=Failing())
    assert list(tmp_path.iterdir()) == []


def test_radii_of_another_grid_are_measured_again(run, counted, tmp_path):
    expected = run(epsilons=None)
    path = tmp_path / "partial" / "attack2-0000008.npz"
    with np.load(path) as file:
        np.savez(path, **{**file, "epsilons": file["epsilons"] * 1.01})
    counted.calls = 0
    with pytest.warns(UserWarning, match="epsilons has other values than this profile"):
        assert_equal(run(epsilons=None), expected)
    assert counted.calls == 1


def test_logits_that_differ_by_rounding_resume_with_the_stored_ones(case, run, counted, tmp_path):
    network = nn.Sequential(case[0])
    expected = run(network=network)
    path = tmp_path / "partial" / "logits.npz"
    with np.load(path) as file:
        arrays = {name: array * (1 + 1e-6) for name, array in file.items()}
    np.savez(path, **arrays)
    counted.calls = 0
    resumed = run(network=network)
    assert counted.calls == 0
    np.testing.assert_array_equal(resumed.radii["pgd"], expected.radii["pgd"])


# Files.


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def rename(path):
    np.savez(path, other=np.zeros(8))


def shorten(path):
    with np.load(path) as file:
        arrays = {key: file[key][:-1] if file[key].ndim else file[key] for key in file.files}
    np.savez(path, **arrays)


def text(path):
    with np.load(path) as file:
        np.savez(path, **{**file, "radii": file["radii"].astype(str)})


def nan(path):
    with np.load(path) as file:
        np.savez(path, **{**file, "radii": file["radii"] * np.nan})


def pickled(path):
    np.savez(path, radii=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (truncate, "margins-0000008"),
        (flip, "attack3-0000016"),
        (rename, "attack1-0000000"),
        (shorten, "attack4-0000024"),
        (pickled, "attack2-0000008"),
        (text, "attack1-0000008"),
        (nan, "attack3-0000008"),
    ],
)
def test_a_damaged_part_is_measured_again(damage, name, run, counted, tmp_path):
    expected = run()
    damage(tmp_path / "partial" / f"{name}.npz")
    counted.calls = 0
    with pytest.warns(UserWarning, match=f"{name}.npz: is damaged, so it is measured again: "):
        resumed = run()
    assert counted.calls == 1
    assert_equal(resumed, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(run(), expected)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "settings": {}}', '{"format": "hardcell-partial/1"}'])
def test_damaged_settings_are_an_error(content, run, tmp_path):
    run()
    path = tmp_path / "partial" / "settings.json"
    path.write_text(content)
    message = (
        "settings.json: is damaged, so the stored parts cannot be used: .*; choose another folder, or delete .*partial to"
    )
    with pytest.raises(StoredPartsError, match=message):
        run()


def test_files_without_settings_are_an_error(run, tmp_path):
    run()
    (tmp_path / "partial" / "settings.json").rename(tmp_path / "partial" / ".settings.json.1.ab")  # A kill may leave it.
    with pytest.raises(StoredPartsError, match=r"partial: holds files, but no settings.json; choose another folder"):
        run()


def test_a_folder_that_cannot_be_made_is_an_error(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoredPartsError, match="partial: cannot be made: Not a directory; choose another folder"):
        run(folder=tmp_path / "file")


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "part.npz").mkdir()
    with pytest.raises(
        StoredPartsError, match=r"part.npz: cannot be written: Is a directory; choose another folder, or delete"
    ):
        StoredParts(tmp_path).write("part", {"radii": np.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["part.npz"]


def test_a_saved_profile_has_no_parts(run, tmp_path):
    measured = run(folder=str(tmp_path))
    assert is_interrupted(tmp_path)
    (tmp_path / "partial" / ".margins-0000000.npz.1.ab").touch()  # A kill may leave such a file.
    save_profile(measured, tmp_path)
    assert not is_interrupted(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"profile.json", "radii.npz"}


def test_files_of_others_are_not_removed(run, tmp_path):
    run()
    (tmp_path / "partial" / "notes.txt").touch()
    remove_parts(tmp_path)
    assert [path.name for path in (tmp_path / "partial").iterdir()] == ["notes.txt"]
    remove_parts(tmp_path / "nowhere")


def test_nothing_is_stored_without_a_folder(run, tmp_path):
    run(folder=None)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_keeps_the_size_of_its_parts(run, counted, monkeypatch):
    """Another device may suggest larger parts."""
    expected = run()
    monkeypatch.setattr(parts, "FEWEST", 16)
    monkeypatch.setattr(parts, "MOST", 16)
    counted.calls = 0
    assert_equal(run(), expected)
    assert counted.calls == 0


@pytest.mark.parametrize(("batch", "n", "size"), [(1, 1000, 256), (32, 1000, 256), (64, 1000, 512), (1024, 2000, 1024)])
def test_a_part_has_eight_passes_within_limits(batch, n, size):
    from evaluators.engine.batches import Batches

    spans = parts.open_spans(StoredParts(None), Batches(batch), n)
    assert [span.stop - span.start for span in spans[:-1]] == [size] * (len(spans) - 1)
    assert (spans[0].start, spans[-1].stop) == (0, n)
    assert all(before.stop == after.start for before, after in itertools.pairwise(spans))


# Hashes.


def test_the_hash_of_a_network_is_that_of_its_layers_and_tensors():
    def build(eps=1e-5):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=eps), nn.ReLU())

    assert hash_of_network(build()) == hash_of_network(build())
    hashes = {
        hash_of_network(build()),
        hash_of_network(build(eps=1e-3)),
        hash_of_network(nn.Sequential(*build(), nn.ReLU())),
    }
    changed = build()
    changed[1].running_mean += 1
    assert len(hashes | {hash_of_network(changed)}) == 4


def test_an_address_in_the_text_of_a_layer_does_not_count():
    class Layer(nn.Module):
        def extra_repr(self):
            return f"function={object()}"

    assert hash_of_network(Layer()) == hash_of_network(Layer())


def test_the_hash_of_tensors_is_that_of_shape_dtype_and_values():
    x = torch.arange(6.0)
    variants = [x, x.view(2, 3), x.double(), x.bfloat16(), x + 1, torch.tensor(2.0), torch.zeros(0, 3)]
    assert len({hash_of_tensors([variant]) for variant in variants}) == len(variants)
    assert hash_of_tensors([x.view(2, 3).t()]) == hash_of_tensors([x.view(2, 3).t().contiguous()])
    big = torch.rand(3000, 2)
    assert hash_of_tensors([big]) != hash_of_tensors([big.flip(0)])


def test_the_settings_name_what_was_measured(run, tmp_path):
    run()
    stored = json.loads((tmp_path / "partial" / "settings.json").read_text())
    assert stored["format"] == "hardcell-partial/1"
    assert re.fullmatch("[0-9a-f]{16}", stored["settings"]["network"])
    assert stored["settings"]["attack pgd"][0]["steps"] == 2
