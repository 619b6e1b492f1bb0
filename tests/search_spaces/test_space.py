"""The contract that every search space keeps, and the messages of the table."""

import json
import math
import random
import re
from types import SimpleNamespace

import optuna
import pytest
import torch
import yaml
from torch import nn

from search_spaces import SPACES, Choice, SearchSpace, cell201, macro

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


def reaches(architecture):
    """Returns whether a path leads from the input to the output of a cell; a macro network is one path."""
    if "edge01" not in architecture:
        return True
    alive = {0}
    for edge in ("edge01", "edge02", "edge12", "edge03", "edge13", "edge23"):
        i, j = int(edge[4]), int(edge[5])
        if i in alive and architecture[edge] != "none":
            alive.add(j)
    return 3 in alive


class SpaceContract:
    """What holds for every space; a subclass has a fixture `space`."""

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
                found = sum(a[name] == value for a in drawn) / 2000
                assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / 2000)

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
        for architecture in samples:
            network = built(space, architecture).train()
            x = torch.rand(8, 1, 8, 8, requires_grad=True)
            network(x).square().sum().backward()
            assert (x.grad is not None and bool((x.grad != 0).any())) == reaches(architecture), architecture
            # Edges into dead ends are on no way to the logits.
            off = {n for n, p in network.named_parameters() if p.grad is None}
            assert all("edges" in name for name in off)
            if "edge01" not in architecture:
                assert not off
                assert all((p.grad != 0).any() for p in network.parameters())

    def test_logits_of_an_image_do_not_depend_on_the_batch(self, space, samples):
        x = torch.rand(9, 3, 12, 12)
        for architecture in samples[:6]:
            network = built(space, architecture, (3, 12, 12)).train()
            with torch.no_grad():
                network(torch.rand(16, 3, 12, 12))  # batch norm's statistics are those of images
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

    def test_keys_are_equal_where_canonical_forms_are(self, space):
        generator = random.Random(1)
        drawn = [space.sample(generator) for _ in range(300)]
        by_key, by_form = {}, {}
        for architecture in drawn:
            key, form = space.key(architecture), json.dumps(space.canonical(architecture))
            assert re.fullmatch("[0-9a-f]{12}", key)
            assert by_key.setdefault(key, form) == form
            assert by_form.setdefault(form, key) == key

    def test_key_does_not_depend_on_the_order_of_what_was_stored(self, space, samples):
        for architecture in samples:
            turned = dict(reversed(architecture.items()))
            assert space.key(space.validate(turned)) == space.key(architecture)

    def test_indices_number_the_space_in_order(self, space):
        names = list(space.choices)
        last = [values.values[-1] for values in space.choices.values()]
        assert space.at(0) == {name: space.choices[name].values[0] for name in names}
        assert list(space.at(space.size - 1).values()) == last
        for index in random.Random(0).sample(range(space.size), min(space.size, 50)):
            architecture, expected = space.at(index), 0
            assert list(architecture) == names
            for name, choice in space.choices.items():
                expected = expected * len(choice.values) + choice.values.index(architecture[name])
            assert expected == index

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

        found = space.suggest(SimpleNamespace(suggest_categorical=suggest_categorical))
        assert asked == {name: choice.values for name, choice in space.choices.items()}
        assert list(found.values()) == [choice.values[-1] for choice in space.choices.values()]

    def test_drawing_is_text(self, space, samples):
        for architecture in samples:
            assert space.draw(architecture).startswith("<svg ")


class TestCell201(SpaceContract):
    @pytest.fixture(params=[(4, 1, 1), (4, 1, 2), (3, 2, 3)], ids=str)
    def space(self, request):
        return cell201(*request.param)


class TestMacro(SpaceContract):
    @pytest.fixture(params=[1, 2, 3])
    def space(self, request):
        return macro(request.param)


class TestSpaceOfOnesOwn(SpaceContract):
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
            draw=lambda a: "<svg />",
        )


def test_names():
    assert {"cell201": cell201, "macro": macro} == SPACES
    assert {name: make().name for name, make in SPACES.items()} == {name: name for name in SPACES}


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
            ((), ValueError, "^a choice must hold at least one value$"),
            ((1, 2, 1), ValueError, r"^a choice must hold each value once, got \(1, 2, 1\)$"),
            ((None, None), ValueError, "each value once"),
            (([1],), TypeError, r"^a choice must hold plain values \(str, int, float, bool, None\), got \[1\]$"),
            (((1, 2),), TypeError, r"plain values .*, got \(1, 2\)$"),
            ((b"a",), TypeError, "plain values"),
            ((torch.tensor(1),), TypeError, "plain values"),
        ],
    )
    def test_what_cannot_be_chosen_is_refused(self, values, error, message):
        with pytest.raises(error, match=message):
            Choice(*values)


class TestValidate:
    good = macro(1).at(0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dept1": 1}, "unknown choice 'dept1'; did you mean 'depth1'?"),
            ({"zzz": 1}, "unknown choice 'zzz'"),
            ({"depth1": 9}, "choice 'depth1' must be one of [1, 2, 3, 4], got 9"),
            ({"depth1": "1"}, "choice 'depth1' must be one of [1, 2, 3, 4], got '1'"),
            ({"depth1": 1.0}, "choice 'depth1' must be one of [1, 2, 3, 4], got 1.0"),
            ({"depth1": True}, "choice 'depth1' must be one of [1, 2, 3, 4], got True"),
            ({"depth1": None}, "choice 'depth1' must be one of [1, 2, 3, 4], got None"),
            ({"depth1": [1]}, "choice 'depth1' must be one of [1, 2, 3, 4], got [1]"),
        ],
    )
    def test_faults_are_named(self, change, message):
        with pytest.raises(ValueError, match="^" + re.escape(f"not an architecture of macro: {message}") + "$"):
            macro(1).validate(self.good | change)

    def test_all_faults_are_listed(self):
        with pytest.raises(ValueError, match=r"^not an architecture of cell201: ") as error:
            cell201().validate({"edge01": "conv5x5", "edg02": "skip", "edge12": "none"})
        for part in (
            "unknown choice 'edg02'; did you mean 'edge02'?",
            "choice 'edge01' must be one of ['none', 'skip', 'avgpool3x3', 'conv1x1', 'conv3x3'], got 'conv5x5'",
            "choice 'edge02' is missing",
            "choice 'edge03' is missing",
            "choice 'edge13' is missing",
            "choice 'edge23' is missing",
        ):
            assert part in str(error.value)
        assert str(error.value).count(";") == 6

    @pytest.mark.parametrize("name", [1, None])
    def test_names_that_are_no_text_are_faults(self, name):
        with pytest.raises(ValueError, match=f"unknown choice '{name}'"):
            macro(1).validate(self.good | {name: 1})

    def test_order_is_that_of_the_table(self):
        assert list(macro(1).validate(dict(reversed(self.good.items())))) == list(self.good)
