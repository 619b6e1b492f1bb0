"""Checks of a space's choices: architectures can be stored, every value matters, and `build` heeds every choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch

from search_spaces.checks.space_under_test import CheckFailure, SpaceUnderTest, written
from search_spaces.space import Architecture, Value

# Architectures in which a choice is tried, before it is said that it never matters: it may be inactive in most.
TRIES = 50
BUILDS = 25
# Returns a text for each of some architectures; None where nothing can be said.
Tell = Callable[[list[Architecture]], list[str | None]]


def round_trip(subject: SpaceUnderTest) -> str:
    """Architectures, with every value of every choice, can be stored as text and read again."""
    start = subject.samples[0]
    values = [{**start, name: value} for name, choice in subject.space.choices.items() for value in choice.values]
    for kind, trip in subject.formats.items():
        for architecture in (*subject.samples, *values):
            try:
                found = trip(dict(architecture))
                if not isinstance(found, Mapping):
                    raise TypeError(f"a mapping was written, and {type(found).__name__} read")
                same = written(subject.space.validate(found)) == written(architecture)
            except Exception as error:
                line = next(iter(str(error).splitlines()), type(error).__name__)
                raise CheckFailure(f"an architecture does not survive {kind}: {line}", architecture) from error
            if not same:
                raise CheckFailure(f"an architecture comes out of {kind} as another one: {found}", architecture)
    return f"{', '.join(subject.formats)}; {len(subject.samples)} architectures and each of {len(values)} values"


def reachable(subject: SpaceUnderTest) -> str:
    """For every value of a choice there is an architecture whose canonical form no other value gives."""
    return _every_value(
        subject,
        lambda architectures: _forms(subject, architectures),
        TRIES,
        "never changes the canonical form; leave it out, or mend canonical",
        "has the canonical form of another value, always; leave it out, or mend canonical",
    )


def used(subject: SpaceUnderTest) -> str:
    """For every value of a choice there is an architecture in which it gives another network than all other values do.

    Only architectures are tried in which the canonical form tells the values apart.
    """
    return _every_value(
        subject,
        lambda architectures: _networks(subject, architectures),
        BUILDS,
        "is not used by build: modules, weights and logits stay the same",
        "builds the same network as another value, always; leave it out, or let canonical replace it",
        lambda architectures: _forms(subject, architectures),
    )


def _every_value(
    subject: SpaceUnderTest,
    tell: Tell,
    tries: int,
    whole: str,
    one: str,
    precondition: Tell | None = None,
) -> str:
    """Looks for an architecture for each value of each choice in which what is told of it differs from all other values.

    Args:
        subject: The space.
        tell: Returns what is compared, of the architectures that differ in one choice.
        tries: In how many architectures.
        whole: What is said of a choice of which no value makes a difference.
        one: What is said of a value that makes none.
        precondition: Likewise; only values for which this differs are judged.
    """
    faults, example = [], None
    for name, choice in subject.space.choices.items():
        left, judged_in = _left(subject, name, tell, tries, precondition)
        if left:
            example = example or judged_in
        if len(left) == len(choice.values):
            faults.append(f"choice {name!r} {whole}")
        else:
            faults += [f"value {value!r} of choice {name!r} {one}" for value in left]
    if faults:
        raise CheckFailure("; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""), example)
    values = sum(len(choice.values) for choice in subject.space.choices.values())
    return f"{values} values of {len(subject.space.choices)} choices"


def _left(
    subject: SpaceUnderTest, name: str, tell: Tell, tries: int, precondition: Tell | None
) -> tuple[list[Value], Architecture | None]:
    """Returns the values of a choice that never make a difference, and an architecture in which they were judged."""
    values = subject.space.choices[name].values
    left, judged, example = set(range(len(values))), set[int](), None
    if len(values) == 1:  # It is fixed: there is no other.
        return [], None
    generator = random.Random(subject.seed)
    for _ in range(tries):
        architecture = subject.space.sample(generator)
        varied: list[Architecture] = [{**architecture, name: value} for value in values]
        able = _unique(precondition(varied)) if precondition else set(range(len(values)))
        if left & able:
            told = tell(varied)
            if None not in told:
                judged |= able
                example = example or architecture
            left -= _unique(told) & able
        if not left:
            break
    return [values[index] for index in sorted(left & judged)], example


def _unique(told: list[str | None]) -> set[int]:
    """Returns the places of what is told once only."""
    return {index for index, text in enumerate(told) if text is not None and told.count(text) == 1}


def _forms(subject: SpaceUnderTest, architectures: list[Architecture]) -> list[str | None]:
    """Returns the canonical form of each architecture, as text."""
    return [subject.key(architecture) for architecture in architectures]


def _networks(subject: SpaceUnderTest, architectures: list[Architecture]) -> list[str | None]:
    """Returns a text for each network: its modules and shapes, and where these are those of another, its logits, too."""
    shape = subject.shapes[0]
    told: list[str | None] = []
    for architecture in architectures:
        try:
            network = subject.build(architecture, shape)
            told.append(repr(network) + str([(name, tuple(t.shape)) for name, t in network.state_dict().items()]))
        except Exception:  # `builds` tells of it.
            told.append(None)
    x, alike = subject.images(3, shape), [i for i, text in enumerate(told) if text is not None and told.count(text) > 1]
    for index in alike:
        try:
            # The seed is that of the others: what is not used makes no difference, not even to what is drawn.
            network = subject.build(architectures[index], shape)
            with torch.no_grad():
                outputs = torch.cat([network.train(mode)(x.clone()) for mode in (False, True)])
        except Exception:  # `shapes` tells of it, and of what is not finite.
            told[index] = None
        else:
            told[index] = f"{told[index]}{outputs.tolist()}" if bool(outputs.isfinite().all()) else None
    return told
