"""Ways in which a robustness claim fools its author, each looked for, each with its evidence.

| check | needs | finds |
| --- | --- | --- |
| `deterministic` | network | added noise |
| `logits_not_probabilities` | network | a softmax at the end |
| `batch_independent` | network | BatchNorm that uses the batch's statistics |
| `normalised_inside` | network | images that the network expects otherwise: normalisation outside, -1 to 1, 0 to 255 |
| `gradients_alive` | margins | dead gradients |
| `gradients_predict` | network | rounding, with or without a made-up gradient |
| `scale_does_not_matter` | network | logits so large or small that they hold cross-entropy off |
| `reaches_chance` | network | an attack that cannot break what must break |
| `noise_is_weaker` | network, radii | an attack that is worse than none |
| `enough_steps` | network, radii | an attack that was stopped early |
| `square_is_weaker` | network, radii | masked gradients, by a black box run for it |
| `black_box_is_weaker` | radii | the same, by a black box that was run anyway |
| `many_steps_beat_one` | radii | masked gradients, or steps that do not arrive |
| `cross_entropy_not_masked` | radii | as `scale_does_not_matter`, by attacks that were run anyway |
| `enough_images`, `comparison_resolved` | radii | a claim finer than its images allow |

Those that need radii alone run on anyone's; `evaluators.table` looks for the same in a table of accuracies. The network is
looked at on at most 256 images, so that the checks cost less than an error curve under PGD on twice as many.

Sources: Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, and Athalye, Carlini and Wagner,
"Obfuscated Gradients Give a False Sense of Security", ICML 2018, arXiv:1802.00420.
"""

from evaluators.checks.attacks import enough_steps, noise_is_weaker, reaches_chance, square_is_weaker
from evaluators.checks.gradients import gradients_alive, gradients_predict, scale_does_not_matter
from evaluators.checks.messages import explain
from evaluators.checks.outputs import batch_independent, deterministic, logits_not_probabilities, normalised_inside
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
]
