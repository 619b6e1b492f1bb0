"""The options of each of several networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.analysis.network_source import NetworkSource
from nas.analysis.networks.library import is_library
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.networks.paths import expand_path
from nas.bundle.manifest import is_bundle
from nas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.analysis.network_source import Openable


def options_of_each(
    networks: Sequence[Openable], options: NetworkOptions | Sequence[NetworkOptions]
) -> list[NetworkOptions]:
    """Returns the options of each network.

    One `NetworkOptions` applies to all networks that are not open yet. If there are other networks, bundles are left out,
    because they adapt their input themselves. Its weights apply to the models of torchvision and timm.

    Args:
        networks: Networks, as for `open_source`.
        options: One for all, or one for each network.

    Raises:
        ConfigError: there are several options, but not one for each network.
    """
    if not isinstance(options, NetworkOptions):
        if len(options) != len(networks):
            raise ConfigError(
                [f"options must be one, or one for each network: {len(networks)} networks, {len(options)} options"]
            )
        return list(options)
    bundles = [_is_named(network) and is_bundle(expand_path(str(network))) for network in networks]
    closed = [not isinstance(network, NetworkSource) for network in networks]
    adapted = [
        options if is_closed and not (is_one and not all(bundles)) else NetworkOptions()
        for is_one, is_closed in zip(bundles, closed, strict=True)
    ]
    models = [_is_named(network) and is_library(str(network)) for network in networks]
    if not any(models):
        return adapted
    return [one if is_model else replace(one, weights=None) for is_model, one in zip(models, adapted, strict=True)]


def options_with_weights(networks: Sequence[str], options: NetworkOptions, weights: Sequence[str]) -> list[NetworkOptions]:
    """Returns the options of each network, with one file of weights for each model of torchvision and timm, in their order.

    Args:
        networks: Names of the networks, as for `open_source`.
        options: Options of all networks, as for `options_of_each`.
        weights: Files of weights.

    Raises:
        ConfigError: the number of files differs from the number of models.
    """
    models = [network for network in networks if is_library(network)]
    if len(weights) > len(models) or (models and 0 < len(weights) < len(models)):
        rule = "--weights must be given once for each torchvision:MODEL and timm:MODEL, in their order"
        remedy = "" if models else "; other networks have their own weights"
        raise ConfigError([f"{rule}: {len(models)} models, {len(weights)} files{remedy}"])
    left = iter(weights)
    each = options_of_each(networks, options)
    return [
        replace(one, weights=Path(file)) if is_library(network) and (file := next(left, None)) is not None else one
        for network, one in zip(networks, each, strict=True)
    ]


def _is_named(network: Openable) -> bool:
    return isinstance(network, str | Path)
