"""Checks of the parameters of networks: registered, not shared between networks, and trainable."""

from __future__ import annotations

from search_spaces.checks.space_under_test import CheckFailure, SpaceUnderTest, as_text


def registered_layers(under_test: SpaceUnderTest) -> str:
    """Checks that no layer or parameter is in a plain list, dict or object, where torch does not see it."""
    for architecture in under_test.running_samples:
        names = under_test.unregistered.get(as_text(architecture))
        if names:
            raise CheckFailure(
                f"{_first(names)} holds layers that are not registered, so they "
                "are neither trained nor saved; use nn.ModuleList, nn.ModuleDict or nn.Parameter",
                architecture,
            )
    return f"{len(under_test.running_samples)} networks"


def separate_parameters(under_test: SpaceUnderTest) -> str:
    """Checks that no two networks share parameters, whether they have the same architecture or not."""
    for architecture in under_test.running_samples:
        name = under_test.shared.get(as_text(architecture))
        if name is not None:
            raise CheckFailure(
                f"two calls of build return networks with the same parameter, {name}, so training one changes the other; "
                "create all layers within build",
                architecture,
            )
    return f"{2 * len(under_test.running_samples)} networks"


def trainable_parameters(under_test: SpaceUnderTest) -> str:
    """Checks that all floating-point parameters require gradients."""
    for architecture in under_test.working_samples:
        network = under_test.build(architecture, under_test.small_shape)
        names = [n for n, p in network.named_parameters() if p.is_floating_point() and not p.requires_grad]
        if names:
            raise CheckFailure(
                f"{_first(names)} does not require gradients, so it is not "
                "trained; remove requires_grad=False, or use register_buffer for fixed values",
                architecture,
            )
    return f"{len(under_test.working_samples)} networks"


def _first(names: list[str]) -> str:
    """Returns the first names as text."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
