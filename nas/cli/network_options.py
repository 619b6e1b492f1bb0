"""Options of how networks are opened, shared by `hardcell profile`, `compare` and `surface`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypedDict, final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nas.analysis.network_source import NetworkSource
    from nas.analysis.networks.options import NetworkOptions


@final
class NetworkArguments(TypedDict):
    """Unparsed options of how networks are opened; None or () for an option that is not given.

    Attributes:
        output: `NetworkOptions.output`.
        mean: One number, or numbers separated by commas or spaces.
        std: As for mean.
        resize: `NetworkOptions.resize`.
        weights: A file for each model of torchvision and timm, in their order.
    """

    output: str | None
    mean: str | None
    std: str | None
    resize: int | None
    weights: tuple[str, ...]


def network_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --output, --mean, --std, --resize and --weights to a command, which gets them as its argument `opening`."""

    @functools.wraps(command)
    def with_options(
        output: str | None, mean: str | None, std: str | None, resize: int | None, weights: tuple[str, ...], **others: Any
    ) -> None:
        opening = NetworkArguments(output=output, mean=mean, std=std, resize=resize, weights=weights)
        command(opening=opening, **others)

    decorated = with_options
    for option in (
        click.option(
            "--weights",
            multiple=True,
            metavar="FILE",
            help="Weights of torchvision:MODEL or timm:MODEL: .safetensors, or a state dict of torch.save. Repeatable, one "
            "for each such model, in their order.",
        ),
        click.option(
            "--resize",
            type=int,
            metavar="N",
            help="Resize the images to N x N pixels inside the network, before normalisation. Attacks work in the pixels of "
            "the data.",
        ),
        click.option("--std", metavar="S", help="Divide by S inside the network, after --mean; as for --mean."),
        click.option(
            "--mean",
            metavar="M",
            help="Subtract M inside the network, in pixel units: one number, or one per channel, such as 0.485,0.456,0.406.",
        ),
        click.option(
            "--output",
            metavar="NAME",
            help="Part of the network's output that holds the logits: a key, an attribute or an index. Bundles refuse "
            "--output, --mean, --std and --resize; beside other networks, bundles stay unchanged.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def parse_network_options(arguments: NetworkArguments, networks: Sequence[str]) -> list[NetworkOptions]:
    """Returns the options of each network.

    Args:
        arguments: Options of the command.
        networks: Names of the networks, as for `open_source`.

    Raises:
        ConfigError: an option is not valid, or the number of files of weights differs from the number of models.
    """
    from nas.analysis.networks.options import NetworkOptions
    from nas.analysis.several_networks import options_with_weights
    from nas.errors import ConfigError
    from nas.validation import ValidationError

    try:
        options = NetworkOptions(
            output=arguments["output"],
            mean=_numbers("--mean", arguments["mean"]),
            std=_numbers("--std", arguments["std"]),
            resize=arguments["resize"],
        )
    except ValidationError as error:
        raise ConfigError([f"--{key} {message}" for key, message in error.faults]) from error
    return options_with_weights(networks, options, arguments["weights"])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Returns the numbers of --mean or --std; fractions such as 127.5/255 are numbers too.

    Raises:
        ConfigError: the text holds something else.
    """
    from nas.errors import ConfigError

    if text is None:
        return None
    numbers = []
    for word in text.strip("[]() ").replace(",", " ").split():
        value, slash, divisor = word.partition("/")
        try:
            numbers.append(float(value) / (float(divisor) if slash else 1.0))
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                [f"{option} must be numbers separated by commas, such as 0.485,0.456,0.406, got {text!r}"]
            ) from error
    return tuple(numbers)


def print_missing_gradients(sources: Sequence[NetworkSource]) -> None:
    """Prints a line to the standard error stream for each network without gradients, with the reason."""
    from evaluators.engine.scores_only import why_no_gradients
    from nas.errors import printable

    for source in sources:
        if (reason := why_no_gradients(source.network)) is not None:
            click.echo(printable(f"{source.name}: no gradients, only attacks on scores: {reason}"), err=True)
