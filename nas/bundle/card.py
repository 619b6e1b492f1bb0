"""Model card of a bundle: origin, measured robustness and usage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evaluators import NoPowerLaw
from evaluators.curves.local_exponent import NoLocalExponent
from evaluators.profiles.attack_quality import quality_sentence
from evaluators.profiles.attack_rows import attack_rows, prefactor_text
from evaluators.profiles.law_case import law_case
from evaluators.profiles.law_entries import worst_case_law
from nas.bundle.union_text import union_text
from nas.formatting import format_epsilon, format_p_value

if TYPE_CHECKING:
    from collections.abc import Collection

    from evaluators import PowerLaw, RobustnessProfile
    from evaluators.curves.local_exponent import LocalExponent
    from evaluators.profiles.attack_rows import AttackRow
    from nas.bundle.manifest import Provenance
    from nas.study.finalists import Candidate

_ROLES = {
    "finalist": "A finalist of an architecture search.",
    "random": "A reference: the median of the search's random candidates.",
    "residual": "A reference: a plain residual network of about the same size as the best finalist.",
}
# How to load each format.
_USE = {
    "model.pt2": ("", "import torch", 'network = torch.export.load("model.pt2").module()       # with torch only'),
    "model.onnx": (
        "",
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx")    # with onnxruntime only',
        'logits = session.run(["logits"], {"image": images})[0]',
    ),
}


def model_card(
    candidate: Candidate, profile: RobustnessProfile, provenance: Provenance, cell: str, lacking: Collection[str]
) -> str:
    """Returns the card as Markdown; `cell` is the line with the drawing, or '', and `lacking` holds the absent formats."""
    record, epsilon = profile.record, provenance.epsilon
    failed = profile.failed_checks()
    norm, norms = provenance.norm, dict.fromkeys(entry["config"]["norm"] for entry in record["attacks"].values())
    return "\n".join(
        [
            f"# {candidate.name}",
            "",
            f"{_ROLES[candidate.role]} Made by Hardcell.",
            "",
            f"**Checks: {'all passed' if not failed else 'FAILED: ' + ', '.join(failed)}.** "
            "They look for common evaluation pitfalls; profile.json has the evidence.",
            "",
            f"- Data: {record['dataset']}, {record['split']} split, {record['n']} images",
            f"- Clean error: {record['clean_error']:.3f}",
            f"- Adversarial error at {norm} epsilon {format_epsilon(epsilon)} (pixels in [0, 1]), worst case over the "
            f"{norm} attacks: {profile.error_at(epsilon, norm):.3f}",
            *(
                [f"- Adversarial error over the union of {union_text(union['epsilons'])}: {union['error']:.3f}"]
                if (union := record.get("union")) is not None
                else []
            ),
            f"- Cost: {record['cost']['parameters']:,} parameters, {record['cost']['macs']:,} multiply-accumulates an image",
            f"- Weights: epoch {provenance.kept_epoch}, chosen on the validation split",
            "",
            "The flip rate is the share of the correctly classified images that an attack flips within epsilon.",
            "",
            "| attack | norm | error at the largest epsilon | median radius | power law of the flip rate "
            "| exponent at small epsilon |",
            "| --- | --- | --- | --- | --- | --- |",
            *map(_row, attack_rows(profile)),
            "",
            *(f"- {name}: {law_case(record['clean_error'], worst_case_law(profile, name))}" for name in norms),
            "",
            *(f"- {name}: {sentence}" for name in norms if (sentence := quality_sentence(profile, name)) is not None),
            "",
            "![Error curves](plots/error_curves.svg)",
            "",
            *([cell, ""] if cell else []),
            "## Use",
            "",
            "Images are (N, C, H, W), floating point, pixels in [0, 1]; normalisation is inside the network.",
            "",
            "```python",
            "import nas",
            'network = nas.load("PATH/TO/THIS/FOLDER")              # with Hardcell',
            *(line for form, lines in _USE.items() if form not in lacking for line in lines),
            "```",
            "",
            "`hardcell verify PATH/TO/THIS/FOLDER` checks the files, compares the formats and measures the curves again.",
            "",
            "## Limits",
            "",
            "An error under attack is a lower bound of the worst-case error: a stronger attack may find more adversarial "
            "images. The numbers hold only for the data and the perturbations named above.",
            "",
        ]
    )


def _row(row: AttackRow) -> str:
    median = f"{row.median_radius:.3g}" if math.isfinite(row.median_radius) else "not reached"
    laws = f"{_law_text(row.law)} | {_local_text(row.local)}"
    return f"| {row.name} | {row.norm} | {row.error:.3f} | {median} | {laws} |"


def _local_text(local: LocalExponent | NoLocalExponent) -> str:
    if isinstance(local, NoLocalExponent):
        return f"none: {local.reason}"
    low, high = local.interval
    return f"{local.exponent:.2f} (95 % interval {low:.2f} to {high:.2f}) up to epsilon {local.window[1]:.3g}"


def _law_text(law: PowerLaw | NoPowerLaw) -> str:
    if isinstance(law, NoPowerLaw):
        return f"none: {law.reason}"
    low, high = law.exponent_interval
    bent = " At the largest epsilon, the flip rate is significantly below the law." if law.saturated else ""
    p = format_p_value(law.p_value)
    rejected = f" The fit is rejected ({p}): the curve is not a power law." if law.fit == "rejected" else ""
    beaten = [form.replace("_", "-") for form, comparison in law.alternatives.items() if comparison.verdict() == "power law"]
    better = f" The law fits significantly better than the {' and the '.join(beaten)} form." if beaten else ""
    return (
        f"The exponent is {law.exponent:.2f} (95 % interval {low:.2f} to {high:.2f}) up to epsilon {law.window[1]:.3g}. "
        f"The prefactor is {prefactor_text(law)}.{rejected}{bent}{better}"
    )
