"""The three formats of a network in a bundle: weights.safetensors, model.pt2 and model.onnx."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from nas.bundle.exported import open_exported, quiet, read_limited, strip_archive
from nas.bundle.onnx_model import run_onnx, write_onnx
from nas.config.schema import FORMS
from nas.errors import format_error

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
FORMATS = (WEIGHTS, "model.pt2", "model.onnx")


def files_of(forms: Collection[str]) -> tuple[str, ...]:
    """Returns the file names of `forms`, the short names of formats in the setting `finalists.forms`."""
    return tuple(file for form, file in zip(FORMS, FORMATS, strict=True) if form in forms)


def write_formats(
    network: nn.Module, example: Tensor, folder: Path, metadata: Mapping[str, str], forms: Collection[str] = FORMATS
) -> dict[str, str]:
    """Writes a network in those of `forms` to which it can be exported. The graphs have a dynamic batch size.

    Args:
        network: Network in evaluation mode on the CPU, from images (N, C, H, W) to logits (N, K).
        example: Example images (N, C, H, W), N >= 2.
        folder: Folder of the files.
        metadata: Metadata of model.onnx.
        forms: Formats to write, of `FORMATS`. Weights are always written.

    Returns:
        The reason of each failed export, by file name. If only model.onnx was requested, model.pt2 may still be among them,
        because model.onnx is made from the same graph.

    Raises:
        OSError: a file cannot be written.
    """
    # Files are serialised in memory and written by Python, because on a full disk the libraries' writers end the process.
    # The tensors are copied, because safetensors refuses tensors that share memory.
    weights = save({name: value.contiguous().clone() for name, value in network.state_dict().items()})
    (folder / WEIGHTS).write_bytes(weights)
    failed: dict[str, str] = {}
    program: torch.export.ExportedProgram | None = None
    if not set(forms) - {WEIGHTS}:
        return failed
    # The export needs no gradients, because an exported network is not trained further.
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=({0: _batch()},))
            if "model.pt2" in forms:
                (folder / "model.pt2").write_bytes(_as_pt2(program))
        except OSError:
            raise
        except Exception as error:  # torch raises various errors for layers that it cannot export.
            failed["model.pt2"] = _reason(error)
        if "model.onnx" not in forms:
            return failed
        if program is None:
            return {**failed, "model.onnx": "needs the graph of model.pt2" if "model.pt2" in forms else failed["model.pt2"]}
        try:
            (folder / "model.onnx").write_bytes(write_onnx(program, example, _batch(), metadata))
        except OSError:
            raise
        except Exception as error:
            failed["model.onnx"] = format_error(error)
    return failed


def _reason(error: Exception) -> str:
    """Returns the reason why torch.export failed, on one line."""
    if "Constraints violated" in str(error) or "ConstraintViolation" in type(error).__name__:
        return "the graph depends on the batch size, as with a loop over the images or a view of a fixed size"
    return format_error(error)


def _batch() -> Any:
    return torch.export.Dim("batch", min=1)


def _as_pt2(program: torch.export.ExportedProgram) -> bytes:
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return strip_archive(archive.getvalue())


def logits_of(form: str, folder: Path, x: Tensor, network: nn.Module | None = None, *, trust: bool = False) -> Tensor:
    """Returns the logits (N, K) of one format for images x (N, C, H, W).

    Args:
        form: One of `FORMATS`.
        folder: Folder of the bundle.
        x: Images on the CPU, with pixels in [0, 1].
        network: Network with the loaded weights; required and used for weights.safetensors only.
        trust: Open model.pt2 and model.onnx unchecked.
    """
    with torch.no_grad(), quiet():
        if form == "model.pt2":
            logits: Tensor = open_exported(folder / form, trust=trust)(x)
            return logits
        if form == "model.onnx":
            return run_onnx(read_limited(folder / form), x, trust=trust)
        assert network is not None
        own: Tensor = network(x)
        return own
