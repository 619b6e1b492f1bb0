"""Checks for common pitfalls of robustness evaluations. Each check returns its outcome and the evidence.

| check | needs | finds |
| --- | --- | --- |
| `tells_classes_apart` | prepared | one class for every image, or a clean error not below that of a constant class |
| `deterministic` | network | random networks, such as those with added noise |
| `logits_not_probabilities` | network | a final softmax |
| `batch_independent` | network | BatchNorm that uses the statistics of the batch |
| `normalised_inside` | network | another input range: normalisation outside the network, -1 to 1, 0 to 255 |
| `gradients_alive` | margins | gradients that are zero or not finite |
| `gradients_predict` | prepared | rounding, with or without a straight-through gradient |
| `scale_does_not_matter` | prepared | logits too large or too small for attacks on cross-entropy |
| `reaches_chance` | prepared | an attack at epsilon 0.5 that does not reach chance level |
| `noise_is_weaker` | prepared, radii | attacks that are weaker than random noise |
| `enough_steps` | prepared, radii | an attack with too few steps |
| `square_is_weaker` | prepared, radii | masked gradients, with a Square attack run by the check |
| `white_box_is_weaker` | prepared, radii | adversarial images that an evaluation without gradients missed |
| `finds_planted` | network, images | weak attacks, and masked gradients in front of the final linear layer |
| `black_box_is_weaker` | radii | masked gradients, from black-box attacks of the evaluation |
| `many_steps_beat_one` | radii | masked gradients, or steps that are too short |
| `cross_entropy_not_masked` | radii | the pitfall of `scale_does_not_matter`, from attacks of the evaluation |
| `enough_images`, `comparison_resolved` | radii | too few images for the claim |

"Prepared" is a `PreparedNetwork`: a network with its images and their clean logits. "Margins" are those of
`evaluators.margins`. Checks that need only radii also run on radii measured elsewhere. `evaluators.table` runs similar
checks on a table of accuracies. `check_network` and `check_attacks` use at most 256 images for checks that need the
network. Together, these checks cost less than an error curve under PGD on twice as many images. `check_attacks` runs
`finds_planted` only if it needs fewer passes through the network than the evaluation.

Sources: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, and Athalye, Carlini and Wagner,
"Obfuscated Gradients Give a False Sense of Security", ICML 2018, arXiv:1802.00420. `finds_planted`: Zimmermann et al.,
"Increasing Confidence in Adversarial Robustness Evaluations", NeurIPS 2022, arXiv:2206.13991.
"""

from evaluators.checks.attacks import (
    enough_steps,
    noise_is_weaker,
    reaches_chance,
    square_is_weaker,
    white_box_is_weaker,
)
from evaluators.checks.gradients import gradients_alive, gradients_predict, scale_does_not_matter
from evaluators.checks.messages import explain
from evaluators.checks.outputs import (
    batch_independent,
    deterministic,
    logits_not_probabilities,
    normalised_inside,
    tells_classes_apart,
)
from evaluators.checks.planted_examples import finds_planted
from evaluators.checks.radii import (
    black_box_is_weaker,
    comparison_resolved,
    cross_entropy_not_masked,
    enough_images,
    many_steps_beat_one,
)
from evaluators.checks.result import LEVEL, TOLERANCE, CheckResult
from evaluators.checks.run import SUBSET, check_attacks, check_network, subset

__all__ = [
    "LEVEL",
    "SUBSET",
    "TOLERANCE",
    "CheckResult",
    "batch_independent",
    "black_box_is_weaker",
    "check_attacks",
    "check_network",
    "comparison_resolved",
    "cross_entropy_not_masked",
    "deterministic",
    "enough_images",
    "enough_steps",
    "explain",
    "finds_planted",
    "gradients_alive",
    "gradients_predict",
    "logits_not_probabilities",
    "many_steps_beat_one",
    "noise_is_weaker",
    "normalised_inside",
    "reaches_chance",
    "scale_does_not_matter",
    "square_is_weaker",
    "subset",
    "tells_classes_apart",
    "white_box_is_weaker",
]
