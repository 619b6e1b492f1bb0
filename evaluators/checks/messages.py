"""What a check's outcome means, in a sentence for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators.checks.result import CheckResult

# By name, without the norm: the sentence where nothing was found, and the sentence where something was.
SENTENCES: dict[str, tuple[str, str]] = {
    "deterministic": (
        "Two passes over the same images give the same logits.",
        "Two passes over the same images give logits that differ by up to {largest_logit_difference:.2g} (the largest is "
        "{largest_logit:.2g}): the network is randomised, and gradients of one pass say little of the next. Average the "
        "attack's gradients over passes, or measure the network without its noise.",
    ),
    "logits_not_probabilities": (
        "The outputs are logits.",
        "The outputs are probabilities (none negative, sums within {largest_distance_of_sum_from_1:.1g} of 1): a softmax at "
        "the end starves attacks of gradients. Remove it.",
    ),
    "batch_independent": (
        "The logits of an image do not depend on its batch; the network was handed over in {handed_over_in}.",
        "The logits of an image change by up to {difference_between_batches:.2g} (the largest is {largest_logit:.2g}) with "
        "the other images of its batch, and the network was handed over in {handed_over_in}: BatchNorm uses the batch's "
        "statistics. Call network.eval(), and let BatchNorm track running averages.",
    ),
    "normalised_inside": (
        "The network is at its best on pixels in [0, 1].",
        "The clean error is {clean_error:.1%} on pixels in [0, 1], but {error_standardised:.1%} on standardised images, "
        "{error_signed:.1%} on a range of -1 to 1 and {error_bytes:.1%} on one of 0 to 255: the network expects "
        "other inputs. Put the normalisation inside it.",
    ),
    "gradients_alive": (
        "Margins have gradients ({share_without_gradient:.1%} of the right images have none that is finite).",
        "{share_without_gradient:.1%} of the right images have margins whose gradients are zero or not finite: attacks that "
        "follow gradients cannot move there, robust or not.",
    ),
    "gradients_predict": (
        "Gradients say what a small step does ({share_off:.1%} of the images excepted).",
        "On {share_off:.1%} of the images a small step changes the margin otherwise than the gradient says: something in "
        "the network rounds. Attack it without gradients, or with those of a smooth stand-in.",
    ),
    "scale_does_not_matter": (
        "PGD on cross-entropy finds as much on rescaled logits, and on the margin, as on the network as it is.",
        "PGD on cross-entropy reaches an error of {error_as_given:.1%} at epsilon {epsilon:.3g}, but {error_rescaled:.1%} "
        "with rescaled logits and {error_by_margin:.1%} on the margin: the scale of the logits (median margin "
        "{median_margin:.3g}) holds it off, not robustness. Attack the margin.",
    ),
    "reaches_chance": (
        "An unbounded attack brings the error to {error:.1%}.",
        "An unbounded attack brings the error to {error:.1%} only, less than chance ({chance:.1%}): it does not work "
        "on this network, and nor may the others.",
    ),
    "noise_is_weaker": (
        "Random noise finds no more than the attacks.",
        "At epsilon {epsilon:.3g} random noise fools {largest_excess:.1%} of the images more than all attacks: they do not "
        "work on this network.",
    ),
    "enough_steps": (
        "Given {longer} steps instead of {steps}, {attack} fools {newly_fooled:.1%} more of the images.",
        "Given {longer} steps instead of {steps}, {attack} fools {newly_fooled:.1%} more of the images at epsilon "
        "{epsilon:.3g}: it was stopped early.",
    ),
    "black_box_is_weaker": (
        "A black-box attack fools {fooled_by_black_box_alone:.1%} of the images that the white-box attacks did not.",
        "At epsilon {epsilon:.3g} a black-box attack fools {fooled_by_black_box_alone:.1%} of the images besides the "
        "{error_by_white_box:.1%} that the white-box attacks did, which know more: they are too weak, or gradients mislead "
        "them.",
    ),
    "square_is_weaker": (
        "Square, which sees only logits, fools {fooled_by_black_box_alone:.1%} of the images that no other attack did.",
        "At epsilon {epsilon:.3g} Square, which sees only logits, fools {fooled_by_black_box_alone:.1%} of the images "
        "besides the {error_by_white_box:.1%} that the other attacks did, which know more: they are too weak, or gradients "
        "mislead them.",
    ),
    "white_box_is_weaker": (
        "PGD on the margin fools {newly_fooled:.1%} of the images that no other attack did, none of which uses gradients.",
        "At epsilon {epsilon:.3g} PGD on the margin fools {newly_fooled:.1%} of the images besides the {error:.1%} that the "
        "attacks did, none of which uses gradients: they are no measure of robustness. Run one that does.",
    ),
    "many_steps_beat_one": (
        "No single step finds more than many.",
        "At epsilon {epsilon:.3g} {attack}, of a single step, fools {largest_excess:.1%} of the images more than all "
        "attacks of many steps: their steps do not arrive, or gradients mislead them.",
    ),
    "cross_entropy_not_masked": (
        "PGD on the margin finds no more than PGD on cross-entropy.",
        "At epsilon {epsilon:.3g} PGD on the margin fools {largest_excess:.1%} of the images more than PGD on "
        "cross-entropy: the scale of the logits holds the latter off, not robustness.",
    ),
    "enough_images": (
        "{images} images give errors within {half_width:.3f}.",
        "{images} images give an error at epsilon {epsilon:.3g} within {half_width:.3f} only, more than {limit:g}: too few "
        "for a claim. Measure on more.",
    ),
    # Of tables:
    "accuracies_in_range": (
        "All accuracies are between 0 and 1, as {unit}.",
        "{cells:,} cells, as {unit}, are below 0 or above 1 (100 %), in {columns}; rows: {rows}.",
    ),
    "nothing_missing": ("No cell is missing.", "{cells:,} cells are missing, in {columns}; rows: {rows}."),
    "columns_vary": (
        "No column is constant.",
        "Constant columns: {columns}. They say nothing of the rows, or one number was copied.",
    ),
    "rows_are_distinct": (
        "No row repeats another.",
        "{repeating_rows:,} of {of:,} rows repeat an earlier one in every accuracy, and {repeated_names:,} names occur more "
        "than once ({example}): copies, or networks of equal function. Count them once.",
    ),
    "falls_with_epsilon": (
        "Accuracy under {attack} never rises with epsilon.",
        "Accuracy under {attack} rises with epsilon in {rows:,} of {of:,} rows, by up to {largest_points:.3g} points (to "
        "{largest_at}, in {largest_in}): a larger ball holds the smaller one, so the attack failed in it. Rows by where it "
        "is too high: {counts}.",
    ),
    "one_step_never_beats_many": (
        "No single step finds more than many at the same epsilon.",
        "A single step finds more than all attacks of many steps in {rows:,} of {of:,} rows, by up to {largest_points:.3g} "
        "points ({largest_at}, in {largest_in}): their steps do not arrive. Rows: {counts}.",
    ),
    "black_box_never_beats_white_box": (
        "No black-box attack finds more than the white-box ones at the same epsilon.",
        "A black-box attack finds more than all white-box ones in {rows:,} of {of:,} rows, by up to {largest_points:.3g} "
        "points ({largest_at}, in {largest_in}): gradients mislead them there. Rows: {counts}.",
    ),
    "noise_never_beats_attacks": (
        "Random noise finds no more than the attacks at the same epsilon.",
        "Random noise finds more than all white-box attacks in {rows:,} of {of:,} rows, by up to {largest_points:.3g} "
        "points ({largest_at}, in {largest_in}): they do not work there. Rows: {counts}.",
    ),
    "adversarial_below_clean": (
        "{compared}.",
        "An adversarial accuracy is above the clean one in {rows:,} of {of:,} rows, by up to {largest_points:.3g} points "
        "({largest_at}, in {largest_in}): they were measured on different images, or in different ways.",
    ),
    "comparison_resolved": (
        "{images} images tell the two networks apart.",
        "{images} images do not tell the two networks apart (difference {difference:.3f}, p = {p_value:.2g}); about "
        "{images_needed} would.",
    ),
}


def explain(check: CheckResult) -> str:
    """Returns what a check's outcome means, in a sentence with its numbers."""
    names = [name for name in SENTENCES if check.name == name or check.name.startswith(f"{name}_")]
    if names:
        return SENTENCES[names[0]][0 if check.passed else 1].format(**check.evidence)
    evidence = ", ".join(f"{name} {_number(value)}" for name, value in check.evidence.items())
    return f"{check.name} {'passed' if check.passed else 'failed'}: {evidence}."


def _number(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
