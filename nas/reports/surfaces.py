"""Response surfaces in a report: a few images of each bundle, within a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluators import NORMS, PGD
from evaluators.bounds import NoBound
from evaluators.engine.frozen import frozen
from evaluators.engine.prepared import predict
from nas.analysis.surface.config import SurfaceConfig
from nas.analysis.surface.figures import draw_summary
from nas.analysis.surface.surface import SHARES, surfaces_of
from nas.data import Split
from nas.formatting import format_epsilon
from nas.plots.style import NORM_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nas.analysis.surface.result import Neighbourhood
    from nas.reports.networks import LoadedBundle

# Number of test images from which the shown ones are chosen.
CANDIDATES = 16
POINTS, FEWEST_POINTS = 41, 21
# Number of points drawn from each ball around the adversarial image.
SAMPLES = 200
# Time limit of a plane, and of the balls around the adversarial image, in seconds. PROOF: approximate cost of the proof of a
# radius, as a number of forward passes.
SECONDS, PROOF = 1.0, 500


def report_surfaces(opened: Mapping[str, LoadedBundle], images: int = 2) -> dict[str, list[tuple[str, str]]]:
    """Returns pictures of response surfaces around test images, as (SVG text, caption), by the bundle's name.

    The images are chosen from the first 16 test images, among those that the network classifies correctly. Images that PGD
    fools at the search's epsilon come first. A network that is too slow, or that raises an error, has no pictures.

    Args:
        opened: Networks by name.
        images: Number of pictures of each network.
    """
    pictures = {}
    for name, one in opened.items():
        try:
            pictures[name] = _pictures(one, images)
        except Exception:  # A custom network may raise any error on any image.
            pictures[name] = []
    return pictures


def _pictures(one: LoadedBundle, images: int) -> list[tuple[str, str]]:
    bundle, network = one.bundle, one.network
    points = min(POINTS, int(one.passes(SECONDS) ** 0.5))
    if points < FEWEST_POINTS:
        return []
    test = Split(one.test.x[:CANDIDATES], one.test.y[:CANDIDATES], one.test.hash)
    epsilon, attack = bundle.epsilon, PGD(norm=NORMS[bundle.norm]())
    with frozen(network):
        right = (predict(network, test.x).argmax(1) == test.y).nonzero().flatten()
        points_found = attack(network, test.x[right], test.y[right], epsilon)
        fooled = predict(network, points_found).argmax(1) != test.y[right]
    chosen = [*right[fooled].tolist(), *right[~fooled].tolist()][:images]
    # The balls cost more passes than the plane, so slow networks have none. Passes of the bounds are in double precision and
    # count twice.
    samples = SAMPLES if one.passes(SECONDS) > len(SHARES) * SAMPLES + 2 * PROOF else 0
    pictures = []
    for image in chosen:
        config = SurfaceConfig(data=one.data, image=image, attack=attack, epsilon=epsilon, points=points)
        classes = bundle.stored.classes
        drawn = surfaces_of(
            network,
            test,
            config,
            network_name=bundle.name,
            data_name=one.data.name,
            classes=classes,
            second=False,
            samples=samples,
        )
        around = f"Predicted class and margin around test image {image} (class {classes[drawn.label]})"
        if "adversarial" in drawn.endpoints:
            plane = (
                f", the adversarial image that PGD finds at epsilon {format_epsilon(epsilon)}, and a noisy image at the "
                "same L2 distance."
            )
        else:
            plane = f" and two noisy images. PGD finds no adversarial image within epsilon {format_epsilon(epsilon)}."
        caption = (
            f"{around}, in the plane through the clean image{plane} The last plot shows the margin along a line from the "
            f"clean image, in the {next(iter(drawn.lines))} direction. Points outside the pixel range are hatched in the "
            "plane and dotted on the line."
        )
        if drawn.neighbourhood is not None:
            caption += f" {neighbourhood_sentence(drawn.neighbourhood)}"
        pictures.append((draw_summary(drawn).decode(), caption))
    return pictures


def neighbourhood_sentence(neighbourhood: Neighbourhood) -> str:
    """Returns sentences on balls around an adversarial image: shares of adversarial points, and the proved radius."""
    norm, balls = NORM_NAMES.get(neighbourhood.norm, neighbourhood.norm), neighbourhood.balls
    shares = ", ".join(
        f"{100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f}) within {radius:.3g}"
        for radius, share, (low, high) in zip(balls.radii, balls.share[0], balls.interval[0], strict=True)
    )
    text = (
        f"{balls.samples} random points were drawn in each of several {norm} balls around the adversarial image. The shares "
        f"of adversarial points are (95 % intervals): {shares}."
    )
    if isinstance(neighbourhood.proved, NoBound) or neighbourhood.proved == 0:
        return f"{text} No radius around the adversarial image is certified."
    return (
        f"{text} Bounds on the logits prove that all images within {norm} distance {neighbourhood.proved:.2g} of the "
        "adversarial image are adversarial. The proof estimates rounding errors only heuristically."
    )
