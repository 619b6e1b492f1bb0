"""Options of opening networks: what they refuse, and how they apply to each of several networks."""

from pathlib import Path

import pytest
from torch import nn

from nas.analysis.network_source import NetworkSource, check_distinct, name_networks, open_source
from nas.analysis.networks import NetworkOptions
from nas.analysis.several_networks import options_of_each, options_with_weights
from nas.errors import ConfigError, NetworkError
from nas.validation import ValidationError


@pytest.fixture
def bundle(finished_run):
    (folder,) = (finished_run / "bundles").glob("1-*")
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": 0.5}, "std must be given together with mean"),
        ({"std": 0.5}, "mean must be given together with std"),
        (
            {"mean": 123.7, "std": 0.2},
            r"mean must be in pixel units, where pixels are in \[0, 1\], got 123.7; divide by 255",
        ),
        ({"mean": 0.5, "std": 0}, "std must be above 0 and at most 1, got 0"),
        ({"mean": -1, "std": 1}, "mean must be at least 0 and at most 1, got -1"),
        ({"mean": (0.5, float("nan")), "std": 1}, "mean must be one number, or one per channel, got nan"),
        ({"mean": (), "std": 1}, "mean must be one number, or one per channel, got none"),
        ({"mean": "a", "std": 1}, "mean must be one number, or one per channel, got 'a'"),
        ({"mean": True, "std": 1}, "mean must be one number, or one per channel, got True"),
        ({"mean": (0.1, 0.2), "std": (0.1, 0.2, 0.3)}, "std must have one number, or .*: 2 numbers in mean, 3 in std"),
        ({"resize": 0}, "resize must be a side in pixels, from 1 to 4096, got 0"),
        ({"resize": 2.5}, "resize must be a side in pixels, .* got 2.5"),
        ({"output": ""}, "output must not be empty"),
        ({"output": 1.5}, "output must be a key, the name of an attribute or an index, got 1.5"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        NetworkOptions(**settings)


def test_lists_and_paths_are_converted():
    options = NetworkOptions(mean=[0.1, 0.2, 0.3], std=1, weights="a.pt")
    assert (options.mean, options.weights) == ((0.1, 0.2, 0.3), Path("a.pt"))
    assert options == NetworkOptions(mean=(0.1, 0.2, 0.3), std=1, weights=Path("a.pt"))
    assert options.adaptations() == ["mean", "std"]


def test_bundle_refuses_what_it_has_inside(bundle):
    for settings, names in (
        ({"mean": 0.5, "std": 0.5}, "--mean, --std"),
        ({"resize": 8, "output": 0}, "--output, --resize"),
    ):
        with pytest.raises(NetworkError, match=rf"is a bundle, which takes pixels in \[0, 1\] .*; leave out {names}"):
            open_source(bundle, options=NetworkOptions(**settings))
    with pytest.raises(
        NetworkError, match=r"has its own weights; leave out --weights \(weights\), which is for torchvision"
    ):
        open_source(bundle, options=NetworkOptions(weights="a.pt"))


def test_others_refuse_weights(network_folder):
    options = NetworkOptions(weights="a.pt")
    for network in (f"{network_folder}/graph.pt2", nn.Identity()):
        with pytest.raises(NetworkError, match="has its own weights; leave out --weights"):
            open_source(network, options=options)


def test_open_source_is_not_adapted_again():
    source = open_source(nn.Identity(), options=NetworkOptions(resize=8))
    assert open_source(source) is source
    assert open_source(source, options=source.options) is source
    with pytest.raises(NetworkError, match="Identity: is open already; pass the options when you open it"):
        open_source(source, options=NetworkOptions(resize=9))


class TestSeveral:
    def test_bundles_are_left_out_beside_other_networks(self, bundle):
        options, none = NetworkOptions(resize=8), NetworkOptions()
        assert options_of_each([bundle, "own.py:network", nn.Identity()], options) == [none, options, options]
        # Alone, bundles are not left out, so that they refuse the options.
        assert options_of_each([str(bundle)], options) == [options]

    def test_open_sources_are_left_out(self):
        source = NetworkSource("a", nn.Identity())
        assert options_of_each([source, "b.pt2"], NetworkOptions(resize=8)) == [NetworkOptions(), NetworkOptions(resize=8)]

    def test_weights_apply_to_models_of_libraries(self):
        options = NetworkOptions(resize=8, weights="a.pt")
        assert options_of_each(["torchvision:resnet18", "b.pt2"], options) == [options, NetworkOptions(resize=8)]
        assert options_of_each(["b.pt2"], options) == [options]

    def test_one_for_each(self):
        each = [NetworkOptions(resize=8), NetworkOptions()]
        assert options_of_each(["a.pt2", "b.pt2"], each) == each
        with pytest.raises(ConfigError, match="options must be one, or one for each network: 1 networks, 2 options"):
            options_of_each(["a.pt2"], each)

    def test_files_of_weights_are_given_in_order(self):
        names = ["torchvision:resnet18", "own.py:network", "timm:vit"]
        each = options_with_weights(names, NetworkOptions(resize=8), ["a.pt", "b.pt"])
        assert [options.weights for options in each] == [Path("a.pt"), None, Path("b.pt")]
        assert {options.resize for options in each} == {8}
        assert options_with_weights(names, NetworkOptions(), []) == [NetworkOptions()] * 3

    @pytest.mark.parametrize(("names", "files"), [(["torchvision:a", "timm:b"], 1), (["timm:b"], 2), (["own.py:n"], 1)])
    def test_wrong_number_of_files(self, names, files):
        with pytest.raises(
            ConfigError, match=rf"once for each torchvision:MODEL .*: {len(names) - ('own.py:n' in names)} mod"
        ):
            options_with_weights(names, NetworkOptions(), ["a.pt"] * files)

    def test_one_model_with_two_files_is_two_networks(self):
        names, files = ["torchvision:resnet18"] * 2, ["plain.pt", "robust.pt"]
        check_distinct(names, (), options_with_weights(names, NetworkOptions(), files))
        with pytest.raises(NetworkError, match="torchvision:resnet18: is given twice"):
            check_distinct(names, (), options_with_weights(names, NetworkOptions(), ["plain.pt", "./plain.pt"]))
        sources = [
            NetworkSource(f"torchvision:resnet18 with {file}", nn.Identity(), options=NetworkOptions(weights=file))
            for file in files
        ]
        check_distinct(sources)
        assert list(name_networks(sources)) == ["resnet18 (plain)", "resnet18 (robust)"]
