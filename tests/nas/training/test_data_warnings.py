"""Warnings about training data."""

import torch

from nas.data import Dataset, Split
from nas.training.config import TrainingConfig
from nas.training.data_warnings import data_warnings
from nas.training.recipes import Free


def dataset(train, validation, classes=8):
    splits = [Split(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), "") for labels in (train, validation)]
    return Dataset("made up", tuple(f"class{i}" for i in range(classes)), *splits)


def test_nothing_is_said_about_good_data():
    assert data_warnings(dataset([0, 1, 2], [2, 1, 0], classes=3), TrainingConfig(batch_size=3)) == []


def test_each_fault_is_said():
    assert data_warnings(dataset([0, 1], [0], classes=2), TrainingConfig(batch_size=3)) == [
        "batch_size is 3, but there are only 2 training images; each batch holds all of them",
        "the validation split has no image of class class1; use more images or another split",
    ]


def test_the_rule_of_the_batch_size_needs_16_images():
    labels = [0, 1] * 8
    assert data_warnings(dataset(labels, [0, 1], classes=2), TrainingConfig()) == []
    few = data_warnings(dataset(labels[:15], [0, 1], classes=2), TrainingConfig())
    assert few == ["there are only 15 training images; each batch holds all of them"]


def test_a_long_list_of_classes_is_cut():
    (text,) = data_warnings(dataset([0, 0], list(range(8))), TrainingConfig(batch_size=2))
    assert text == (
        "the training split has no image of classes class1, class2, class3, class4, class5 and 2 more; "
        "use more images or another split"
    )


def test_replays_that_leave_images_unused_are_said():
    good = dataset([0, 1], [0, 1], classes=2)
    (text,) = data_warnings(good, TrainingConfig(recipe=Free(replays=4), epochs=3, batch_size=2))
    assert text == "with 4 replays, 3 epochs are no full pass over the training images; some are never used"
    assert data_warnings(good, TrainingConfig(recipe=Free(replays=4), epochs=4, batch_size=2)) == []
