"""Published architectures against the genotypes of the shared data, and their parameter counts."""

import pytest
import torch
import yaml

from evaluators import parameters
from search_spaces import SPACES
from search_spaces.spaces.published import PUBLISHED

NAMES = {
    "none": "none",
    "skip_connect": "skip",
    "sep_conv_3x3": "sepconv3x3",
    "sep_conv_5x5": "sepconv5x5",
    "dil_conv_3x3": "dilconv3x3",
    "dil_conv_5x5": "dilconv5x5",
    "max_pool_3x3": "maxpool3x3",
    "avg_pool_3x3": "avgpool3x3",
}
DARTS = ("darts_v1", "darts_v2", "pdarts", "advrush", "racl")


@pytest.fixture
def genotypes(shared_data):
    return yaml.safe_load((shared_data / "genotypes.yaml").read_text())


def counted(space, architecture):
    with torch.device("meta"):
        return parameters(space.build(architecture, (3, 32, 32), 10))


def test_robust_and_standard_architectures_are_included():
    assert {"darts_v2", "pdarts", "advrush", "racl", "robnet_free", "robnet_large", "resnet18", "wrn_28_10"} <= set(
        PUBLISHED
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_are_of_their_spaces(name):
    published = PUBLISHED[name]
    assert published.make in SPACES.values()
    assert published.space.validate(published.architecture) == published.architecture
    assert "arXiv:" in published.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_canonical_forms_have_the_same_number_of_parameters(name):
    """A canonical form removes only operations that do not reach the output. None of those has weights here."""
    published = PUBLISHED[name]
    space = published.space
    form = space.canonical(published.architecture)
    assert space.canonical(form) == form
    assert counted(space, form) == counted(space, published.architecture)


@pytest.mark.parametrize("name", DARTS)
def test_darts_cells_are_those_of_the_table(genotypes, name):
    """The pairs of each node are compared in sorted order, because their order does not matter."""
    published = PUBLISHED[name]
    graphs = published.space.graphs(published.architecture)
    for cell, key in (("normal", "normal"), ("reduction", "reduce")):
        pairs = genotypes["darts"][name][key]
        for node, summands in enumerate(graphs[cell].nodes):
            assert sorted(summands) == sorted(
                (NAMES[operation], source) for operation, source in pairs[2 * node : 2 * node + 2]
            )


@pytest.mark.parametrize("name", DARTS)
def test_darts_cells_have_the_parameters_of_the_table(genotypes, name):
    published = PUBLISHED[name]
    for text, wanted in genotypes["darts"][name].get("parameters", {}).items():
        channels, layers = (int(part.split("=")[1]) for part in text.split(","))
        assert counted(published.make(channels, layers), published.architecture) == wanted


@pytest.mark.parametrize("name", ["robnet_large", "robnet_free"])
def test_robnet_cells_are_those_of_the_table(genotypes, name):
    published = PUBLISHED[name]
    sets = {"00": set(), "01": {"sepconv3x3"}, "10": {"skip"}, "11": {"skip", "sepconv3x3"}}
    edges = [(source, node) for node in range(2, 6) for source in range(node)]
    codes = genotypes["robnet"][name]["cells"]
    graphs = list(published.space.graphs(published.architecture).values())
    assert len(graphs) == len(codes)
    for graph, code in zip(graphs, codes, strict=True):
        operations = {edge: {o for s, n, o in graph.edges() if (s, n) == edge} for edge in edges}
        assert operations == {edge: sets[bits] for edge, bits in zip(edges, code, strict=True)}


@pytest.mark.parametrize(
    ("name", "wanted"), [("robnet_free", 5_439_790), ("resnet18", 11_173_962), ("wrn_28_10", 36_479_194)]
)
def test_parameters_are_those_published(name, wanted):
    assert counted(PUBLISHED[name].space, PUBLISHED[name].architecture) == wanted


def test_robnet_free_has_the_parameters_of_the_table(genotypes):
    assert genotypes["robnet"]["robnet_free"]["parameters"] == {"C=36,layers=20": 5_439_790}


def test_nasnet_a_concatenates_the_blocks_that_feed_no_other():
    graphs = PUBLISHED["nasnet_a"].space.graphs(PUBLISHED["nasnet_a"].architecture)
    assert graphs["normal"].outputs == (2, 3, 4, 5, 6)
    assert graphs["reduction"].outputs == (4, 5, 6)
