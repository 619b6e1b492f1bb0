"""Response surfaces of one test image: planes, lines with boundary crossings, and balls around the adversarial image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from evaluators.attacks import PGD
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
from nas.analysis.networks.options import NetworkOptions
from nas.analysis.score_attacks import suited_attacks
from nas.analysis.surface.result import Endpoint, ImageSurfaces, Neighbourhood
from nas.data import open_test
from nas.device import open_device, set_threads
from nas.errors import ConfigError, HardcellError, NetworkError, first_line
from nas.formatting import format_epsilon

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from nas.analysis.network_source import Openable
    from nas.analysis.surface.config import SurfaceConfig
    from nas.data import Split

LINE_POINTS = 201
# Number of target classes that are tried for a second adversarial direction. If all fail, another seed is tried.
RIVALS = 3
# Radii of the balls around the adversarial image, as shares of the perturbation's size, and number of points in each ball.
# Balls around large images have fewer points, because drawing points is slow.
SHARES, SAMPLES = (0.125, 0.25, 0.5, 1.0), 500
# If the image is misclassified, the error message suggests the next correctly classified one among this many images.
AHEAD = 100
_PLANES = {
    ("adversarial", "random"): "adversarial_random",
    ("adversarial", "second adversarial"): "two_adversarial",
    ("random", "second random"): "two_random",
}


def image_surfaces(
    network: Openable, config: SurfaceConfig, *, options: NetworkOptions = NetworkOptions(), trust: bool = False
) -> ImageSurfaces:
    """Returns response surfaces around one test image: planes, lines and balls.

    Args:
        network: Path or name of the network, an `nn.Module` or a `NetworkSource`, as for `open_source`. It maps images
            (N, C, H, W) with pixels in [0, 1] to logits (N, K). A module is set to evaluation mode and moved to the device.
        config: Settings. If the network has no gradients, Square replaces the default attack.
        options: Options with which the network is opened.
        trust: Run code that comes with a bundle or a .pt2 file.

    Raises:
        NetworkError: the network cannot be opened, is not compatible with the images, or raises an error.
        BundleError: the bundle is damaged.
        ConfigError: a setting does not fit the images, the clean image is misclassified, the image and those of
            `config.others` lie on one line, or the attack needs gradients that the network does not have.
        DataError: the images cannot be opened.
        RunError: the device does not exist.

    Example:
        >>> import nas
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> config = nas.SurfaceConfig(image=0, epsilon=0.12, points=21)
        >>> surfaces = nas.surface(bundle.folder, config)
        >>> surfaces.confidence > 0.1
        True
    """
    source, device = open_source(network, options=options, trust=trust), open_device(config.device)
    (attack, *_) = suited_attacks([source], {"the attack": config.attack}, {"the attack": PGD()}).values()
    config = replace(config, attack=attack)
    test, name = open_test(config.data), config.data.path or config.data.name
    _check_numbers_of(config, test, name)
    test = test.to(device)
    set_threads(config.threads, test.x[0, 0].numel())
    check_compatible(source.name, source.network.to(device), test, name)
    classes = source.class_names(config.data)
    try:
        with frozen(source.network):
            ahead = predict(source.network, test.x[config.image : config.image + AHEAD]).argmax(1)
        _check_right(config.image, test, ahead, classes)
        return surfaces_of(source.network, test, config, network_name=source.name, data_name=name, classes=classes)
    except HardcellError:
        raise
    except Exception as error:
        # A custom network may raise any error on any image, even in the backward pass only.
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
    """Returns the result of `image_surfaces` for an open, compatible network and a correctly classified image.

    Args:
        network: Network on the device of the images.
        test: Test images (N, C, H, W) and labels (N,).
        config: Settings.
        network_name: Name of the network.
        data_name: Name of the data.
        classes: Names of the classes.
        second: Whether to search for a second adversarial direction.
        samples: Number of points in each ball around the adversarial image; 0 for no balls.

    Raises:
        ConfigError: the image and the two images of `config.others` lie on one line.
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
        except Exception as error:  # The pictures need no balls, and a device may lack double precision.
            notes.append(f"the balls around the adversarial image cannot be measured: {first_line(error)}")
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
    axes = (f"along the {first} direction", f"at right angles, towards the {second} direction")
    return plane_along(x, directions[first], directions[second], ("clean", first, second), axes)


def _directions(
    network: nn.Module, x: Tensor, label: int, logits: Tensor, config: SurfaceConfig, *, second: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns directions by name, and notes on the missing ones."""
    adversarial = adversarial_direction(network, x, label, config.attack, config.epsilon, seed=config.seed)
    if adversarial is None:
        # The random directions have the L2 length of the ball's longest perturbation. In Linf, this perturbation leads to a
        # corner of the ball.
        corner = config.attack.norm.project(torch.ones_like(x)[None], torch.tensor(config.epsilon).to(x))
        length = _length(corner)
        drawn = {"random": config.seed, "second random": config.seed + 1}
        return {name: random_direction(x, length, seed=seed) for name, seed in drawn.items()}, [
            f"the attack does not fool the network on image {config.image} within epsilon {format_epsilon(config.epsilon)}: "
            "the plane has two random directions; a larger --epsilon may find an adversarial direction"
        ]
    random = random_direction(x, _length(adversarial), seed=config.seed)
    if not second:
        return {"adversarial": adversarial, "random": random}, []
    other = _second(network, x, label, logits, adversarial, config)
    if other is None:
        missing = "no second adversarial direction was found: the plane of two adversarial directions is missing"
        return {"adversarial": adversarial, "random": random}, [missing]
    return {"adversarial": adversarial, "second adversarial": other, "random": random}, []


def _second(
    network: nn.Module, x: Tensor, label: int, logits: Tensor, first: Tensor, config: SurfaceConfig
) -> Tensor | None:
    """Returns a second adversarial direction, to another class or else from another seed; None if none is found."""
    taken = {label, _endpoint(network, x, first).label}
    rivals = [j for j in logits.argsort(descending=True).tolist() if j not in taken][:RIVALS]
    try:
        aimed(config.attack, label)
    except ValueError:  # The attack has no targeted loss.
        rivals = []
    for towards, seed in [*((j, config.seed) for j in rivals), (None, config.seed + 1)]:
        step = adversarial_direction(network, x, label, config.attack, config.epsilon, towards=towards, seed=seed)
        if step is None:
            continue
        try:
            plane_along(x, first, step)
        except ValueError:  # A deterministic attack finds the same direction with every seed.
            continue
        return step
    return None


def _neighbourhood(
    network: nn.Module, x: Tensor, label: int, step: Tensor, config: SurfaceConfig, samples: int
) -> Neighbourhood:
    """Returns the measurements in balls around x + step.

    The cost is one forward pass for each sampled point, and about a hundred in double precision for the bound.

    Raises:
        ValueError: the image x + step is not adversarial, because of rounding.
        Exception: the network raises it.
    """
    norm, point, y = config.attack.norm, (x + step).clamp(0, 1)[None], torch.tensor([label], device=x.device)
    with frozen(network):
        if bool(predict(network, point).argmax(1) == y):
            raise ValueError("the image is so near to the boundary that rounding changes its class")
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
    """Checks that the image numbers exist, and that epsilon is at most the size of the pixel range."""
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
    """Checks that an image is classified correctly.

    Args:
        image: Number of the image.
        test: Test images and labels.
        ahead: Predicted classes of this image and the following ones.
        classes: Names of the classes.

    Raises:
        ConfigError: the image is misclassified; the message suggests a correctly classified image.
    """
    label, predicted = int(test.y[image]), int(ahead[0])
    if predicted == label:
        return
    right = (ahead == test.y[image : image + len(ahead)]).nonzero().flatten().tolist()
    remedy = f"; use image {image + right[0]}, which is classified correctly" if right else ""
    raise ConfigError(
        [
            f"surface: image {image} is of class {classes[label]}, but the network predicts {classes[predicted]} without an "
            f"attack; surfaces need a correctly classified image{remedy}"
        ]
    )
