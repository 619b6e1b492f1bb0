"""Response surfaces of one test image: planes, lines and their crossings, and what lies around the adversarial image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evaluators.bounds import NoBound, provable_radii
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_epsilons
from evaluators.engine.prepared import predict
from evaluators.regions import Sampling, ball_shares
from evaluators.regions.sampling import affordable_samples
from evaluators.surface.directions import adversarial_direction, aimed, random_direction
from evaluators.surface.lines import Segment, boundary_line
from evaluators.surface.planes import Plane, plane_along, plane_through, response_surface, window
from nas.analysis.fit import check_compatible
from nas.analysis.network_source import open_source
from nas.analysis.surface.result import Endpoint, ImageSurfaces, Neighbourhood
from nas.data import open_test
from nas.device import open_device, set_threads
from nas.errors import ConfigError, HardcellError, NetworkError, first_line
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from nas.analysis.network_source import NetworkSource
    from nas.analysis.surface.config import SurfaceConfig
    from nas.data import Split

LINE_POINTS = 201
# Classes at which a second adversarial direction is aimed before another seed is tried.
RIVALS = 3
# Balls around the adversarial image: their radii as shares of the perturbation's size, and the points drawn from each, or
# fewer of large images, which take long to draw.
SHARES, SAMPLES = (0.125, 0.25, 0.5, 1.0), 500
# How far ahead to look for an image that is classified rightly.
AHEAD = 100
_PLANES = {
    ("adversarial", "random"): "adversarial_random",
    ("adversarial", "second adversarial"): "two_adversarial",
    ("random", "second random"): "two_random",
}


def image_surfaces(network: str | Path | nn.Module | NetworkSource, config: SurfaceConfig) -> ImageSurfaces:
    """Returns the planes and lines through one test image.

    Args:
        network: The network, as `open_source` takes it.
        config: The settings.

    Raises:
        NetworkError: the network cannot be opened, does not go together with the images, or fails on the way.
        ConfigError: the settings do not go together with the images, or the image is misclassified when clean.
        DataError: the images cannot be used.
        RunError: there is no such device.
    """
    source, device = open_source(network), open_device(config.device)
    data = replace(config.data, path=config.data.path and str(Path(config.data.path).expanduser()))
    test, name = open_test(data), data.path or data.name
    _check_numbers_of(config, test, name)
    test = test.to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    check_compatible(source.name, source.network.to(device), test, name)
    classes = source.class_names(data)
    try:
        with frozen(source.network):
            ahead = predict(source.network, test.x[config.image : config.image + AHEAD]).argmax(1)
        _check_right(config.image, test, ahead, classes)
        return surfaces_of(source.network, test, config, network_name=source.name, data_name=name, classes=classes)
    except HardcellError:
        raise
    except Exception as error:
        # A network of someone else's may raise anything, on any image, and in a backward pass only.
        raise NetworkError(f"{source.name}: its surfaces cannot be drawn: {first_line(error)}") from error


def surfaces_of(
    network: nn.Module,
    test: Split,
    config: SurfaceConfig,
    *,
    network_name: str,
    data_name: str,
    classes: tuple[str, ...],
    second: bool = True,
    samples: int = SAMPLES,
) -> ImageSurfaces:
    """Returns what `image_surfaces` does, of a network and images that are open and fit, and an image that is right.

    Args:
        network: On the images' device.
        test: The test images.
        config: The settings.
        network_name: The network's name.
        data_name: The images' name.
        classes: Names of the classes.
        second: Look for a second adversarial direction, too.
        samples: Points drawn from each ball around the adversarial image; with 0, what lies around it is left out.
    """
    x, label = test.x[config.image], int(test.y[config.image])
    with frozen(network):
        logits = predict(network, x[None])[0]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    directions, notes = _directions(network, x, label, logits, config, second=second)
    first, *further = directions
    planes = {_PLANES[first, other]: _plane(x, directions, first, other) for other in further[::-1]}
    if config.others is not None:
        numbers = (config.image, *config.others)
        names = tuple(f"image {i}" for i in numbers)
        try:
            planes["three_images"] = plane_through(test.x[list(numbers)], (names[0], names[1], names[2]))
        except ValueError as error:
            raise ConfigError([f"surface: others: {error}"]) from error
    around = None
    if "adversarial" in directions and samples:
        try:
            around = _neighbourhood(network, x, label, directions["adversarial"], config, samples)
        except Exception as error:  # The pictures can do without; and a device may lack double precision.
            notes.append(f"what lies around the adversarial image cannot be measured: {first_line(error)}")
    reach = config.extent * max(map(_length, directions.values()))
    return ImageSurfaces(
        network=network_name,
        data=data_name,
        config=config,
        classes=classes,
        label=label,
        margin=float(logits[label] - others.max()),
        confidence=float(logits.softmax(0).max()),
        endpoints={name: _endpoint(network, x, step) for name, step in directions.items()},
        lines={
            name: boundary_line(network, x, label, step, segment=Segment(stop=reach, points=LINE_POINTS))
            for name, step in directions.items()
        },
        surfaces={
            name: response_surface(network, plane, label, *window(plane, config.extent, config.points))
            for name, plane in planes.items()
        },
        neighbourhood=around,
        notes=tuple(notes),
    )


def _plane(x: Tensor, directions: Mapping[str, Tensor], first: str, second: str) -> Plane:
    axes = (f"along the {first} direction", f"at right angles, towards the {second} one")
    return plane_along(x, directions[first], directions[second], ("clean", first, second), axes)


def _directions(
    network: nn.Module, x: Tensor, label: int, logits: Tensor, config: SurfaceConfig, *, second: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the directions in which to look, by name, and notes on what was not found."""
    adversarial = adversarial_direction(network, x, label, config.attack, config.epsilon, seed=config.seed)
    if adversarial is None:
        # As long as the longest perturbation of the ball: L-infinity has corners.
        corner = config.attack.norm.project(torch.ones_like(x)[None], torch.tensor(config.epsilon).to(x))
        length = _length(corner)
        drawn = {"random": config.seed, "second random": config.seed + 1}
        return {name: random_direction(x, length, seed=seed) for name, seed in drawn.items()}, [
            f"the attack does not fool the network on image {config.image} within epsilon {format_epsilon(config.epsilon)}: "
            "the plane is that of two random directions; a larger --epsilon may find an adversarial one"
        ]
    random = random_direction(x, _length(adversarial), seed=config.seed)
    if not second:
        return {"adversarial": adversarial, "random": random}, []
    other = _second(network, x, label, logits, adversarial, config)
    if other is None:
        missing = "no second adversarial direction was found: there is no plane of two adversarial ones"
        return {"adversarial": adversarial, "random": random}, [missing]
    return {"adversarial": adversarial, "second adversarial": other, "random": random}, []


def _second(
    network: nn.Module, x: Tensor, label: int, logits: Tensor, first: Tensor, config: SurfaceConfig
) -> Tensor | None:
    """Returns a second adversarial direction: to another class, or else from another seed; None if there is neither."""
    taken = {label, _endpoint(network, x, first).label}
    rivals = [j for j in logits.argsort(descending=True).tolist() if j not in taken][:RIVALS]
    try:
        aimed(config.attack, label)
    except ValueError:  # It has no loss that could be aimed.
        rivals = []
    for towards, seed in [*((j, config.seed) for j in rivals), (None, config.seed + 1)]:
        step = adversarial_direction(network, x, label, config.attack, config.epsilon, towards=towards, seed=seed)
        if step is None:
            continue
        try:
            plane_along(x, first, step)
        except ValueError:  # Of an attack that draws nothing, every seed finds the same.
            continue
        return step
    return None


def _neighbourhood(
    network: nn.Module, x: Tensor, label: int, step: Tensor, config: SurfaceConfig, samples: int
) -> Neighbourhood:
    """Returns what lies around the image x + step; costs a forward pass for each point, and some hundred for the bound.

    Raises:
        Exception: whatever the network raises; or the image is not adversarial.
    """
    norm, point, y = config.attack.norm, (x + step).clamp(0, 1)[None], torch.tensor([label], device=x.device)
    with frozen(network):
        if bool(predict(network, point).argmax(1) == y):
            raise ValueError("it lies so near to the boundary that rounding takes it back")
    size = float(norm.size(step[None]))
    samples = affordable_samples(norm, x.numel(), len(SHARES), samples)
    balls = ball_shares(
        network, point, y, norm, [share * size for share in SHARES], sampling=Sampling(samples=samples, seed=config.seed)
    )
    proved = provable_radii(network, point, norm)
    return Neighbourhood(norm.name, size, balls, proved if isinstance(proved, NoBound) else float(proved.radii[0]))


def _endpoint(network: nn.Module, x: Tensor, step: Tensor) -> Endpoint:
    with frozen(network):
        label = int(predict(network, (x + step)[None]).argmax())
    return Endpoint(label, _length(step), float(step.abs().max()))


def _length(step: Tensor) -> float:
    return float(step.cpu().double().norm())


def _check_numbers_of(config: SurfaceConfig, test: Split, name: str) -> None:
    """Checks that there are such images, and that epsilon is not larger than the pixel range."""
    faults, last = [], len(test.x) - 1
    for key, numbers in (("image", (config.image,)), ("others", config.others or ())):
        faults += [
            f"surface: {key} must be the number of a test image of {name}, 0 to {last}, got {i}"
            for i in numbers
            if not 0 <= i <= last
        ]
    try:
        check_epsilons([config.epsilon], config.attack.norm.largest(test.x[0].numel()))
    except ValueError as error:
        faults.append(f"surface: {error}")
    if faults:
        raise ConfigError(faults)


def _check_right(image: int, test: Split, ahead: Tensor, classes: tuple[str, ...]) -> None:
    """Checks that an image is classified rightly, given the network's classes from that image on."""
    label, predicted = int(test.y[image]), int(ahead[0])
    if predicted == label:
        return
    right = (ahead == test.y[image : image + len(ahead)]).nonzero().flatten().tolist()
    remedy = f"; take image {image + right[0]}, which is classified rightly" if right else ""
    raise ConfigError(
        [
            f"surface: image {image} is of class {classes[label]}, and the network says {classes[predicted]} without any "
            f"attack: there is no adversarial direction to look along{remedy}"
        ]
    )
