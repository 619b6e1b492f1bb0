"""Verifies a bundle: checksums of its files, agreement of its formats, and reproduction of its error curves."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors.torch import load_file

from evaluators import describe, error_curve, radii
from evaluators.cost import parameters
from evaluators.curves.error_curves import in_grid
from evaluators.engine.frozen import frozen
from evaluators.engine.prepared import predict
from evaluators.profiles.attack_entry import disagreements
from nas.bundle.export import TOLERANCE, difference
from nas.bundle.export_formats import FORMATS, WEIGHTS, logits_of
from nas.bundle.load import load_checked, read_profile
from nas.bundle.manifest import check_files, epsilon_and_norm, forms_left_out, read_manifest
from nas.bundle.source import data_settings, has_place
from nas.config.files import parse_config, parse_untrusted_config
from nas.data import open_test
from nas.device import set_threads
from nas.errors import BundleError, DataError
from nas.resolve import UntrustedCodeError

if TYPE_CHECKING:
    from torch import nn

    from evaluators import RobustnessProfile
    from nas.bundle.load import LoadedNetwork
    from nas.config.schema import Config
    from nas.data import Split


@final
@dataclass(frozen=True)
class CheckResult:
    """Result of one check of a bundle.

    Attributes:
        name: Name of the check.
        passed: Whether the check passed; None if it could not run.
        detail: Numbers, or the reason of the failure.
    """

    name: str
    passed: bool | None
    detail: str


def verify(folder: Path | str, *, data: Path | str | None = None, trust: bool = False) -> list[CheckResult]:
    """Verifies a bundle and returns the results of the checks.

    The checks are: checksums, manifest, profile, logits of all formats, clean error, and error curve of each attack.

    A curve passes if every stored error, in profile.json and from radii.npz, lies in the 95 % interval of the new
    measurement. If the checksums fail, no other check runs.

    Args:
        folder: Folder of the bundle.
        data: Folder or file of the test images, if the bundle is no longer in its run's folder or the images were moved.
        trust: Import the code of a custom search space and of custom attacks, and open model.pt2 and model.onnx unchecked.
            Without it, a bundle of a custom space is verified through model.pt2, and custom attacks are not run.

    Raises:
        BundleError: the folder is not a bundle, or its network cannot be rebuilt.
        ConfigError: the config in the manifest has faults.

    Example:
        >>> import nas
        >>> bundle = nas.read_run("runs/digits").bundles[0]
        >>> [check.name for check in nas.verify(bundle.folder) if check.passed is False]
        []
    """
    folder = Path(folder).expanduser()
    record = read_manifest(folder)
    try:
        check_files(folder, record)
    except BundleError as error:
        # Files that differ from the exported ones are not loaded.
        return [CheckResult("checksums", False, str(error))]
    outcomes = [CheckResult("checksums", True, f"{len(record['files'])} files"), _manifest(record)]
    profile = read_profile(folder)
    loaded = load_checked(folder, record, trust=trust)
    network, stored = loaded.network, loaded.stored
    outcomes.append(_profile(loaded, profile))
    source, settings = f"{folder}/manifest.json", {**record["config"], "data": data_settings(folder, record)}
    if data is not None:
        settings["data"] = {**settings["data"], "path": str(_absolute(Path(data)))}
    if trust:
        config = parse_config(settings, source=source, folder=folder)
    else:
        config, _ = parse_untrusted_config(settings, source=source, folder=folder)
    try:
        if not has_place(settings["data"]):
            raise DataError("they are on the machine that made the bundle")
        test = open_test(config.data).first(profile.record["n"])
    except DataError as error:
        shape = stored.input_shape
        images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
        return [
            *outcomes,
            *_forms(folder, loaded, images, trust),
            CheckResult(
                "error curves", None, f"the images cannot be opened: {error}; give their folder or file with --data (data)"
            ),
        ]
    set_threads(config.threads if trust else None, test.x[0, 0].numel())
    outcomes += _forms(folder, loaded, test.x[:64], trust)
    if test.hash != record["data"]["test"]:
        detail = f"the test split has hash {test.hash}, but the profile was measured on one with {record['data']['test']}"
        return [*outcomes, CheckResult("error curves", None, detail)]
    outcomes.append(_clean_error(network, test, profile))
    return outcomes + [_curve(name, network, test, profile, config) for name in profile.record["attacks"]]


def _absolute(path: Path) -> Path:
    """Returns a path relative to the working directory as an absolute one; unchanged if the user in ~user is unknown."""
    with suppress(RuntimeError):
        path = path.expanduser()
    return path if str(path).startswith("~") else path.absolute()


def _manifest(record: dict[str, Any]) -> CheckResult:
    """Returns the result for the manifest. `read_manifest` has already refused a wrong digest."""
    if "digest" not in record:
        return CheckResult("manifest", None, "has no digest: an older version of Hardcell wrote it")
    return CheckResult("manifest", True, "its digest matches its content")


def _profile(loaded: LoadedNetwork, profile: RobustnessProfile) -> CheckResult:
    """Returns whether the numbers of profile.json follow from radii.npz, and agree with manifest and architecture."""
    record, stored, content = loaded.manifest, loaded.stored, profile.record
    epsilon, norm = epsilon_and_norm(record)
    wrong = disagreements(profile)
    wrong += ["classes"] * (len(stored.classes) not in (0, stored.num_classes))
    wrong += ["dataset"] * (content["dataset"] != record["config"]["data"].get("name", content["dataset"]))
    wrong += ["name"] * (not record["name"].endswith(stored.key))
    wrong += ["epsilon"] * (not in_grid(epsilon, profile.epsilons(norm)))
    if loaded.refused is None:
        wrong += ["cost.parameters"] * (content["cost"]["parameters"] != parameters(loaded.network))
    if wrong:
        return CheckResult("profile", False, f"its values do not agree with the other files: {', '.join(wrong[:5])}")
    return CheckResult("profile", True, "its values agree with radii.npz, the manifest and the architecture")


def _weights(folder: Path, network: nn.Module) -> CheckResult:
    """Returns whether the weights are those of the graph in model.pt2, without building the network."""
    exported, weights = network.state_dict(), load_file(folder / WEIGHTS)
    different = [name for name, value in weights.items() if name not in exported or not torch.equal(exported[name], value)]
    detail = f"{len(weights)} tensors equal those of model.pt2"
    if different:
        detail = f"{len(different)} of {len(weights)} tensors differ from those of model.pt2, first {different[0]}"
    return CheckResult(WEIGHTS, not different, detail)


def _forms(folder: Path, loaded: LoadedNetwork, images: torch.Tensor, trust: bool) -> list[CheckResult]:
    """Returns the results of all formats, compared with the network that the search space builds from the weights.

    If the space is custom and not trusted, the formats are compared with model.pt2 instead.
    """
    network, rebuilt = loaded.network, loaded.refused is None
    outcomes = [] if rebuilt else [_weights(folder, network)]
    against = FORMATS[0 if rebuilt else 1]
    expected = logits_of(WEIGHTS, folder, images, network)
    not_exported = loaded.manifest.get("not_exported") or {}
    left_out = forms_left_out(loaded.manifest)
    for form in FORMATS[FORMATS.index(against) + 1 :]:
        if form in left_out:
            continue
        if form in not_exported:
            outcomes.append(CheckResult(form, None, f"was not exported: {not_exported[form]}"))
            continue
        try:
            apart = difference(logits_of(form, folder, images, trust=trust), expected)
        except Exception as error:  # The type of the error depends on the format's library.
            reason = str(error) if isinstance(error, UntrustedCodeError) else f"cannot be run: {type(error).__name__}"
            outcomes.append(CheckResult(form, False, reason))
            continue
        detail = f"logits within {apart:.1e} of those of {against} on {len(images)} images"
        outcomes.append(CheckResult(form, apart <= TOLERANCE, detail))
    return outcomes


def _clean_error(network: nn.Module, test: Split, profile: RobustnessProfile) -> CheckResult:
    with frozen(network):
        error = float((predict(network, test.x).argmax(1) != test.y).double().mean())
    stored = profile.record["clean_error"]
    # Rounding may change the prediction of an image on the decision boundary, so one image may differ.
    passed = abs(error - stored) <= 1.5 / len(test.x)
    return CheckResult("clean error", passed, f"{error:.4f} measured again, {stored:.4f} stored")


def _curve(name: str, network: nn.Module, test: Split, profile: RobustnessProfile, config: Config) -> CheckResult:
    """Returns the result of the error curve of an attack: whether stored errors and radii lie in the new intervals."""
    entry, what = profile.record["attacks"][name], f"error curve, {name}"
    attack = config.finalists.attacks.get(name)
    if attack is None:
        return CheckResult(what, None, "the attack is not in the bundle's config, or its code is not run without --trust")
    if entry["config"] != json.loads(json.dumps(describe(attack))):
        return CheckResult(what, False, "the attack's settings differ from those in the bundle's config")
    epsilons = entry["epsilons"]
    measured = error_curve(radii(network, test.x, test.y, attack, epsilons, seed=profile.record["seed"]).numpy(), epsilons)
    largest, outside = 0.0, []
    by_radii = error_curve(profile.radii[name], epsilons).error
    for source, stored in (("profile.json", entry["error"]), ("radii.npz", by_radii)):
        for error, again, (low, high), epsilon in zip(
            stored, measured.error, measured.error_interval, epsilons, strict=True
        ):
            largest = max(largest, abs(error - again))
            if not low <= error <= high:
                outside.append(f"{error:.3f} at {epsilon:g} in {source}")
    detail = f"{len(epsilons)} errors measured again on {len(test.x)} images, largest difference {largest:.4f}"
    if outside:
        detail += "; outside the interval: " + ", ".join(outside)
    return CheckResult(what, not outside, detail)
