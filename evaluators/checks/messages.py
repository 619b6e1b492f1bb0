"""Messages that explain the outcome of a check to users."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators.checks.result import CheckResult

# By check name, without the norm: the message of a passed check, then the message of a failed check.
SENTENCES: dict[str, tuple[str, str]] = {
    "tells_classes_apart": (
        "The network predicts {classes} classes and has a clean error of {clean_error:.1%} (on the images of this "
        "check, at most 256). "
        "Always predicting the most frequent class would give an error of {error_of_one_answer:.1%}.",
        "The number of predicted classes is {classes}, and the clean error is {clean_error:.1%} (on the images of this "
        "check, at most 256). "
        "Always predicting the most frequent class would give an error of {error_of_one_answer:.1%}. The network does not "
        "tell classes apart, so its robustness means nothing.",
    ),
    "deterministic": (
        "Two passes over the same images give the same logits.",
        "Two passes over the same images give logits that differ by up to {largest_logit_difference:.2g} (largest logit: "
        "{largest_logit:.2g}). The network is randomised, so the gradient of one pass does not describe the next pass. "
        "Average the gradients of the attack over several passes, or measure the network without its noise.",
    ),
    "logits_not_probabilities": (
        "The outputs are logits.",
        "The outputs are probabilities: none is negative and they sum to 1 within {largest_distance_of_sum_from_1:.1g}. "
        "A final softmax makes the gradients of attacks vanish. Remove the softmax.",
    ),
    "batch_independent": (
        "The logits of an image do not depend on the other images of the batch. The network was given in {handed_over_in}.",
        "In evaluation mode, the logits of an image change by up to {difference_between_batches:.2g} (largest logit: "
        "{largest_logit:.2g}) with the other images of the batch. The network was given in {handed_over_in}. "
        "BatchNorm in training mode uses the statistics of the batch. Call network.eval(), and let BatchNorm track running "
        "averages.",
    ),
    "normalised_inside": (
        "The check also tried standardised images and pixels in [-1, 1] and [0, 255]. None of them halves the clean error "
        "significantly. So the network does not seem to expect another range.",
        "The clean error is {clean_error:.1%} on pixels in [0, 1], but {error_standardised:.1%} on standardised images, "
        "{error_signed:.1%} on pixels in [-1, 1] and {error_bytes:.1%} on pixels in [0, 255]. The network expects "
        "another input range. Put the normalisation inside the network.",
    ),
    "gradients_alive": (
        "The gradient of the margin is zero or not finite on {share_without_gradient:.1%} of the correctly classified "
        "images.",
        "The gradient of the margin is zero or not finite on {share_without_gradient:.1%} of the correctly classified "
        "images. Gradient-based attacks cannot move these images, whether they are robust or not. Look for torch.no_grad(), "
        "detach(), and rounding in the network's forward.",
    ),
    "gradients_predict": (
        "On {share_off:.1%} of the images, the gradient does not predict how a small step changes the margin.",
        "On {share_off:.1%} of the images, the gradient does not predict how a small step changes the margin. An operation "
        "of the network probably rounds its values. Use an attack without gradients, or the gradients of a smooth "
        "approximation of the network.",
    ),
    "scale_does_not_matter": (
        "PGD with rescaled logits or the margin loss does not fool significantly more images than PGD on cross-entropy.",
        "At epsilon {epsilon:.3g} PGD on cross-entropy reaches an error of {error_as_given:.1%}, but {error_rescaled:.1%} "
        "with rescaled logits and {error_by_margin:.1%} on the margin. The attack fails because of the scale of "
        "the logits (median margin {median_margin:.3g}), not because the network is robust. Attack the margin.",
    ),
    "reaches_chance": (
        "PGD at L∞ epsilon 0.5, which can turn every image grey, brings the error to {error:.1%}.",
        "PGD at L∞ epsilon 0.5, which can turn every image grey, brings the error to only {error:.1%}, below chance "
        "({chance:.1%}). PGD does not work on this network, and other attacks may fail too.",
    ),
    "noise_is_weaker": (
        "Random noise does not fool significantly more images than the attacks.",
        "At epsilon {epsilon:.3g} random noise fools more images than all attacks together, by {largest_excess:.1%} of all "
        "images. The attacks do not work on this network.",
    ),
    "enough_steps": (
        "At epsilon {epsilon:.3g}, {attack} with {longer} steps instead of {steps} fools another {newly_fooled:.1%} of the "
        "images, which no attack fooled before. More than 5% would fail the check.",
        "At epsilon {epsilon:.3g}, with {longer} steps instead of {steps}, {attack} newly fools {newly_fooled:.1%} of all "
        "images, which no attack had fooled before. The attack has too few steps.",
    ),
    "finds_planted": (
        "At epsilon {epsilon:.3g}, {attack} finds an adversarial image on {success:.1%} of {images} changed networks, which "
        "have one by construction. A random search finds one on {random_success:.1%}.",
        "At epsilon {epsilon:.3g}, {attack} finds an adversarial image on only {success:.1%} of {images} changed networks, "
        "which have one by construction. A random search finds one on {random_success:.1%}. The attack is too weak, or the "
        "network's features mislead its gradients.",
    ),
    "black_box_is_weaker": (
        "{fooled_by_black_box_alone:.1%} of the images are fooled by a black-box attack and by no white-box attack.",
        "At epsilon {epsilon:.3g} the white-box attacks fool {error_by_white_box:.1%} of the images. A black-box attack "
        "fools {fooled_by_black_box_alone:.1%} of all images, which no white-box attack fools. The white-box attacks are "
        "too weak, or the gradients mislead them.",
    ),
    "square_is_weaker": (
        "{fooled_by_black_box_alone:.1%} of the images are fooled by Square and by no other attack.",
        "At epsilon {epsilon:.3g} the other attacks fool {error_by_white_box:.1%} of the images. Square, which uses only "
        "logits, fools {fooled_by_black_box_alone:.1%} of all images, which no other attack fools. The other attacks are "
        "too weak, or the gradients mislead them.",
    ),
    "white_box_is_weaker": (
        "{newly_fooled:.1%} of the images are fooled by PGD on the margin and by no attack without gradients.",
        "At epsilon {epsilon:.3g} the attacks fool {error:.1%} of the images. PGD on the margin newly fools "
        "{newly_fooled:.1%} of all images. None of the attacks uses gradients, so they do not measure robustness. Add an "
        "attack that uses gradients.",
    ),
    "many_steps_beat_one": (
        "No single-step attack fools significantly more images than the many-step attacks.",
        "At epsilon {epsilon:.3g} {attack}, a single-step attack, fools more images than all many-step attacks together, by "
        "{largest_excess:.1%} of all images. The steps of the many-step attacks are too short, or the gradients mislead "
        "them.",
    ),
    "cross_entropy_not_masked": (
        "PGD on the margin does not fool significantly more images than PGD on cross-entropy.",
        "At epsilon {epsilon:.3g} PGD on the margin fools more images than PGD on cross-entropy, by {largest_excess:.1%} of "
        "all images. PGD on cross-entropy fails because of the scale of the logits, not because the network is robust.",
    ),
    "enough_images": (
        "With {images} images, the half-width of the 95 % interval of an error is at most {half_width:.3f}.",
        "With {images} images, the half-width of the 95 % interval of the error at epsilon {epsilon:.3g} is "
        "{half_width:.3f}, above {limit:g}. Measure on more images.",
    ),
    # Checks of tables.
    "accuracies_in_range": (
        "All accuracies are between 0 and 1 (100 %), read as {unit}.",
        "{cells:,} cells, read as {unit}, are below 0 or above 1 (100 %). Columns: {columns}. Rows: {rows}.",
    ),
    "nothing_missing": ("No cell is missing.", "{cells:,} cells are missing. Columns: {columns}. Rows: {rows}."),
    "columns_vary": (
        "No column is constant.",
        "Constant columns: {columns}. They do not distinguish the rows; one number may have been copied.",
    ),
    "rows_are_distinct": (
        "No row repeats another row.",
        "{repeating_rows:,} of {of:,} rows have the same accuracies as an earlier row, and {repeated_names:,} names occur "
        "more than once ({example}). Such rows are copies or equivalent networks. Count each network once.",
    ),
    "falls_with_epsilon": (
        "Accuracy under {attack} never rises with epsilon, except for rounding.",
        "Accuracy under {attack} rises with epsilon in {rows:,} of {of:,} rows, by up to {largest_points:.3g} percentage "
        "points ({largest_at}, in {largest_in}). A larger ball contains the smaller ball, so the attack failed at the "
        "larger epsilon. Rows with too high an accuracy, by column: {counts}.",
    ),
    "one_step_never_beats_many": (
        "At each epsilon, no single-step attack gives a lower accuracy than all many-step attacks, except for rounding.",
        "A single-step attack gives a lower accuracy than all many-step attacks in {rows:,} of {of:,} rows, by up to "
        "{largest_points:.3g} percentage points ({largest_at}, in {largest_in}). The many-step attacks failed there. Rows "
        "by column: {counts}.",
    ),
    "black_box_never_beats_white_box": (
        "At each epsilon, no black-box attack gives a lower accuracy than all white-box attacks, except for rounding.",
        "A black-box attack gives a lower accuracy than all white-box attacks in {rows:,} of {of:,} rows, by up to "
        "{largest_points:.3g} percentage points ({largest_at}, in {largest_in}). The gradients mislead the white-box "
        "attacks there. Rows by column: {counts}.",
    ),
    "noise_never_beats_attacks": (
        "At each epsilon, random noise does not give a lower accuracy than all white-box attacks, except for rounding.",
        "Random noise gives a lower accuracy than all white-box attacks in {rows:,} of {of:,} rows, by up to "
        "{largest_points:.3g} percentage points ({largest_at}, in {largest_in}). The attacks do not work there. Rows by "
        "column: {counts}.",
    ),
    "adversarial_below_clean": (
        "{compared}.",
        "An adversarial accuracy is above the clean accuracy in {rows:,} of {of:,} rows, by up to {largest_points:.3g} "
        "percentage points ({largest_at}, in {largest_in}). These accuracies were measured on different images or in "
        "different ways.",
    ),
    "comparison_resolved": (
        "{images} images are enough to distinguish the two networks.",
        "{images} images are not enough to distinguish the two networks (difference {difference:.3f}, p = {p_value:.2g}). "
        "Number of images needed for this difference: {images_needed}.",
    ),
}


def explain(check: CheckResult) -> str:
    """Returns a short message that explains the outcome of a check, with its numbers.

    A check without a message, such as a custom one, is shown as its name and evidence. So is a check whose evidence does not
    fit its message, because another version made it.

    Args:
        check: Outcome of a check.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from evaluators import check_network, explain
        >>> network = nn.Identity()  # The two pixels are the logits of two classes.
        >>> x, y = torch.tensor([[0.7, 0.5], [0.9, 0.1], [0.4, 0.5]]), torch.tensor([0, 0, 0])
        >>> checks = check_network(nn.Softmax(dim=1), x, y)
        >>> [explain(check)[:29] for check in checks if check.name == "logits_not_probabilities"]
        ['The outputs are probabilities']
    """
    names = [name for name in SENTENCES if check.name == name or check.name.startswith(f"{name}_")]
    if names:
        with suppress(KeyError, ValueError, TypeError):
            return SENTENCES[names[0]][0 if check.passed else 1].format(**check.evidence)
    evidence = ", ".join(f"{name} {_number(value)}" for name, value in check.evidence.items())
    return f"{check.name} {'passed' if check.passed else 'failed'}: {evidence}."


def _number(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
