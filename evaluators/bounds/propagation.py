"""Provable radii of small networks: within the radius, the network cannot change its class.

The radii hold for the network itself and for all images within the radius with pixels in [0, 1]. If the image is
adversarial, all these images are adversarial too. The certificates of `evaluators.smoothing` are different: they hold for a
smoothed network, with high probability.

Bounds are propagated from layer to layer, and become looser with each layer. They are exact for a linear network. For a
deep network the radii can be orders of magnitude smaller than those of an attack.

Bounds are computed in double precision. Rounding errors of the bounds and of the network are covered by a heuristic
allowance, which is not a proof. A margin must exceed the sum of two terms:

- 64 * eps * S, where eps is the machine epsilon of the network's dtype. S is the largest sum of the absolute terms of a
  logit in the last layer.
- Twice the largest difference between the network's logits and the logits in double precision.

The layers and operations with a rule are in `layers`.

Source: Gowal et al., arXiv:1810.12715, for interval bound propagation with the last layer folded into the differences of
logits; Tsuzuku, Sato and Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, arXiv:1802.04034, for radii from Lipschitz
constants.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from evaluators.bounds.layers import LAYERS, VIEWS, operation
from evaluators.bounds.rules import Balls, Bound, NoRuleError
from evaluators.curves.error_curves import Floats
from evaluators.engine.batches import Batches
from evaluators.engine.frozen import frozen
from evaluators.engine.input_checks import check_images, check_module
from evaluators.engine.prepared import predict
from evaluators.norms import L2, broadcast_per_image
from evaluators.regions.sampling import check_norm

if TYPE_CHECKING:
    from evaluators.norms import Norm

# Number of bisection steps for the logarithm of a radius.
ROUNDS = 24
# Assumed largest rounding error of a logit, in multiples of eps * S (see above).
_UNITS = 64


@final
@dataclass(frozen=True)
class ProvableRadii:
    """Provable radii of N images.

    Attributes:
        predictions: Class of each image, (N,) int64.
        radii: Radius of the ball in which the class cannot change, (N,), in pixel units, at most the largest distance of two
            images. It is 0 if no radius above the machine epsilon of the network's dtype could be proved.
        lipschitz: Radius from the Lipschitz constants alone, (N,), in pixel units; at most `radii`.
    """

    predictions: NDArray[np.int64]
    radii: Floats
    lipschitz: Floats


@final
@dataclass(frozen=True)
class NoBound:
    """Result for a network whose bounds cannot be computed.

    Attributes:
        reason: Reason, such as the layer without a rule.
    """

    reason: str


def provable_radii(network: nn.Module, x: Tensor, norm: Norm, *, batch_size: int = 16) -> ProvableRadii | NoBound:
    """Returns the provable radii of images x (N, ...), or a `NoBound` with the reason why the network has none.

    torch.fx traces the network and folds batch norm into the preceding layers. Each radius is bisected to a relative
    precision of a few millionths. It is the largest radius at which the bounds separate the class from all other classes.
    The cost is about a hundred forward passes per image in double precision, plus the operator norms of all layers once.

    Args:
        network: Maps images (N, ...) to logits (N, K). Its state is restored afterwards.
        x: Clean or adversarial images, (N, ...), pixels in [0, 1].
        norm: Linf() or L2().
        batch_size: Images in one pass.

    Raises:
        TypeError: network, x or norm has the wrong type.
        ValueError: x or batch_size is out of range, or the network's output is not (N, K) finite logits.
    """
    check_module(network)
    check_images(x)
    check_norm(norm)
    with frozen(network):
        logits = predict(network, x, Batches(batch_size))
        try:
            traced = _traced(network)
        except NoRuleError as error:
            return NoBound(str(error))
    gains: dict[str, float] = {}

    def prove(index: Tensor) -> tuple[Tensor, Tensor]:
        return _prove(traced, x[index].double(), logits[index].double(), norm, gains, torch.finfo(logits.dtype).eps)

    index = torch.arange(len(x), device=x.device)
    try:
        parts = [radii for _, radii in Batches(batch_size).over(index, prove)]
    except NoRuleError as error:
        return NoBound(str(error))
    largest, lipschitz = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return ProvableRadii(logits.argmax(1).cpu().numpy(), largest, lipschitz)


@final
@dataclass(frozen=True)
class _Traced:
    """A traced network in double precision, with its last layer separate.

    Attributes:
        steps: Traced network, without the last layer if that layer is linear.
        weight: Weight of the last layer, (K, F); None if the last layer is not linear.
        bias: Bias of the last layer, (K,); None if there is none.
    """

    steps: fx.GraphModule
    weight: Tensor | None
    bias: Tensor | None


def _traced(network: nn.Module) -> _Traced:
    """Returns a traced copy of a network in double precision.

    Raises:
        NoRuleError: the network has hooks, cannot be traced, or changes in place a value that it uses again.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        raise NoRuleError("the network has forward hooks, which cannot be traced")
    try:
        graph = fuse(copy.deepcopy(network).double())
    except Exception as error:  # The tracer may raise any error.
        raise NoRuleError(f"the network cannot be traced by torch.fx: {error}") from error
    assert isinstance(graph, fx.GraphModule)
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        layer = modules.get(node.target) if node.op == "call_module" else None
        in_place = getattr(layer, "inplace", False) or node.kwargs.get("inplace") or node.target in _IN_PLACE
        if in_place and any(_shared(before, modules) for before in node.all_input_nodes):
            raise NoRuleError(f"{node.name} changes in place a value that is used again")
        if layer is not None and hasattr(layer, "inplace"):
            setattr(layer, "inplace", False)  # noqa: B010
    output = next(node for node in graph.graph.nodes if node.op == "output")
    last = output.args[0]
    layer = modules.get(last.target) if isinstance(last, fx.Node) and last.op == "call_module" else None
    if type(layer) is not nn.Linear or len(last.users) > 1:
        return _Traced(graph, None, None)
    assert isinstance(last, fx.Node)
    output.args = (last.args[0],)
    graph.graph.erase_node(last)
    return _Traced(graph, layer.weight, layer.bias)


def _shared(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Returns whether the result of a node, or a tensor of which the result may be a view, is used more than once."""
    if len(node.users) > 1:
        return True
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    view = node.target in VIEWS or isinstance(layer, nn.Flatten | nn.Identity | nn.Dropout)
    return view and any(_shared(before, modules) for before in node.all_input_nodes)


_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, "relu_", "add_", "sub_", "mul_", "div_"}


@final
class _Propagation(fx.Interpreter):
    """Interpreter that runs a traced network on bounds instead of tensors."""

    def __init__(self, steps: fx.GraphModule, balls: Balls) -> None:
        super().__init__(steps)
        self.extra_traceback = False
        self._balls, self._step = balls, ""

    def run_node(self, n: fx.Node) -> Any:
        self._step = n.name
        return super().run_node(n)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.fetch_attr(target)
        if not any(isinstance(value, Bound) for value in (*args, *kwargs.values())):
            return layer(*args, **kwargs)
        rule = LAYERS.get(type(layer))
        if rule is None or kwargs or len(args) != 1:
            raise NoRuleError(f"there is no rule for {type(layer).__name__} ({target})")
        return rule(layer, args[0], self._balls, self._step)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is getattr and isinstance(args[0], Bound) and args[1] in ("shape", "device", "dtype", "ndim"):
            return getattr(args[0].centre, args[1])
        if not _holds_bound((args, kwargs)):
            return super().call_function(target, args, kwargs)
        return operation(target, args, kwargs, self._balls, self._step)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in ("size", "dim") and isinstance(args[0], Bound):
            return getattr(args[0].centre, target)(*args[1:], **kwargs)
        if not _holds_bound((args, kwargs)):
            return super().call_method(target, args, kwargs)
        return operation(target, args, kwargs, self._balls, self._step)


def _holds_bound(value: object) -> bool:
    if isinstance(value, dict):
        return any(_holds_bound(part) for part in value.values())
    return any(_holds_bound(part) for part in value) if isinstance(value, list | tuple) else isinstance(value, Bound)


def _prove(
    traced: _Traced, x: Tensor, logits: Tensor, norm: Norm, gains: dict[str, float], precision: float
) -> tuple[Tensor, Tensor]:
    """Returns the provable radius of each image, and the radius from Lipschitz constants alone, (N,) each."""
    label = logits.argmax(1)

    def bound(radius: Tensor) -> Bound:
        balls = Balls(isinstance(norm, L2), radius, gains)
        around = broadcast_per_image(radius, x)
        start = Bound(x, (x - around).clamp(min=0), (x + around).clamp(max=1), 1.0)
        with torch.no_grad():
            output = _Propagation(traced.steps, balls).run(start)
        if not isinstance(output, Bound) or output.centre.ndim != 2 or len(output.centre) != len(x):
            raise NoRuleError("the input of the last layer must be a matrix with one row per image")
        return output

    at_centre = bound(torch.zeros_like(x[:, :1].flatten(1)[:, 0]))
    weight = torch.eye(logits.shape[1]).to(x) if traced.weight is None else traced.weight.detach()
    bias = weight.new_zeros(len(weight)) if traced.bias is None else traced.bias.detach()
    own = at_centre.centre @ weight.T + bias
    deviation = (own - logits).abs().amax(1)
    # The trace may differ from the network, for example if the network changes a view in place.
    if bool((deviation > max(1e-4, _UNITS * precision) * own.abs().amax(1).clamp(min=1e-6)).any()):
        raise NoRuleError("the network's logits differ from those of its trace")
    # Weights and biases of the differences between the class's logit and all logits: (N, K, F), (N, K).
    difference, offset = weight[label][:, None] - weight, bias[label][:, None] - bias
    slope = difference.norm(dim=2) if isinstance(norm, L2) else difference.abs().sum(2)
    slope = slope * at_centre.reach
    others = torch.ones_like(own, dtype=torch.bool).scatter(1, label[:, None], value=False)

    def spare(output: Bound) -> Tensor:
        """Returns the allowance for rounding of the margins of each image, (N, 1)."""
        size = torch.maximum(output.lower.abs(), output.upper.abs()) @ weight.abs().T + bias.abs()
        return (_UNITS * precision * size.amax(1) + 2 * deviation)[:, None]

    margin = own.gather(1, label[:, None]) - own
    most = norm.largest(x[0].numel())

    def by_slope(spare: Tensor) -> Tensor:
        return torch.where(others, (margin - spare) / slope, most).nan_to_num(0.0, most, 0.0).amin(1).clamp(0, most)

    # The allowance for rounding grows with the ball. It is computed for a ball at least as large as that of the result.
    lipschitz = by_slope(spare(bound(by_slope(spare(at_centre)))))

    def proved(radius: Tensor) -> Tensor:
        output = bound(radius)
        middle, half = (output.upper + output.lower) / 2, (output.upper - output.lower) / 2
        lowest = torch.einsum("nkf,nf->nk", difference, middle) - torch.einsum("nkf,nf->nk", difference.abs(), half) + offset
        straight = margin - slope * radius[:, None]
        return ((torch.maximum(lowest, straight) > spare(output)) | ~others).all(1)

    # Where the largest possible radius is proved, `low` equals `high` and the bisection changes nothing.
    low, high = lipschitz.clamp(min=precision), torch.full_like(lipschitz, most)
    low = torch.where((lipschitz >= precision) | proved(low), low, 0.0)
    low = torch.where(proved(high), high, low)
    for _ in range(ROUNDS):
        middle = (low * high).sqrt()
        holds = proved(middle) & (low > 0)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low, torch.where(lipschitz < precision, 0.0, lipschitz)
