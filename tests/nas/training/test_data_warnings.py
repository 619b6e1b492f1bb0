"""Warnings about training data."""

import torch

from nas.data import Dataset, Split
from nas.training.data_warnings import data_warnings


def dataset(train, validation, classes=8):
    splits = [Split(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), "") for labels in (train, validation)]
    return Dataset("made up", tuple(f"class{i}" for i in range(classes)), *splits)


def test_nothing_is_said_about_good_data():
    assert data_warnings(dataset([0, 1, 2], [2, 1, 0], classes=3), batch_size=3) == []


def test_each_fault_is_said():
    assert data_warnings(dataset([0, 1], [0], classes=2), batch_size=3) == [
        "batch_size is 3, but there are only 2 training images; each batch holds all of them",
        "the validation split has no image of class class1; use more images or another split",
    ]


def test_a_long_list_of_classes_is_cut():
    (text,) = data_warnings(dataset([0], list(range(8))), batch_size=1)
    assert text == (
        "the training split has no image of classes class1, class2, class3, class4, class5 and 2 more; "
        "use more images or another split"
    )
