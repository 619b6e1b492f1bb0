"""Contract tests of all search spaces, and error messages of SearchSpace and Choice."""

import json
import math
import random
import re
from types import SimpleNamespace

import optuna
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch import nn

from search_spaces import SPACES, Choice, SearchSpace, cell201, cell_space, darts, macro, mlp, nasnet, robnet
from search_spaces.cells.skeleton import Cell

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 28, 20)]


@pytest.fixture(autouse=True)
def repeatable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def built(space, architecture, shape=(1, 8, 8), classes=7, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(architecture, shape, classes)


def flow(network):
    """Returns two sets of parameter names, and whether the logits depend on the image.

    The first set has the parameters on a path to the logits. The second set has those of them on a path from the image, too.
    Only cells can interrupt a path. Each cell is traversed forwards from the image and backwards from the logits.
    """
    cells = [(name, module) for name, module in network.named_modules() if isinstance(module, Cell)]
    names = {name for name, _ in network.named_parameters()}
    if not cells:
        return names, names, True
    inputs = cells[0][1].graph.inputs
    # `shows` says for the index of a cell whether the output of the cell depends on the image. `used` has the indices of
    # cells whose output is used. The indices -2 and -1 are the stem.
    shows, used = {-2: True, -1: True}, {len(cells) - 1}
    unseen, unused = set(), set()
    for number, (name, cell) in enumerate(cells):
        seen = [shows[number - inputs + i] for i in range(inputs)]
        for summands in cell.graph.nodes:
            seen.append(any(seen[source] for _, source in summands))
        shows[number] = any(seen[node] for node in cell.graph.outputs)
        for source, prefix in parts(name, cell):
            unseen |= {p for p in names if p.startswith(prefix) and not seen[source]}
    for number, (name, cell) in reversed([*enumerate(cells)]):
        live = set(cell.graph.outputs) if number in used else set()
        for source, node, _ in reversed(cell.graph.edges()):
            live |= {source} if node in live else set()
        used |= {number - inputs + i for i in range(inputs) if i in live}
        for source, prefix in parts(name, cell):
            node = int(prefix.split(".edges.edge")[1][1]) if ".edges." in prefix else source
            unused |= {p for p in names if p.startswith(prefix) and node not in live}
    if inputs == 1:
        # Layers before a disconnected cell do not reach the logits. Layers after it do not depend on the image.
        cut = [int(name) for number, (name, _) in enumerate(cells) if number - 1 not in used]
        unused |= {p for p in names for place in cut if int(p.split(".")[0]) < place}
        unseen |= {p for p in names for place in cut if int(p.split(".")[0]) > place}
    elif not used & {-2, -1}:
        unused |= {p for p in names if p.startswith("stem.")}
    shown = shows[len(cells) - 1]
    unseen |= set() if shown else {p for p in names if p.startswith("head.")}
    return names - unused, names - unused - unseen, shown


def parts(name, cell):
    """Yields the source node of each layer of a cell, and the prefix of the names of the layer's parameters."""
    for i in range(len(cell.preprocess)):
        yield i, f"{name}.preprocess.{i}."
    for incoming in cell.incoming:
        for edge, source in incoming:
            yield source, f"{name}.edges.{edge}."


def differing(first, second):
    """Returns the names of the choices in which two architectures differ."""
    return [name for name in first if (type(first[name]), first[name]) != (type(second[name]), second[name])]


class SpaceContract:
    """Contract of every space. A subclass defines a fixture `space`."""

    @pytest.fixture
    def samples(self, space):
        generator = random.Random(0)
        return [space.sample(generator) for _ in range(12)]

    def test_samples_are_architectures(self, space, samples):
        for architecture in samples:
            assert space.validate(architecture) == architecture
            assert list(architecture) == list(space.choices)

    def test_samples_are_reproducible_and_uniform(self, space):
        first, again = ([space.sample(random.Random(3)) for _ in range(2)] for _ in range(2))
        assert first == again
        generator = random.Random(0)
        drawn = [space.sample(generator) for _ in range(2000)]
        for name, choice in space.choices.items():
            share = 1 / len(choice.values)
            for value in choice.values:
                frequency = sum(a[name] == value for a in drawn) / 2000
                assert abs(frequency - share) < 5 * math.sqrt(share * (1 - share) / 2000)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_networks_map_images_to_logits(self, space, samples, shape):
        for architecture in samples[:4]:
            network = built(space, architecture, shape)
            for mode in (True, False):
                assert network.train(mode)(torch.rand(3, *shape)).shape == (3, 7)

    def test_networks_are_ordinary_modules_with_random_weights(self, space, samples):
        first, again, other = (built(space, samples[0], seed=seed) for seed in (0, 0, 1))
        assert isinstance(first, nn.Module)
        x = torch.rand(4, 1, 8, 8)
        assert torch.equal(first.eval()(x), again.eval()(x))
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))

    def test_gradients_reach_the_input_and_every_parameter_on_the_way(self, space, samples):
        forms = [space.canonical(architecture) for architecture in samples[:6]]
        # If cells have the operation `none`, the first architecture has no path from the image to the logits.
        for architecture in [space.at(0), *samples[:6], *forms]:
            network = built(space, architecture).train()
            x = torch.rand(8, 1, 8, 8, requires_grad=True)
            logits = network(x)
            logits.square().sum().backward()
            on_the_way, seeing, shown = flow(network)
            assert (x.grad is not None and bool((x.grad != 0).any())) == shown, architecture
            assert {n for n, p in network.named_parameters() if p.grad is not None} == on_the_way, architecture
            # The gradient of a parameter may be zero only if there is no path from the image to the parameter.
            dead = {n for n, p in network.named_parameters() if n in seeing and not (p.grad != 0).any()}
            assert not dead, architecture

    def test_logits_of_an_image_do_not_depend_on_the_batch(self, space, samples):
        x = torch.rand(9, 3, 12, 12)
        for architecture in samples[:6]:
            network = built(space, architecture, (3, 12, 12)).train()
            with torch.no_grad():
                network(torch.rand(16, 3, 12, 12))  # sets the statistics of batch norm
            network.eval()
            alone = torch.cat([network(image[None]) for image in x])
            assert torch.allclose(network(x), alone, atol=1e-5)
            assert torch.allclose(network(x.flip(0)).flip(0), alone, atol=1e-5)

    def test_canonical_form_is_an_architecture_and_its_own(self, space, samples):
        for architecture in samples:
            once = space.canonical(architecture)
            assert space.validate(once) == once
            assert space.canonical(once) == once
            assert list(once) == list(space.choices)

    def test_keys_are_equal_if_and_only_if_canonical_forms_are(self, space):
        generator = random.Random(1)
        drawn = [space.sample(generator) for _ in range(150)]
        by_key, by_form = {}, {}
        for architecture in drawn:
            key, form = space.key(architecture), json.dumps(space.canonical(architecture))
            assert re.fullmatch("[0-9a-f]{12}", key)
            assert by_key.setdefault(key, form) == form
            assert by_form.setdefault(form, key) == key

    def test_key_does_not_depend_on_the_stored_order(self, space, samples):
        for architecture in samples:
            turned = dict(reversed(architecture.items()))
            assert space.key(space.validate(turned)) == space.key(architecture)

    def test_indices_number_the_space_in_order(self, space):
        names = list(space.choices)
        last = [values.values[-1] for values in space.choices.values()]
        assert space.at(0) == {name: space.choices[name].values[0] for name in names}
        assert list(space.at(space.size - 1).values()) == last
        generator = random.Random(0)
        for index in (generator.randrange(space.size) for _ in range(50)):
            architecture, expected = space.at(index), 0
            assert list(architecture) == names
            for name, choice in space.choices.items():
                expected = expected * len(choice.values) + choice.values.index(architecture[name])
            assert expected == index

    def test_index_is_the_inverse_of_at(self, space, samples):
        for architecture in samples:
            index = space.index(architecture)
            assert 0 <= index < space.size
            assert space.at(index) == architecture
            assert space.index(dict(reversed(architecture.items()))) == index
        for index in {0, 1, space.size // 2, space.size - 1}:
            assert space.index(space.at(index)) == index

    def test_neighbours_are_all_that_differ_in_one_choice(self, space, samples):
        for architecture in samples[:3]:
            neighbours = list(space.neighbours(architecture))
            assert len(neighbours) == sum(len(choice.values) - 1 for choice in space.choices.values())
            assert len({json.dumps(neighbour) for neighbour in neighbours}) == len(neighbours)
            for neighbour in neighbours:
                assert space.validate(neighbour) == neighbour
                assert len(differing(neighbour, architecture)) == 1

    def test_mutations_compute_something_else_and_are_neighbours(self, space):
        generator = random.Random(0)
        architecture = space.sample(generator)
        for _ in range(50):
            mutated = space.mutate(architecture, generator)
            assert space.validate(mutated) == mutated
            assert space.key(mutated) != space.key(architecture)
            # In all built-in spaces, one or two changed choices are enough for another function.
            assert 1 <= len(differing(mutated, architecture)) <= 2
            architecture = mutated
        first, again = ([space.mutate(architecture, random.Random(7)) for _ in range(2)] for _ in range(2))
        assert first == again

    def test_crossovers_take_each_value_from_a_parent_evenly(self, space, samples):
        first, second = max(((a, b) for a in samples for b in samples), key=lambda pair: len(differing(*pair)))
        assert space.crossover(first, first, random.Random(0)) == first
        children = [space.crossover(first, second, random.Random(seed)) for seed in range(300)]
        assert children == [space.crossover(first, second, random.Random(seed)) for seed in range(300)]
        for child in children:
            assert space.validate(child) == child
            assert all(child[name] in (first[name], second[name]) for name in space.choices)
        for name in differing(first, second):
            share = sum(child[name] == first[name] for child in children) / 300
            assert abs(share - 0.5) < 5 * math.sqrt(0.25 / 300)

    def test_crossover_refuses_a_parent_of_another_space(self, space, samples):
        with pytest.raises(ValueError, match="missing"):
            space.crossover({}, samples[0], random.Random(0))
        with pytest.raises(ValueError, match="missing"):
            space.crossover(samples[0], {}, random.Random(0))

    def test_enumeration_follows_the_indices(self, space):
        for index, architecture in zip(range(100), space.enumerate(), strict=False):
            assert architecture == space.at(index)

    def test_indices_outside_are_refused(self, space):
        for index in (-1, space.size):
            with pytest.raises(IndexError, match=f"^index must be from 0 to {space.size - 1}, got {index}$"):
                space.at(index)

    def test_stored_architectures_come_back(self, space, samples):
        for architecture in samples:
            assert space.validate(json.loads(json.dumps(architecture))) == architecture
            assert space.validate(yaml.safe_load(yaml.safe_dump(architecture))) == architecture

    def test_a_fixed_trial_replays_an_architecture(self, space, samples):
        for architecture in samples:
            assert space.suggest(optuna.trial.FixedTrial(architecture)) == architecture

    def test_whatever_has_the_method_can_suggest(self, space):
        asked = {}

        def suggest_categorical(name, choices):
            asked[name] = choices
            return choices[-1]

        architecture = space.suggest(SimpleNamespace(suggest_categorical=suggest_categorical))
        assert asked == {name: choice.values for name, choice in space.choices.items()}
        assert list(architecture.values()) == [choice.values[-1] for choice in space.choices.values()]

    def test_drawing_is_a_figure_that_can_be_saved(self, space, samples, tmp_path):
        for number, architecture in enumerate(samples[:2]):
            figure = space.draw(architecture)
            assert isinstance(figure, Figure)
            for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
                figure.savefig(tmp_path / f"{number}.{kind}")
                assert (tmp_path / f"{number}.{kind}").read_bytes().startswith(start)


class TestCell201(SpaceContract):
    @pytest.fixture(params=[(4, 1, 1), (4, 1, 2), (3, 2, 3)], ids=str)
    def space(self, request):
        return cell201(*request.param)


class TestDARTS(SpaceContract):
    @pytest.fixture
    def space(self):
        return darts(4, 3)


class TestNASNet(SpaceContract):
    @pytest.fixture
    def space(self):
        return nasnet(4, 1, 2)


class TestRobNet(SpaceContract):
    @pytest.fixture(params=[True, False], ids=["shared", "free"])
    def space(self, request):
        return robnet(4, 3, request.param)


def channel_wise(channels, stride):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.Tanh())


class TestCustomCells(SpaceContract):
    """A cell space with a custom operation and with the settings that the other spaces do not use."""

    @pytest.fixture(params=["shared", "normal_reduction", "each"])
    def space(self, request):
        inputs, topology, output = {
            "shared": (1, "two_inputs", "unused"),
            "normal_reduction": (1, "all_pairs", "last"),
            "each": (2, [(0, 2), (1, 2), (0, 3), (2, 3), (1, 4), (3, 4)], "last"),
        }[request.param]
        return cell_space(
            "mine",
            nodes=4,
            inputs=inputs,
            topology=topology,
            output=output,
            operations=["none", channel_wise, "skip+groupconv3x3", "blurpool3x3", "maxpool5x5"],
            cells=request.param,
            channels=4,
            cells_per_stage=1,
            stages=2,
        )


class TestMacro(SpaceContract):
    @pytest.fixture(params=[1, 3])
    def space(self, request):
        return macro(request.param)

    @pytest.fixture
    def samples(self, space):
        """Samples of narrow networks, because the widest networks of this space need gigabytes."""
        generator = random.Random(0)
        drawn = [space.sample(generator) for _ in range(12)]
        return [a | {name: min(a[name], 20) for name in a if re.fullmatch(r"width\d", name)} for a in drawn]


class TestMLP(SpaceContract):
    @pytest.fixture(params=[1, 3])
    def space(self, request):
        return mlp(request.param)


class TestCustomSpace(SpaceContract):
    @pytest.fixture
    def space(self):
        def build(architecture, input_shape, num_classes):
            layers = [nn.Flatten(), nn.Linear(math.prod(input_shape), architecture["width"])]
            if architecture["act"] is not None:
                layers.append({"relu": nn.ReLU, "tanh": nn.Tanh}[architecture["act"]]())
            return nn.Sequential(*layers, nn.Linear(architecture["width"], num_classes, bias=architecture["bias"]))

        choices = {
            "width": Choice(16, 20, 24),
            "act": Choice(None, "relu", "tanh"),
            "bias": Choice(True, False),
            "rate": Choice(0.5, 1.0),
        }
        return SearchSpace(
            name="mine",
            choices=choices,
            build=build,
            canonical=lambda a: {**{name: a[name] for name in choices}, "rate": 0.5},
            draw=lambda a: Figure(),
        )


def test_names():
    assert list(SPACES.values()) == [cell201, darts, nasnet, robnet, macro, mlp, cell_space]
    assert {name: make().name for name, make in SPACES.items()} == {name: name for name in SPACES}


def switches(**changes):
    """Returns a space of two switches. They have an effect only if both are on."""
    return SearchSpace(
        name="switches",
        choices={"a": Choice(0, 1), "b": Choice(0, 1)},
        build=None,
        canonical=changes.get("canonical", lambda a: dict(a) if a["a"] and a["b"] else {"a": 0, "b": 0}),
    )


class TestMutate:
    def test_if_all_neighbours_compute_the_same_the_search_continues_from_them(self):
        for seed in range(20):
            assert switches().mutate({"a": 0, "b": 0}, random.Random(seed)) == {"a": 1, "b": 1}
        indices = {switches().index(switches().mutate({"a": 1, "b": 1}, random.Random(seed))) for seed in range(40)}
        assert indices == {1, 2}

    def test_neighbours_that_compute_something_else_are_drawn_uniformly(self):
        # The last of four choices has no effect, so five of six neighbours remain.
        space = SearchSpace(
            name="s",
            choices={"a": Choice(1, 2, 3), "b": Choice(None, "x", "y"), "c": Choice(True, False), "d": Choice(0.5, 1.0)},
            build=None,
            canonical=lambda a: {**a, "d": 0.5},
        )
        architecture, generator = space.at(0), random.Random(0)
        drawn = [json.dumps(space.mutate(architecture, generator)) for _ in range(2000)]
        wanted = [json.dumps(n) for n in space.neighbours(architecture) if n["d"] == 0.5]
        assert set(drawn) == set(wanted)
        assert len(wanted) == 5
        for neighbour in wanted:
            assert abs(drawn.count(neighbour) / 2000 - 0.2) < 5 * math.sqrt(0.16 / 2000)

    def test_mutation_in_a_space_of_one_function_is_refused(self):
        space = switches(canonical=lambda a: {"a": 0, "b": 0})
        message = "switches.* same function.* mutate"
        for architecture in space.enumerate():
            with pytest.raises(ValueError, match=message):
                space.mutate(architecture, random.Random(0))


def test_values_of_other_types_are_other_neighbours():
    space = SearchSpace(name="s", choices={"a": Choice(1, 1.0, True, 2)}, build=None)
    assert [repr(n["a"]) for n in space.neighbours({"a": 1})] == ["1.0", "True", "2"]
    assert [space.index(a) for a in space.enumerate()] == [0, 1, 2, 3]


def test_canonical_form_of_a_space_without_one_is_the_architecture():
    space = SearchSpace(name="s", choices={"a": Choice(1, 2)}, build=None)
    assert space.canonical({"a": 1}) == {"a": 1}
    assert space.key({"a": 1}) != space.key({"a": 2})
    assert space.draw is None


def test_keys_of_spaces_of_other_names_and_values_of_other_types_differ():
    spaces = [SearchSpace(name=name, choices={"a": Choice(1, 1.0, True, "1")}, build=None) for name in ("s", "t")]
    assert len({space.key(a) for space in spaces for a in space.enumerate()}) == 8


class TestChoice:
    def test_values_are_kept_in_order(self):
        assert Choice(3, "a", None, True, 0.5).values == (3, "a", None, True, 0.5)
        assert Choice(1) == Choice(1)

    def test_values_of_other_types_are_other_values(self):
        assert Choice(1, 1.0, True).values == (1, 1.0, True)

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ((), ValueError, "choice.* at least one value"),
            ((1, 2, 1), ValueError, r"choice.* once, got \(1, 2, 1\)$"),
            ((None, None), ValueError, "choice.* once"),
            (
                ([1],),
                TypeError,
                r"plain values \(str, int, float, bool, None\), got \[1\]",
            ),
            (((1, 2),), TypeError, r"plain values .*, got \(1, 2\); .*build$"),
            ((b"a",), TypeError, "plain values"),
            ((1.0, float("nan")), ValueError, "choice.* nan"),
            ((torch.tensor(1),), TypeError, "plain values"),
        ],
    )
    def test_what_cannot_be_chosen_is_refused(self, values, error, message):
        with pytest.raises(error, match=message):
            Choice(*values)


class TestTable:
    @pytest.mark.parametrize(
        ("choices", "error", "message"),
        [
            ({}, ValueError, "^s .*at least one choice"),
            ({"a": (1, 2)}, TypeError, r"^choice 'a' of s must be a Choice.*, got \(1, 2\)$"),
            ({3: Choice(1)}, TypeError, r"^choice 3 of s must be a Choice"),
            ([("a", Choice(1))], TypeError, "choices of s must be a mapping .*got"),
        ],
    )
    def test_what_is_no_table_is_refused(self, choices, error, message):
        with pytest.raises(error, match=message):
            SearchSpace(name="s", choices=choices, build=None)

    @pytest.mark.parametrize("method", ["index", "neighbours"])
    def test_what_is_no_architecture_is_refused(self, method):
        with pytest.raises(ValueError, match=r"cell201: choice 'edge01' is missing"):
            list(getattr(cell201(), method)({}))

    def test_not_all_faults_of_an_architecture_of_another_space_are_listed(self):
        with pytest.raises(ValueError, match=r"; and \d+ more$"):
            cell201().validate(dict.fromkeys("abcdefgh", 1))


class TestValidate:
    good = macro(1).at(0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dept1": 1}, r"unknown choice 'dept1'.* 'depth1'\?$"),
            ({"zzz": 1}, r"unknown choice 'zzz'$"),
            ({"depth1": 9}, r"'depth1' must be one of \[1, 2, 3, 4\], got 9$"),
            ({"depth1": "1"}, r"'depth1' must be one of \[1, 2, 3, 4\], got '1'$"),
            ({"depth1": 1.0}, r"'depth1' must be one of \[1, 2, 3, 4\], got 1\.0$"),
            ({"depth1": True}, r"'depth1' must be one of \[1, 2, 3, 4\], got True$"),
            ({"depth1": None}, r"'depth1' must be one of \[1, 2, 3, 4\], got None$"),
            ({"depth1": [1]}, r"'depth1' must be one of \[1, 2, 3, 4\], got \[1\]$"),
        ],
    )
    def test_faults_are_named(self, change, message):
        with pytest.raises(ValueError, match=f"macro: [^;]*{message}"):
            macro(1).validate(self.good | change)

    def test_all_faults_are_listed(self):
        with pytest.raises(ValueError, match="cell201") as error:
            cell201().validate({"edge01": "conv5x5", "edg02": "skip", "edge12": "none"})
        for part in (
            "unknown choice 'edg02'",
            "'edge02'?",
            "'edge01' must be one of ['none', 'skip', 'avgpool3x3', 'conv1x1', 'conv3x3'], got 'conv5x5'",
            "choice 'edge02' is missing",
            "choice 'edge03' is missing",
            "choice 'edge13' is missing",
            "choice 'edge23' is missing",
        ):
            assert part in str(error.value)
        assert str(error.value).count(";") == 6

    @pytest.mark.parametrize("name", [1, None])
    def test_names_that_are_no_strings_are_faults(self, name):
        with pytest.raises(ValueError, match=f"unknown choice '{name}'"):
            macro(1).validate(self.good | {name: 1})

    def test_order_is_that_of_the_table(self):
        assert list(macro(1).validate(dict(reversed(self.good.items())))) == list(self.good)
