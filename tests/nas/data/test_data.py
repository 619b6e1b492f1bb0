"""Splits, hashes, sources and messages of nas.data."""

import gzip
import re
import tarfile
from contextlib import suppress
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from nas.data import SOURCES, open_data, open_test
from nas.data.config import DataConfig
from nas.errors import DataError


def opened(name, path=None, **settings):
    return open_data(DataConfig(name=name, path=None if path is None else str(path), **settings))


def rows(split):
    """Returns the images of a split as a list of bytes, for comparisons with other splits."""
    return [image.numpy().tobytes() for image in split.x]


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    """A function that writes images, given as arrays by relative path, into tmp_path."""

    def write(files):
        for name, array in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        return tmp_path

    return write


def classes_of(images, under="", classes=("cat", "dog")):
    """Returns the images by file name. They belong to the classes in turn."""
    return {f"{under}{classes[i % len(classes)]}/{i:03}.png": image for i, image in enumerate(images)}


class TestSplits:
    def test_digits_have_the_sizes_of_the_shares(self):
        data, test = opened("digits"), open_test(DataConfig())
        # The test split is a quarter of 1,797 images, the validation split a quarter of the rest.
        assert (len(test.x), len(data.validation.x), len(data.train.x)) == (449, 337, 1011)
        assert data.input_shape == (1, 8, 8)
        assert data.classes == tuple("0123456789")
        assert data.name == "digits"
        for split in (data.train, data.validation, test):
            assert split.x.dtype == torch.float32
            assert split.y.dtype == torch.int64
            assert 0 <= split.x.min() < split.x.max() <= 1
            assert split.y.unique().tolist() == list(range(10))

    @pytest.mark.parametrize(("test", "validation", "sizes"), [(0.1, 0.5, (180, 808, 809)), (0.9, 0.01, (1617, 2, 178))])
    def test_shares_are_those_of_the_config(self, test, validation, sizes):
        config = DataConfig(test=test, validation=validation)
        data = open_data(config)
        assert (len(open_test(config).x), len(data.validation.x), len(data.train.x)) == sizes

    def test_splits_are_disjoint_and_together_all_images(self, npz):
        x = pixels(60, 6, 5)  # Random images, so that no two are equal. A few of the digits are equal.
        config = DataConfig(name="npz", path=str(npz(x=x, y=np.arange(60) % 3)))
        data, test = open_data(config), open_test(config)
        images = rows(data.train) + rows(data.validation) + rows(test)
        assert len(set(images)) == 60
        assert set(images) == {(image[None] / np.float32(255)).tobytes() for image in x}

    def test_images_keep_their_labels(self, npz):
        y = np.random.default_rng(1).integers(0, 3, 60)
        x = np.repeat(y.astype(np.uint8), 30).reshape(60, 6, 5) * 100
        config = DataConfig(name="npz", path=str(npz(x=x, y=y)))
        for split in (open_data(config).train, open_data(config).validation, open_test(config)):
            assert torch.equal((split.x[:, 0, 0, 0] * 2.55).round().long(), split.y)

    def test_same_seed_same_hashes_and_another_seed_others(self):
        first, again, other = opened("digits"), opened("digits"), opened("digits", split_seed=1)
        assert (first.train.hash, first.validation.hash) == (again.train.hash, again.validation.hash)
        assert len({first.train.hash, first.validation.hash, other.train.hash, other.validation.hash}) == 4
        assert open_test(DataConfig()).hash == open_test(DataConfig()).hash != open_test(DataConfig(split_seed=1)).hash
        assert re.fullmatch("[0-9a-f]{16}", first.train.hash)

    def test_hash_depends_on_labels_pixels_and_shape(self, npz):
        x, y = pixels(40, 6, 4), np.arange(40) % 2
        changed = x.copy()
        changed[:, 3, 2] ^= 1
        hashes = {opened("npz", npz(x=a, y=b)).train.hash for a, b in ((x, y), (x, 1 - y), (changed, y))}
        hashes.add(opened("npz", npz(x=x.reshape(40, 4, 6), y=y)).train.hash)
        assert len(hashes) == 4

    def test_limit_bounds_training_and_validation_but_not_test(self):
        data = opened("digits", limit=100)
        assert (len(data.train.x), len(data.validation.x)) == (75, 25)
        assert open_test(DataConfig(limit=100)).hash == open_test(DataConfig()).hash
        assert set(rows(data.train) + rows(data.validation)) <= set(
            rows(opened("digits").train) + rows(opened("digits").validation)
        )
        assert len(opened("digits", limit=10**6).train.x) == 1011

    def test_first_is_the_beginning_with_a_hash_of_its_own(self):
        split = opened("digits").train
        some = split.first(10)
        assert torch.equal(some.x, split.x[:10])
        assert torch.equal(some.y, split.y[:10])
        assert some.hash != split.hash
        assert some.hash == split.first(10).hash
        assert split.first(10**6) is split

    def test_moving_keeps_values_and_hash(self, device):
        data = opened("digits", limit=40)
        moved = data.to(device)
        assert moved.train.x.device.type == device.type
        assert moved.train.hash == data.train.hash
        assert torch.equal(moved.validation.x.cpu(), data.validation.x)
        assert (moved.name, moved.classes) == (data.name, data.classes)
        assert moved.train.first(5).hash == data.train.first(5).hash
        assert moved.train.first(5).x.device.type == device.type

    def test_every_source_is_a_name_of_the_config(self):
        assert list(SOURCES) == ["digits", "mnist", "fashion_mnist", "cifar10", "folder", "npz"]


class TestNpz:
    @pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (1, 6, 5), (3, 6, 5)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
    def test_every_layout_gives_channels_first(self, npz, shape, dtype):
        raw = pixels(40, *shape)
        x = raw if dtype == np.uint8 else (raw / 255).astype(dtype)
        data = opened("npz", npz(x=x, y=np.arange(40) % 2))
        first = shape if len(shape) == 3 and shape[0] in (1, 3) else (shape[2] if len(shape) == 3 else 1, 6, 5)
        assert data.input_shape == first
        as_float = (x / np.float32(255) if dtype == np.uint8 else x).astype(np.float32)
        wanted = as_float.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) and len(shape) == 3 else as_float
        assert set(rows(data.train)) <= {np.ascontiguousarray(image).reshape(first).tobytes() for image in wanted}

    def test_own_test_split_is_kept_apart(self, npz):
        x, test = pixels(40, 6, 5), pixels(30, 6, 5, seed=1)
        path = npz(x_train=x, y_train=np.arange(40) % 3, x_test=test, y_test=np.arange(30) % 3)
        config = DataConfig(name="npz", path=str(path))
        data, held = open_data(config), open_test(config)
        assert len(data.train.x) + len(data.validation.x) == 40
        assert set(rows(held)) == {(image[None] / np.float32(255)).tobytes() for image in test}
        assert data.classes == ("0", "1", "2")

    def test_labels_of_the_test_split_are_classes_of_the_training_split(self, npz):
        x = pixels(40, 6, 5)
        path = npz(x_train=x, y_train=np.arange(40) % 3, x_test=x, y_test=np.arange(40) % 4)
        with pytest.raises(DataError, match="class"):
            open_test(DataConfig(name="npz", path=str(path)))

    def test_small_integer_labels_become_int64(self, npz):
        assert opened("npz", npz(x=pixels(40, 6, 5), y=(np.arange(40) % 2).astype(np.uint8))).train.y.dtype == torch.int64

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y": np.zeros(40, dtype=int)}, r"images\.npz: must hold at least 2 classes, found 1$"),
            ({"x": np.full((40, 6, 5), 1.5)}, r"pixels must be in \[0, 1\] or uint8, got \[1\.5, 1\.5\]"),
            ({"x": np.full((40, 6, 5), -0.25)}, r"pixels must be in \[0, 1\] or uint8, got \[-0\.25, -0\.25\]"),
            ({"x": np.full((40, 6, 5), np.nan)}, r"pixels must be in \[0, 1\] or uint8, got \[nan, nan\]"),
            ({"x": np.zeros((40, 6, 5), dtype=int)}, r"must be uint8, or floating point in \[0, 1\], got int64"),
            (
                {"y": np.eye(2)[np.arange(40) % 2]},
                r"integers of shape \(40,\), one per image, got float64 of shape \(40, 2\)",
            ),
            ({"y": np.eye(2, dtype=int)[np.arange(40) % 2]}, r"integers of shape \(40,\).*got int64 of shape \(40, 2\)"),
            ({"y": np.arange(40) % 2 * 1.0}, r"labels must be integers of shape \(40,\), one per image, got float64"),
            (
                {"y": np.arange(39) % 2},
                r"labels must be integers of shape \(40,\), one per image, got int64 of shape \(39,\)",
            ),
            ({"x": np.zeros((0, 6, 5)), "y": np.zeros(0, dtype=int)}, r"integers of shape \(0,\)"),
            ({"y": np.arange(40) % 2 - 1}, r"labels must be 0 or more, got -1"),
            ({"x": pixels(40, 6, 5, 4)}, r"images must be \(N, H, W\).* with C 1 or 3, got \(40, 6, 5, 4\)"),
            ({"x": pixels(40, 30)}, r"images must be \(N, H, W\).*got \(40, 30\)"),
            ({"x": np.uint8(3)}, r"images\.npz: "),
        ],
    )
    def test_unusable_arrays_are_refused(self, npz, change, message):
        path = npz(**{"x": pixels(40, 6, 5), "y": np.arange(40) % 2} | change)
        with pytest.raises(DataError, match=message):
            opened("npz", path)

    @pytest.mark.parametrize(
        "arrays", [{"x": 0}, {"y": 0}, {"images": 0, "labels": 0}, {"x_train": 0, "x_test": 0, "y_test": 0}]
    )
    def test_missing_arrays_are_named(self, npz, arrays):
        path = npz(**{name: np.arange(40) % 2 for name in arrays})
        with pytest.raises(DataError, match=f"must hold x and y, or x_train, .*; found {', '.join(arrays)}$"):
            opened("npz", path)

    def test_too_few_images_are_refused(self, npz):
        with pytest.raises(DataError, match=r"images\.npz: too few images for a training and a validation split, got 2$"):
            opened("npz", npz(x=pixels(3, 6, 5), y=np.arange(3) % 2))

    def test_missing_file_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.npz: no such file$"):
            opened("npz", tmp_path / "none.npz")

    @pytest.mark.parametrize("kept", [0, 10, 200, -30])
    def test_truncated_file_is_refused(self, npz, kept):
        path = npz(x=pixels(40, 6, 5), y=np.arange(40) % 2)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=r"images\.npz: cannot be read as \.npz: "):
            opened("npz", path)

    @pytest.mark.filterwarnings("ignore:.*pixels use only")
    def test_damage_inside_compressed_arrays_is_refused(self, tmp_path):
        path = tmp_path / "images.npz"
        np.savez_compressed(path, x=pixels(40, 6, 5) // 16, y=np.arange(40) % 2)
        whole = path.read_bytes()
        for place in range(40, len(whole), 7):
            damaged = bytearray(whole)
            damaged[place] ^= 0x55
            path.write_bytes(damaged)
            with suppress(DataError):  # A damaged time stamp is harmless and not refused.
                opened("npz", path)

    def test_pickles_are_refused(self, npz):
        with pytest.raises(DataError, match=r"cannot be read as \.npz: .*allow_pickle"):
            opened("npz", npz(x=np.array([1, None], dtype=object), y=np.arange(2)))

    def test_pickle_file_is_refused_unread(self, tmp_path):
        path = tmp_path / "images.npz"
        path.write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            opened("npz", path)

    def test_single_array_file_is_refused(self, tmp_path):
        np.save(tmp_path / "images.npy", pixels(40, 6, 5))
        with pytest.raises(DataError, match=r"images\.npy: "):
            opened("npz", tmp_path / "images.npy")


class TestFolder:
    def test_grey_images_have_one_channel(self, folder):
        x = pixels(40, 6, 5)
        data = opened("folder", folder(classes_of(x)))
        assert data.input_shape == (1, 6, 5)
        assert data.classes == ("cat", "dog")
        assert set(rows(data.train) + rows(data.validation)) <= {(i[None] / np.float32(255)).tobytes() for i in x}

    def test_colour_images_have_three_channels_first(self, folder):
        x = pixels(40, 6, 5, 3)
        data = opened("folder", folder(classes_of(x)))
        assert data.input_shape == (3, 6, 5)
        wanted = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) / np.float32(255)
        assert set(rows(data.train)) <= {image.tobytes() for image in wanted}

    def test_one_colour_image_makes_all_of_them_colour(self, folder):
        files = classes_of(pixels(40, 6, 5))
        files["cat/colour.png"] = pixels(1, 6, 5, 3)[0]
        config = DataConfig(name="folder", path=str(folder(files)), test=0.01)
        data, test = open_data(config), open_test(config)
        x = torch.cat([data.train.x, data.validation.x, test.x])
        assert x.shape == (41, 3, 6, 5)
        assert int(((x[:, :1] == x).all(3).all(2).all(1)).sum()) == 40

    def test_sixteen_bit_grey_keeps_its_shades(self, folder):
        ramp = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)
        data = opened("folder", folder(classes_of([ramp] * 20)))
        assert torch.allclose(data.train.x[0, 0], torch.from_numpy(ramp / 65535).float(), atol=1 / 255)

    def test_train_and_test_folders_are_kept_apart(self, folder):
        x, test = pixels(40, 6, 5), pixels(20, 6, 5, seed=1)
        config = DataConfig(name="folder", path=str(folder(classes_of(x, "train/") | classes_of(test, "test/"))))
        data, held = open_data(config), open_test(config)
        assert len(data.train.x) + len(data.validation.x) == 40
        assert set(rows(held)) == {(image[None] / np.float32(255)).tobytes() for image in test}

    def test_labels_mean_the_same_in_the_test_folder(self, folder):
        # All images of a class have its shade.
        shades = {"ant": 50, "cat": 100, "dog": 150}
        files = {
            f"{part}/{c}/{i}.png": np.full((6, 5), s, np.uint8)
            for part in ("train", "test")
            for c, s in shades.items()
            for i in range(9)
        }
        config = DataConfig(name="folder", path=str(folder(files)))
        classes, test = open_data(config).classes, open_test(config)
        for image, label in zip(test.x, test.y, strict=True):
            assert round(float(image[0, 0, 0]) * 255) == shades[classes[label]]

    @pytest.mark.parametrize(
        ("classes", "difference"),
        [
            (("cat",), "at least 2 classes, found 1: cat"),
            (("cat", "dog", "eel"), "the same classes as .*train; .* eel"),
            (("cat", "dgo"), "the same classes as .*train; .* dgo, dog"),
        ],
    )
    def test_other_classes_in_the_test_folder_are_refused_before_any_work(self, folder, classes, difference):
        x = pixels(40, 6, 5)
        with pytest.raises(DataError, match=f"test: must hold {difference}$"):
            opened("folder", folder(classes_of(x, "train/") | classes_of(x, "test/", classes)))

    @pytest.mark.parametrize("suffix", [None, ".txt"])
    def test_class_without_images_in_the_test_folder_is_refused_before_any_work(self, folder, suffix):
        path = folder(classes_of(pixels(40, 6, 5), "train/") | classes_of(pixels(20, 6, 5), "test/", ("cat", "eel")))
        (path / "test" / "eel").rename(path / "test" / "dog")
        for file in (path / "test" / "dog").iterdir():
            file.unlink() if suffix is None else file.rename(file.with_suffix(suffix))
        with pytest.raises(DataError, match=r"test: must hold one folder of images per class: .*dog"):
            opened("folder", path)

    def test_test_images_are_not_opened_before_the_end(self, folder):
        path = folder(classes_of(pixels(40, 6, 5), "train/") | classes_of(pixels(20, 6, 5), "test/"))
        for file in (path / "test").rglob("*.png"):
            file.write_bytes(b"no image at all")
        opened("folder", path)
        with pytest.raises(DataError, match="cannot be read as an image"):
            open_test(DataConfig(name="folder", path=str(path)))

    @pytest.mark.parametrize("shape", [(8, 5), (6, 5, 3)])
    def test_test_folder_has_images_of_the_training_shape(self, folder, shape):
        files = classes_of(pixels(40, 6, 5), "train/") | classes_of(pixels(20, *shape), "test/")
        config = DataConfig(name="folder", path=str(folder(files)))
        trained = open_data(config).input_shape
        try:
            test = open_test(config)
        except DataError:
            return
        assert test.x.shape[1:] == trained

    def test_images_of_two_sizes_are_refused(self, folder):
        path = folder(classes_of(pixels(20, 6, 5)) | {"dog/odd.png": pixels(1, 9, 7)[0]})
        with pytest.raises(DataError, match=r"odd\.png: must be 5 x 6 .*, got 7 x 9; resize"):
            opened("folder", path)

    def test_one_class_is_refused(self, folder):
        with pytest.raises(DataError, match=r"must hold at least 2 classes, found 1: cat$"):
            opened("folder", folder(classes_of(pixels(10, 6, 5), classes=("cat",))))

    @pytest.mark.parametrize("name", ["none", "file"])
    def test_missing_folder_is_refused(self, tmp_path, name):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=f"{name}: no such folder; data.path must hold one folder of images per class$"):
            opened("folder", tmp_path / name)

    def test_folder_without_classes_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"must hold one folder of images per class: .*holds no folder"):
            opened("folder", tmp_path)

    def test_class_without_images_is_refused(self, folder):
        path = folder(classes_of(pixels(10, 6, 5)))
        (path / "empty").mkdir()
        with pytest.raises(DataError, match=r"must hold one folder of images per class: .*holds no image"):
            opened("folder", path)

    @pytest.mark.parametrize("content", [b"", b"no image at all", None])
    def test_broken_image_is_refused(self, folder, content):
        path = folder(classes_of(pixels(10, 60, 50)))
        broken = path / "cat" / "000.png"
        broken.write_bytes(broken.read_bytes()[:-200] if content is None else content)
        with pytest.raises(DataError, match=r"000\.png: cannot be read as an image: "):
            opened("folder", path)

    def test_png_with_a_damaged_chunk_is_refused(self, folder):
        path = folder(classes_of(pixels(10, 60, 50)))
        broken = path / "cat" / "000.png"
        content = bytearray(broken.read_bytes())
        content[37:41] = b"\x01\x02\x03\x04"  # These bytes are the name of the chunk after the header.
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"000\.png: cannot be read as an image: "):
            opened("folder", path)


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def no_network(self, monkeypatch):
        def fail(*args, **kwargs):
            raise URLError("no network in tests")

        monkeypatch.setattr("urllib.request.urlopen", fail)

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
    def test_what_cannot_be_downloaded_is_asked_for(self, name, tmp_path):
        message = r"is not in .* and cannot be downloaded \(\w+: (.|\n)*\); .* data.path"
        with pytest.raises(DataError, match=message):
            opened(name, tmp_path)

    def test_home_folder_in_a_path_is_expanded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert DataConfig(name="npz", path="~/a.npz").path == f"{tmp_path}/a.npz"
        with pytest.raises(ValueError, match=r"path.*~nobody-of-that-name"):
            DataConfig(name="npz", path="~nobody-of-that-name/a.npz")

    def test_default_folder_is_the_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(DataError, match=f"{tmp_path}/.cache/hardcell"):
            opened("mnist")

    @pytest.fixture
    def mnist(self, shared_data, tmp_path):
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for file in (shared_data / "mnist").glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        return tmp_path

    def test_mnist_is_read_from_its_files(self, mnist):
        config = DataConfig(name="mnist", path=str(mnist), limit=400)
        data, test = open_data(config), open_test(config)
        assert (len(data.train.x), len(data.validation.x), len(test.x)) == (300, 100, 10000)
        assert data.input_shape == (1, 28, 28)
        assert len(data.classes) == 10
        oracle = datasets.MNIST(str(mnist), train=False)
        wanted = {(image.numpy()[None] / np.float32(255)).tobytes() for image in oracle.data[:50]}
        assert wanted <= set(rows(test))
        assert test.y.bincount().tolist() == oracle.targets.bincount().tolist()

    def test_damaged_mnist_is_refused(self, tmp_path):
        raw = tmp_path / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08")
        with pytest.raises(DataError):
            opened("mnist", tmp_path)

    def test_layouts_of_torchvision_become_channels_first(self, tmp_path, monkeypatch):
        class Stub:
            classes = ("a", "b")

            def __init__(self, root, train, download):
                self.data = pixels(40 if train else 20, 6, 5, 3)
                self.targets = [i % 2 for i in range(len(self.data))]

        monkeypatch.setattr(datasets, "CIFAR10", Stub)
        data = opened("cifar10", tmp_path)
        assert data.input_shape == (3, 6, 5)
        assert len(data.train.x) == 30
        wanted = np.ascontiguousarray(pixels(40, 6, 5, 3).transpose(0, 3, 1, 2)) / np.float32(255)
        assert set(rows(data.train)) <= {image.tobytes() for image in wanted}
        assert len(open_test(DataConfig(name="cifar10", path=str(tmp_path))).x) == 20


def test_cifar10_as_jpeg_is_an_image_folder(shared_data, tmp_path):
    counts = {}
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz", "r|xz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            name = member.name.split("/")[1]
            counts[name] = counts.get(name, 0) + 1
            if counts[name] <= 120:
                # All images are from the training part of the archive, because reading on to its test part takes long.
                file = tmp_path / ("train" if counts[name] <= 90 else "test") / name / member.name.split("/")[2]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.extractfile(member).read())
            if list(counts.values())[1:] == [120]:
                break
    config = DataConfig(name="folder", path=str(tmp_path))
    data, test = open_data(config), open_test(config)
    assert data.classes == ("airplane", "automobile")
    assert data.input_shape == (3, 32, 32)
    assert (len(data.train.x), len(data.validation.x), len(test.x)) == (135, 45, 60)
    assert data.train.x.std() > 0.1
    assert not set(rows(test)) & set(rows(data.train) + rows(data.validation))
