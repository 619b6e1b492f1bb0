"""Checks of the choices: architectures can be stored, every value matters, and `build` uses every choice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import torch

from search_spaces.checks.space_under_test import CheckFailure, CheckHint, SpaceUnderTest, as_text
from search_spaces.space import Architecture, Value

# Number of architectures in which a choice is tested before it counts as unused. A choice may be inactive in most of them.
CANONICAL_TRIES = 50
BUILD_TRIES = 25
# Largest number of pairs of architectures that are compared to find that a canonical form is missing.
MOST_PAIRS = 60
# Function that returns a text for each architecture. The text identifies the canonical form or the network of the
# architecture; it is None if the form is invalid or the network does not run.
Fingerprints = Callable[[list[Architecture]], list[str | None]]


def round_trip(under_test: SpaceUnderTest) -> str:
    """Checks that architectures with every value of every choice survive writing and reading in each format."""
    start = under_test.samples[0]
    varied = [{**start, name: value} for name, choice in under_test.space.choices.items() for value in choice.values]
    for format_name, write_and_read in under_test.formats.items():
        for architecture in (*under_test.samples, *varied):
            try:
                restored = write_and_read(dict(architecture))
                if not isinstance(restored, Mapping):
                    raise TypeError(f"the value written is a mapping, the value read is {type(restored).__name__}")
                same = as_text(under_test.space.validate(restored)) == as_text(architecture)
            except Exception as error:
                line = next(iter(str(error).splitlines()), type(error).__name__)
                raise CheckFailure(f"an architecture does not survive {format_name}: {line}", architecture) from error
            if not same:
                raise CheckFailure(f"an architecture changes in {format_name}: {restored}", architecture)
    return f"{', '.join(under_test.formats)}; {len(under_test.samples)} architectures and each of {len(varied)} values"


def reachable(under_test: SpaceUnderTest) -> str:
    """Checks that every value of a choice changes the canonical form in at least one architecture."""
    return _check_every_value(
        under_test,
        lambda architectures: _canonical_texts(under_test, architectures),
        CANONICAL_TRIES,
        "never changes the canonical form; remove it or correct canonical",
        "always has the canonical form of another value; remove it or correct canonical",
    )


def used(under_test: SpaceUnderTest) -> str:
    """Checks that every value of a choice gives a different network in at least one architecture.

    Only architectures in which the canonical forms of the values differ are tested.
    """
    return _check_every_value(
        under_test,
        lambda architectures: _network_texts(under_test, architectures),
        BUILD_TRIES,
        "is not used by build: modules, weights and logits stay the same",
        "always builds the same network as another value; remove it or map it to that value in canonical",
        lambda architectures: _canonical_texts(under_test, architectures),
    )


def canonical_complete(under_test: SpaceUnderTest) -> str:
    """Looks for two values of a choice that give the same network in some architectures, but different canonical forms."""
    generator, pairs, equal = random.Random(under_test.seed), 0, dict[str, Architecture]()
    for architecture, (name, choice) in itertools.product(under_test.working_samples, under_test.space.choices.items()):
        if len(choice.values) == 1 or name in equal:
            continue
        pair: list[Architecture] = [{**architecture, name: value} for value in generator.sample(choice.values, 2)]
        forms = _canonical_texts(under_test, pair)
        if None in forms or forms[0] == forms[1]:
            continue
        texts = _network_texts(under_test, pair)
        if texts[0] == texts[1] and None not in texts:
            equal[name] = pair[0]
        pairs += 1
        if pairs == MOST_PAIRS:
            break
    if equal:
        raise CheckHint(
            f"a canonical form is missing: in some architectures {', '.join(map(repr, [*equal][:5]))} changes nothing; let "
            "canonical set it to its first value there, or the search trains equal networks",
            next(iter(equal.values())),
        )
    return f"{pairs} pairs of architectures"


def _check_every_value(
    under_test: SpaceUnderTest,
    fingerprints_of: Fingerprints,
    tries: int,
    choice_message: str,
    value_message: str,
    precondition: Fingerprints | None = None,
) -> str:
    """Searches, for each value of each choice, for an architecture in which no other value gives the same fingerprint.

    Args:
        under_test: The space.
        fingerprints_of: Function that returns the fingerprints of architectures that differ in one choice.
        tries: Number of random architectures for each choice.
        choice_message: Message for a choice of which no value makes a difference.
        value_message: Message for a value that makes no difference.
        precondition: Function that returns other fingerprints. Values for which these do not differ are skipped.

    Raises:
        CheckFailure: A value never makes a difference.
    """
    messages, example = [], None
    for name, choice in under_test.space.choices.items():
        indistinct, compared_in = _indistinct_values(under_test, name, fingerprints_of, tries, precondition)
        if indistinct:
            example = example or compared_in
        if len(indistinct) == len(choice.values):
            messages.append(f"choice {name!r} {choice_message}")
        else:
            messages += [f"value {value!r} of choice {name!r} {value_message}" for value in indistinct]
    if messages:
        raise CheckFailure(
            "; ".join(messages[:5]) + (f"; and {len(messages) - 5} more" if len(messages) > 5 else ""), example
        )
    values = sum(len(choice.values) for choice in under_test.space.choices.values())
    return f"{values} values of {len(under_test.space.choices)} choices"


def _indistinct_values(
    under_test: SpaceUnderTest, name: str, fingerprints_of: Fingerprints, tries: int, precondition: Fingerprints | None
) -> tuple[list[Value], Architecture | None]:
    """Returns the values of a choice that never make a difference, and an architecture in which they were compared."""
    values = under_test.space.choices[name].values
    indistinct, compared, example = set(range(len(values))), set[int](), None
    if len(values) == 1:  # A choice with one value has nothing to compare.
        return [], None
    generator = random.Random(under_test.seed)
    for _ in range(tries):
        architecture = under_test.space.sample(generator)
        varied: list[Architecture] = [{**architecture, name: value} for value in values]
        eligible = _unique(precondition(varied)) if precondition else set(range(len(values)))
        if indistinct & eligible:
            fingerprints = fingerprints_of(varied)
            if None not in fingerprints:
                compared |= eligible
                example = example or architecture
            indistinct -= _unique(fingerprints) & eligible
        if not indistinct:
            break
    return [values[index] for index in sorted(indistinct & compared)], example


def _unique(fingerprints: list[str | None]) -> set[int]:
    """Returns the indices of the fingerprints that occur exactly once."""
    return {index for index, text in enumerate(fingerprints) if text is not None and fingerprints.count(text) == 1}


def _canonical_texts(under_test: SpaceUnderTest, architectures: list[Architecture]) -> list[str | None]:
    """Returns the canonical form of each architecture as text; None if it is invalid."""
    return [under_test.canonical_key(architecture) for architecture in architectures]


def _network_texts(under_test: SpaceUnderTest, architectures: list[Architecture]) -> list[str | None]:
    """Returns the modules and shapes of each network as text. If two texts are equal, the logits are added to them."""
    shape = under_test.input_shapes[0]
    fingerprints: list[str | None] = []
    for architecture in architectures:
        try:
            network = under_test.build(architecture, shape)
            fingerprints.append(repr(network) + str([(name, tuple(t.shape)) for name, t in network.state_dict().items()]))
        except Exception:  # `builds` reports it.
            fingerprints.append(None)
    x, duplicates = (
        under_test.images(3, shape),
        [i for i, text in enumerate(fingerprints) if text is not None and fingerprints.count(text) > 1],
    )
    for index in duplicates:
        try:
            # All networks have the same seed, so an unused choice does not change the random weights.
            network = under_test.build(architectures[index], shape)
            with torch.no_grad():
                outputs = torch.cat([network.train(mode)(x.clone()) for mode in (False, True)])
        except Exception:  # `shapes` reports it, and also reports logits that are not finite.
            fingerprints[index] = None
        else:
            fingerprints[index] = f"{fingerprints[index]}{outputs.tolist()}" if bool(outputs.isfinite().all()) else None
    return fingerprints
