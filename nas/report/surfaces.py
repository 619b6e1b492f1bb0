"""The response surfaces in a report: a few images of each bundle, as long as that takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators import NORMS, PGD
from evaluators.attacks.target import frozen
from evaluators.subject import predict
from nas.bundle.load import load
from nas.data import Split, open_test
from nas.device import open_device
from nas.profiling import check_fit, parse_profile_config
from nas.report.surface_figures import draw_summary
from nas.surface_config import SurfaceConfig, search_of
from nas.surfaces import surfaces_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.bundle.load import Bundle
    from nas.config import DataConfig

# Test images among which those to show are chosen.
CANDIDATES = 16
POINTS, FEWEST_POINTS = 41, 21
# Multiply-accumulates that one picture may take: about a second on one core of a CPU.
BUDGET = {"cpu": 3e10, "cuda": 3e12, "mps": 3e11}


def report_surfaces(bundles: Sequence[Bundle], images: int = 2) -> dict[str, list[tuple[str, str]]]:
    """Returns pictures of the networks of bundles around some test images, as (SVG text, caption), by the bundle's name.

    Of the first test images those are shown that the network classifies rightly and PGD fools at the search's epsilon; where
    there are too few of them, others that are right. None are shown of a network that is too large for it, of one whose
    images are gone or are others by now, or that cannot be loaded: the report can do without.

    Args:
        bundles: Those of one run or of several.
        images: Pictures of each.
    """
    opened: dict[DataConfig, Split] = {}
    found = {}
    for bundle in bundles:
        try:
            found[bundle.name] = _pictures(bundle, images, opened)
        except Exception:  # Whatever became of the images, of the network, or of the space that builds it.
            found[bundle.name] = []
    return found


def _pictures(bundle: Bundle, images: int, opened: dict[DataConfig, Split]) -> list[tuple[str, str]]:
    """Returns the pictures of one bundle.

    Args:
        bundle: The bundle.
        images: How many.
        opened: Test splits that are open already; added to.
    """
    device = open_device("auto")
    macs = max(1, bundle.profile.record["cost"]["macs"])
    points = min(POINTS, int((BUDGET.get(device.type, BUDGET["cpu"]) / macs) ** 0.5))
    if points < FEWEST_POINTS:
        return []
    data = parse_profile_config({"data": bundle.manifest["config"]["data"]}).data
    if data not in opened:
        opened[data] = open_test(data)
    test = opened[data].first(bundle.profile.record["n"])
    if test.hash != bundle.manifest["data"]["test"]:
        return []
    test = Split(test.x[:CANDIDATES], test.y[:CANDIDATES], test.hash).to(device)
    network = load(bundle.folder).to(device)
    check_fit(bundle.name, network, test, data.name)
    epsilon, norm = search_of(str(bundle.folder)) or (0.0, "linf")
    attack = PGD(norm=NORMS[norm]())
    with frozen(network):
        right = (predict(network, test.x).argmax(1) == test.y).nonzero().flatten()
        points_found = attack(network, test.x[right], test.y[right], epsilon)
        fooled = predict(network, points_found).argmax(1) != test.y[right]
    chosen = [*right[fooled].tolist(), *right[~fooled].tolist()][:images]
    pictures = []
    for image in chosen:
        config = SurfaceConfig(data=data, image=image, attack=attack, epsilon=epsilon, points=points)
        classes = tuple(map(str, bundle.stored["classes"]))
        drawn = surfaces_of(
            network, test, config, network_name=bundle.name, data_name=data.name, classes=classes, brief=True
        )
        around = f"Around test image {image} ({classes[drawn.label]}), in the plane of the clean image,"
        if "adversarial" in drawn.leads:
            plane = f"the one that PGD finds at epsilon {epsilon:g}, and noise of the same L2 size"
        else:
            plane = f"and two images of noise: PGD finds nothing within epsilon {epsilon:g}"
        caption = f"{around} {plane}. Hatched and dotted: outside the pixel range."
        pictures.append((draw_summary(drawn).decode(), caption))
    return pictures
