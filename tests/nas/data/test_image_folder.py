"""Folders of images as people have them: hidden files, names of splits, transparency, bit depths and orientation."""

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import check_test, open_data, open_test
from nas.data.config import DataConfig
from nas.errors import DataError
from nas.pipeline.search import search_events


def config_of(path, **settings):
    return DataConfig(name="folder", path=str(path), **settings)


def put(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def fill(root, classes=("cat", "dog"), count=20, seed=0):
    for number, name in enumerate(classes):
        for i in range(count):
            put(root / name / f"{i}.png", noise(6, 5, seed=seed + 1000 * number + i))


class TestClasses:
    def test_hidden_folders_and_files_are_ignored(self, tmp_path):
        fill(tmp_path)
        fill(tmp_path, (".ipynb_checkpoints",), 3)
        (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
        put(tmp_path / "cat" / "._0.png", noise(9, 9))
        data = open_data(config_of(tmp_path))
        assert data.classes == ("cat", "dog")
        assert len(data.train.x) + len(data.validation.x) + len(open_test(config_of(tmp_path)).x) == 40

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif", ".webp", ".pgm", ".PNG", ".jp2"])
    def test_every_format_of_pillow_is_read(self, suffix, tmp_path):
        for name in ("cat", "dog"):
            for i in range(10):
                put(tmp_path / name / f"{i}{suffix}", noise(16, 16, seed=i))
        assert open_data(config_of(tmp_path)).input_shape[1:] == (16, 16)

    def test_other_files_are_counted_and_named(self, tmp_path):
        fill(tmp_path)
        (tmp_path / "cat" / "notes.txt").write_text("x")
        (tmp_path / "dog" / "labels.csv").write_text("x")
        with pytest.warns(UserWarning, match=r"left out 2 files that are not images, such as labels\.csv, notes\.txt"):
            open_data(config_of(tmp_path))


class TestSplits:
    @pytest.mark.parametrize("test", ["test", "Test", "testing", "eval", "holdout", "TEST"])
    @pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
    def test_usual_names_are_splits(self, train, test, tmp_path):
        fill(tmp_path / train)
        fill(tmp_path / test, count=7, seed=50)
        data = open_data(config_of(tmp_path))
        assert data.classes == ("cat", "dog")
        assert len(data.train.x) + len(data.validation.x) == 40
        assert len(open_test(config_of(tmp_path)).x) == 14

    @pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
    @pytest.mark.parametrize("has_test", [False, True])
    def test_validation_split_is_used_as_such(self, name, has_test, tmp_path):
        fill(tmp_path / "train")
        fill(tmp_path / name, count=6, seed=50)
        if has_test:
            fill(tmp_path / "test", count=9, seed=90)
        data = open_data(config_of(tmp_path))
        validation = {image.numpy().tobytes() for image in data.validation.x}
        expected = {
            (np.asarray(Image.open(file))[None] / np.float32(255)).tobytes() for file in (tmp_path / name).rglob("*.png")
        }
        assert validation == expected
        assert len(data.train.x) == (40 if has_test else 30)
        assert len(open_test(config_of(tmp_path)).x) == (18 if has_test else 10)

    def test_a_class_may_have_the_name_of_a_split(self, tmp_path):
        fill(tmp_path, ("car", "train"))
        assert open_data(config_of(tmp_path)).classes == ("car", "train")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("train", "test", "holdout"), "one test split, found holdout and test"),
            (("train", "val", "valid"), "one validation split"),
            (("train", "test", "extra"), "beside the splits it holds extra"),
            (("test", "val"), "a split named train, found only test, val"),
        ],
    )
    def test_ambiguous_splits_are_refused(self, names, message, tmp_path):
        for name in names:
            fill(tmp_path / name, count=3)
        with pytest.raises(DataError, match=message):
            open_data(config_of(tmp_path))


def circle(size):
    y, x = np.mgrid[:12, :12]
    return ((y - 6) ** 2 + (x - 6) ** 2 < size**2).astype(np.uint8) * 255


class TestPixels:
    @pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
    def test_transparent_images_are_composited_on_white(self, kind, tmp_path):
        for name, sizes in (("large", (5, 6)), ("small", (2, 3))):
            for i in range(20):
                alpha = circle(sizes[i % 2])
                black = np.zeros_like(alpha)
                path = tmp_path / name / f"{i}.png"
                path.parent.mkdir(exist_ok=True)
                if kind == "palette":
                    image = Image.fromarray(alpha // 255, "P")
                    image.putpalette([0] * 768)
                    image.save(path, transparency=0)
                else:
                    channels = [black] * 3 if kind == "RGBA" else [black]
                    Image.fromarray(np.stack([*channels, alpha], -1), kind).save(path)
        x = open_data(config_of(tmp_path)).train.x
        assert len(x.unique(dim=0)) == 4
        assert x.unique().tolist() == [0, 1]
        assert x[:, :, 0, 0].min() == 1  # The corner is transparent, so it becomes white.

    @pytest.mark.parametrize(
        ("dtype", "top", "suffix"),
        [
            (np.uint16, 65535, ".png"),
            (np.uint16, 4095, ".png"),
            (np.int32, 2**31 - 1, ".tif"),
            (np.float32, 1.0, ".tif"),
            (np.float32, 255.0, ".tif"),
        ],
    )
    def test_deep_images_are_scaled_by_their_range(self, dtype, top, suffix, tmp_path):
        ramp = np.linspace(0, 1, 30).reshape(6, 5)
        for name in ("cat", "dog"):
            for i in range(10):
                put(tmp_path / name / f"{i}{suffix}", (ramp * top).astype(dtype))
        largest = {2**31 - 1: 2.0**32 - 1}.get(top, float(top))
        x = open_data(config_of(tmp_path)).train.x
        assert torch.allclose(x[0, 0], torch.from_numpy(ramp * top / largest).float(), atol=1e-3)

    def test_orientation_of_exif_is_applied(self, tmp_path):
        upright = noise(6, 5)
        for name in ("cat", "dog"):
            for i in range(10):
                put(tmp_path / name / f"{i}.png", upright)
            turned = Image.fromarray(np.rot90(upright))
            exif = turned.getexif()
            exif[274] = 6  # Rotate by 90 degrees clockwise.
            turned.save(tmp_path / name / "turned.png", exif=exif)
        data = open_data(config_of(tmp_path))
        assert data.input_shape == (1, 6, 5)
        assert len(torch.cat([data.train.x, data.validation.x]).unique(dim=0)) == 1

    def test_a_narrow_range_of_pixels_gets_a_warning(self, tmp_path):
        for name in ("cat", "dog"):
            for i in range(10):
                put(tmp_path / name / f"{i}.png", noise(6, 5, seed=i) // 128)
        with pytest.warns(UserWarning, match="pixels use only 0 to 1 of 0 to 255"):
            open_data(config_of(tmp_path))


def npz(path, **arrays):
    np.savez(path / "d.npz", **arrays)
    return DataConfig(name="npz", path=str(path / "d.npz"))


class TestArrays:
    @pytest.mark.parametrize(("low", "high"), [(0, 1 + 1.2e-7), (0, 1.0004), (-1e-9, 1)])
    def test_rounding_beyond_the_range_is_clipped(self, low, high, tmp_path):
        x = np.random.default_rng(0).random((80, 8, 8)).astype(np.float32)
        x[0, 0, :2] = low, high
        data = open_data(npz(tmp_path, x=x, y=np.arange(80) % 3))
        assert (data.train.x.min() >= 0) & (data.train.x.max() <= 1)

    def test_what_is_beyond_rounding_is_shown_with_its_digits(self, tmp_path):
        x = np.random.default_rng(0).random((80, 8, 8))
        x[0, 0, 0] = 1.00201
        with pytest.raises(DataError, match=r"got \[[0-9.e-]+, 1\.00201\]"):
            open_data(npz(tmp_path, x=x, y=np.arange(80) % 3))

    @pytest.mark.parametrize(("labels", "missing"), [((0, 1, 3), "2"), ((0, 10**9), "1, 2, 3, 4"), ((1, 2), "0")])
    def test_labels_with_gaps_are_refused(self, labels, missing, tmp_path):
        y = np.array(labels)[np.arange(80) % len(labels)]
        with pytest.raises(DataError, match=f"have no images, such as {missing}"):
            open_data(npz(tmp_path, x=noise(80, 8, 8), y=y))

    def test_validation_arrays_are_the_validation_split(self, tmp_path):
        arrays = {f"x_{part}": noise(30, 8, 8, seed=i) for i, part in enumerate(("train", "val", "test"))}
        arrays |= {f"y_{part}": np.arange(30) % 3 for part in ("train", "val", "test")}
        data = open_data(npz(tmp_path, **arrays))
        assert len(data.train.x) == len(data.validation.x) == 30

    @pytest.mark.parametrize(
        "test",
        [
            {"x_test": noise(40, 10, 10), "y_test": np.arange(40) % 2},
            {"x_test": noise(40, 8, 8, 3), "y_test": np.arange(40) % 2},
            {"x_test": noise(40, 8, 8), "y_test": np.arange(40) % 2 + 2},
            {"x_test": noise(40, 8, 8), "y_test": np.zeros(40, int)},
            {"x_test": noise(0, 8, 8), "y_test": np.zeros(0, int)},
            {"x_test": np.full((40, 8, 8), np.nan), "y_test": np.arange(40) % 2},
            {},
        ],
        ids=["another size", "colour", "labels beyond", "one class", "empty", "NaN", "missing"],
    )
    def test_faulty_test_images_are_found_before_a_search(self, test, tmp_path, tiny):
        data = npz(tmp_path, x_train=noise(80, 8, 8), y_train=np.arange(80) % 2, **test)
        with pytest.raises(DataError):
            check_test(data, (1, 8, 8))
        with pytest.raises(DataError):
            search_events(tiny(f"data={{name: npz, path: '{data.path}'}}"), tmp_path / "run")
        assert not (tmp_path / "run").exists()
