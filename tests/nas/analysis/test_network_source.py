"""Opened networks, with names and, if they come from bundles, with the records of the searches."""

import dataclasses

import pytest
import torch
from torch import nn

from nas.analysis.network_source import (
    NetworkSource,
    check_distinct,
    common_bundle_data,
    name_networks,
    open_source,
    searched_epsilons,
    searched_norm,
)
from nas.bundle import manifest
from nas.data.config import DataConfig
from nas.errors import BundleError, ConfigError, NetworkError


@pytest.fixture
def bundle(finished_run):
    (folder,) = (finished_run / "bundles").glob("1-*")
    return folder


def source(name, manifest=None, **recorded):
    manifest = manifest or ({"name": name} if recorded else None)
    return NetworkSource(name, nn.Identity(), manifest, **recorded)


class TestOpening:
    def test_bundle_says_what_its_search_was(self, bundle):
        opened = open_source(bundle)
        assert opened.manifest["name"] == bundle.name == opened.short_name
        assert (opened.data["name"], opened.data["limit"]) == ("digits", 400)
        assert (opened.norm, opened.epsilon) == ("linf", manifest.read_manifest(bundle)["epsilon"])
        assert opened.classes == tuple("0123456789")
        assert opened.network(torch.rand(2, 1, 8, 8)).shape == (2, 10)

    def test_manifest_is_read_once(self, bundle, monkeypatch):
        reads = []

        def read(folder):
            reads.append(folder)
            return manifest.read_manifest(folder)

        monkeypatch.setattr("nas.bundle.load.read_manifest", read)
        assert open_source(open_source(str(bundle))).name == str(bundle)
        assert reads == [bundle]

    def test_other_networks_have_no_records(self, network_folder):
        opened = open_source(f"{network_folder}/graph.pt2")
        assert opened.short_name == "graph.pt2"
        assert [opened.manifest, opened.data, opened.norm, opened.epsilon, opened.classes] == [None] * 5

    def test_module_in_memory(self):
        network = nn.Sequential(nn.Flatten(), nn.Dropout()).train()
        opened = open_source(network)
        assert (opened.network, opened.name) == (network, "Sequential")
        assert not network.training

    def test_what_is_no_network(self, tmp_path):
        with pytest.raises(NetworkError, match=r"none\.pt2: no such file or folder"):
            open_source("none.pt2")
        (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
        with pytest.raises(BundleError, match=r"manifest\.json: damaged"):
            open_source(tmp_path)


class TestClassNames:
    def test_are_the_bundles_for_its_own_data(self, bundle):
        opened = dataclasses.replace(open_source(bundle), classes=tuple("abcdefghij"))
        assert opened.class_names(DataConfig(name="digits")) == tuple("abcdefghij")

    def test_are_those_of_other_data(self):
        opened = source("a", data={"name": "mnist"}, classes=("x", "y"))
        assert opened.class_names(DataConfig(name="digits")) == tuple("0123456789")
        assert source("a").class_names(DataConfig(name="digits")) == tuple("0123456789")


class TestNames:
    def test_are_the_bundles_own_and_those_of_the_files(self, bundle):
        opened = [open_source(bundle), source("folder/nets.py:a"), source("x/net.pt2")]
        assert list(name_networks(opened)) == [bundle.name, "nets.py:a", "net.pt2"]
        assert list(name_networks(opened, ["a", "b", "c"])) == ["a", "b", "c"]

    def test_in_full_where_two_are_alike(self, bundle, bundle_copy):
        opened = [open_source(bundle), open_source(bundle_copy), source("c.pt")]
        assert list(name_networks(opened)) == [str(bundle), str(bundle_copy), "c.pt"]

    def test_modules_of_one_class_are_numbered(self):
        opened = [open_source(nn.Identity()) for _ in range(3)]
        named = name_networks(opened)
        assert list(named) == ["Identity", "Identity_2", "Identity_3"]
        assert list(named.values()) == opened

    def test_number_does_not_repeat_the_name_of_another_class(self):
        opened = [source("Net_2"), *(NetworkSource("Net", nn.Identity()) for _ in range(2))]
        assert list(name_networks(opened)) == ["Net_2", "Net", "Net_3"]

    def test_one_network_twice_is_refused_however_it_is_written(self, network_folder, monkeypatch):
        monkeypatch.chdir(network_folder)
        with pytest.raises(NetworkError, match=r"\./own\.py:network: is given twice"):
            check_distinct(["own.py:network", "./own.py:network"])
        network = nn.Identity()
        with pytest.raises(NetworkError, match="twice"):
            check_distinct([network, network])
        check_distinct(["own.py:network", "own.py:softmax"])
        check_distinct([network, nn.Identity()])
        check_distinct([open_source(network), open_source(nn.Identity())])
        with pytest.raises(NetworkError, match=r"^Identity: .*twice"):
            check_distinct([open_source(network), open_source(network)])

    def test_modules_of_one_class_are_distinct_beside_a_file_of_its_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "Identity").touch()
        first, second = open_source(nn.Identity()), open_source(nn.Identity())
        check_distinct([first, second])
        with pytest.raises(NetworkError, match="twice"):
            check_distinct([first, first])
        for few in ([], [first]):
            with pytest.raises(NetworkError, match="at least two networks"):
                check_distinct(few)


class TestRecordsOfSeveral:
    def test_norm_is_that_of_all_searches(self):
        one, same, other = (source("a", norm=norm, epsilon=0.5) for norm in ("l2", "l2", "linf"))
        assert searched_norm([one, same, source("file.pt2")]) == "l2"
        assert searched_norm([one, other]) == searched_norm([source("file.pt2")]) == "linf"

    def test_epsilons_are_those_in_the_norm(self):
        sources = [source("a", norm="l2", epsilon=0.5), source("b", norm="linf", epsilon=0.1), source("c")]
        assert searched_epsilons(sources, "l2") == [0.5]
        assert searched_epsilons(sources, "linf") == [0.1]

    def test_data_must_agree(self):
        digits = {"name": "digits", "path": None, "test": 0.2, "split_seed": 0, "limit": 400}
        one, same = source("a", data=digits), source("b", data={**digits, "limit": 100})
        assert common_bundle_data([one, source("file.pt2"), same]) == digits
        assert common_bundle_data([source("file.pt2")]) is None
        with pytest.raises(ConfigError, match=r"(?s)different data.*a: name digits.*b: name mnist"):
            common_bundle_data([one, source("b", data={**digits, "name": "mnist"})])

    def test_equal_test_images_are_the_same_data_wherever_they_are(self):
        here = {"name": "folder", "path": "/here/cats", "test": 0.2, "split_seed": 0}
        away = {**here, "path": "cats"}
        first, second, other = (
            source(name, data=data, manifest={"data": {"test": test}})
            for name, data, test in (("a", away, "abc"), ("b", here, "abc"), ("c", away, "def"))
        )
        assert common_bundle_data([first, second]) == here
        with pytest.raises(ConfigError, match="different data"):
            common_bundle_data([first, other])
        with pytest.raises(ConfigError, match=r"^a: its images are on the machine that made it; .*--data"):
            common_bundle_data([first])
