"""Data card of a table: recipe, hardware, images, and how far its numbers can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import yaml
from scipy import stats

from nas.config.writer import as_data
from nas.errors import RunError
from nas.evaluation.train_and_tabulate import TEST
from nas.files import read_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from nas.config.schema import Config
    from nas.tables.folder import TableFolder
    from nas.tables.measurements import Measurement

ERROR = "adversarial_error"
# Fewest pairs of numbers for a correlation.
FEWEST = 3


def write_card(folder: TableFolder, config: Config, measurements: Sequence[Measurement]) -> None:
    """Writes the data card of a table as Markdown.

    Args:
        folder: Folder of the table, with its environment.
        config: Settings with which the table was made.
        measurements: The rows, at least one of them complete.
    """
    write_atomic(folder.card, card_text(config, _environment(folder), measurements))


def card_text(config: Config, environment: dict[str, Any], measurements: Sequence[Measurement]) -> str:
    """Returns the data card as Markdown text.

    Args:
        config: Settings with which the table was made.
        environment: Content of environment.json.
        measurements: The rows, at least one of them complete.
    """
    complete = [m for m in measurements if m.state == "complete"]
    states = Counter(m.state for m in measurements)
    several = sum(count > 1 for count in Counter(m.key for m in complete).values())
    hours, seconds = sum(m.seconds for m in measurements) / 3600, np.median([m.seconds for m in complete])
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    hashes = ", ".join(f"{name} `{digest}`" for name, digest in environment["data"].items())
    recipe = yaml.safe_dump({name: as_data(getattr(config, name)) for name in ("data", "space", "training", "evaluation")})
    epsilons = ", ".join(f"{epsilon:g}" for epsilon in config.evaluation.grid())
    return f"""# {config.space.name} on {config.data.name}

{len(measurements):,} trainings of {len({m.key for m in measurements}):,} architectures that differ. {several:,} of these
architectures have several seeds. {states["complete"]:,} trainings are complete, {states["infeasible"]:,} networks have no
path from the image to the logits, and {states["failed"]:,} trainings failed. The architectures are in the order of random
draws from all architectures of the space, so one with many equivalent forms tends to come early.

Errors are shares of images, at the epsilons {epsilons} in {config.norm}; `{ERROR}` without a number is at
{config.evaluation.epsilon:g}. Columns with `[E]` are errors after epoch E, of the averaged weights if `training.average` is
true, under the attack `training.selection`; if it fails at {config.evaluation.epsilon:g}, it counts as failed below. Columns
without it are errors of the trained network, under the attacks of `evaluation`, measured as in a search. Columns with
`{TEST}` are of the test split, all others of the validation split.

## How far the numbers can be trusted

{_trust(complete)}

## How they were made

{hours:.1f} hours of measurement in all, and {seconds:.1f} s a row (median). Last on: {environment["processor"]}; device:
{environment["device"]}; CPU threads of each training: {environment["threads"]}. Python {environment["python"]},
{versions}.
Hashes of the images: {hashes}. Seed {config.seed}.

```yaml
{recipe.rstrip()}
```
"""


def _environment(folder: TableFolder) -> dict[str, Any]:
    try:
        return dict(read_json(folder.run.environment))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{folder.run.environment}: {error}") from error


def _trust(complete: Sequence[Measurement]) -> str:
    """Returns a table of correlations of the adversarial error, and its standard deviation over seeds, as Markdown."""
    final, test = [m.metrics[ERROR] for m in complete], TEST + ERROR
    rows = {"validation and test, same training": (final, [m.metrics[test] for m in complete])}
    two_seeds = _two_seeds(complete, ERROR)
    rows |= {"two seeds, validation": two_seeds, "two seeds, test": _two_seeds(complete, test)}
    for epoch in range(min(len(m.epochs) for m in complete)):
        at_epoch = [m.epochs[epoch][ERROR] for m in complete]
        rows[f"after epoch {epoch + 1} and at the end, validation"] = (at_epoch, final)
    lines = ["| adversarial errors that are compared | pairs | Spearman | Kendall |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {len(first):,} | {_correlations(first, second)} |" for name, (first, second) in rows.items()]
    if len(two_seeds[0]) >= FEWEST:
        groups = [errors for errors in _by_architecture(complete, ERROR) if len(errors) > 1]
        degrees = sum(len(errors) - 1 for errors in groups)
        of_seeds = math.sqrt(sum((len(errors) - 1) * np.var(errors, ddof=1) for errors in groups) / degrees)
        of_rows = np.std(final, ddof=1)
        lines += ["", f"Standard deviation on validation: {of_seeds:.4f} over seeds, {of_rows:.4f} over all rows."]
    return "\n".join(lines)


def _by_architecture(complete: Sequence[Measurement], name: str) -> list[list[float]]:
    """Returns a number of all trainings of each architecture, ordered by seed."""
    by_key: dict[str, list[float]] = {}
    for m in sorted(complete, key=lambda m: m.seed):
        by_key.setdefault(m.key, []).append(m.metrics[name])
    return list(by_key.values())


def _two_seeds(complete: Sequence[Measurement], name: str) -> tuple[list[float], list[float]]:
    """Returns a number of the first two trainings of each architecture that has two."""
    pairs = [values for values in _by_architecture(complete, name) if len(values) > 1]
    return [values[0] for values in pairs], [values[1] for values in pairs]


def _correlations(first: Sequence[float], second: Sequence[float]) -> str:
    """Returns Spearman's and Kendall's correlation as cells, with dashes if there are too few or constant numbers."""
    if len(first) < FEWEST or len(set(first)) < 2 or len(set(second)) < 2:
        return "- | -"
    return f"{stats.spearmanr(first, second).statistic:.3f} | {stats.kendalltau(first, second).statistic:.3f}"
