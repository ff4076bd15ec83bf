"""Gradients of the measure at every node, from one backward pass."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.nodes import Key, Node, Side
from probe.circuits.study import CircuitOptions, Study
from probe.circuits.taps import Write
from probe.circuits.trace import Trace
from probe.errors import UsageError
from probe.experiments.gradients import gradients_allowed
from probe.models import LoadedModel
from probe.seam.projection import widths

_WEIGHTS = ("weight", "qweight", "weight_packed", "B")  # what quantised linear maps call their matrix


@dataclass(frozen=True)
class Backward:
    """How a backward pass is run: inside which context its forward is, and whether patterns are constants of it."""

    within: Callable[[], AbstractContextManager[None]] = nullcontext
    held: bool = False
    keep: bool = False  # the graph is kept for further products with it


@dataclass(frozen=True)
class GradientRun:
    """One forward, and ``dM/d(node)`` for what was read in it; M is the sum of the measure over pairs."""

    trace: Trace
    gradients: Mapping[Key, Float[Tensor, "pair unit position width"]]

    def value(self, node: Node, layer: int) -> Float[Tensor, "pair unit position width"]:
        """A node's value, out of the graph."""
        return self.trace.value(node, layer).detach()


def require_gradients(loaded: LoadedModel, what: str) -> None:
    """Refuse, before any work, a model whose weights gradients do not pass.

    Raises:
        UsageError: under ``torch.inference_mode``, or a quantised model: one that says so, or one with linear maps
            that hold no floating-point matrix (bitsandbytes, GPTQ and the like).
    """
    gradients_allowed(loaded, what)
    for name, module in loaded.model.named_modules():
        linear = widths(module) is not None or (
            hasattr(module, "infeatures") and hasattr(module, "outfeatures")
        )
        held = [getattr(module, key) for key in _WEIGHTS if hasattr(module, key)]
        if linear and held and not all(isinstance(one, Tensor) and one.is_floating_point() for one in held):
            kind = getattr(held[0], "dtype", "packed")
            raise UsageError(
                f"{what} was asked of {loaded.name}, which is quantised ({name} is a {type(module).__name__} of {kind} "
                "weights); gradients do not pass it: load it in float32 or bfloat16"
            )


def require_slope(options: CircuitOptions, what: str, base: Side | None = None) -> None:
    """Refuse measures without a gradient where it is taken; raises `UsageError`.

    Args:
        options: Among them the measure.
        what: The method that asks, for the message.
        base: The run at which the gradient is taken; None where it is taken at several.
    """
    if options.measure == "accuracy":
        raise UsageError(f"{what} of accuracy was asked; accuracy has no gradient: use logit_difference")
    if options.measure == "kl" and base == "clean":
        raise UsageError(
            f"{what} of kl at the clean run was asked (direction='noise'); kl is least there, so every gradient is 0: "
            "use direction='denoise', integrated_gradients or logit_difference"
        )


def gradient_run(
    case: Study,
    batch: Batch,
    side: Side,
    nodes: Collection[Node],
    writes: Mapping[Key, Write] | None = None,
    how: Backward | None = None,
) -> GradientRun:
    """One forward and one backward: the measure's gradient at all nodes of all layers.

    The gradient at a pattern's entry is ``g_z · v``, which no backward pass through the pattern is needed for.
    """
    how = how or Backward()
    reads: set[Node] = set(nodes)
    if "pattern" in reads:
        reads |= {"z", "v"}
    with how.within():
        trace = case.engine.graph(batch, side, reads, writes, held=how.held)
    clean = case.logits[batch, "clean"].double()
    with torch.enable_grad():
        number = case.measure(trace.logits.double(), batch, clean).sum()
    raws = {key: seen.raw for key, seen in trace.seen.items() if key[0] != "pattern"}
    followed = [key for key, raw in raws.items() if raw.requires_grad]  # not so where patterns are held
    found = torch.autograd.grad(
        number, [raws[key] for key in followed], allow_unused=True, retain_graph=how.keep
    )
    known = dict(zip(followed, found, strict=True))
    gradients = {
        key: trace.seen[key].shaped(torch.zeros_like(raw) if known.get(key) is None else known[key])
        for key, raw in raws.items()
    }
    for layer in trace.layers("pattern"):
        gradients["pattern", layer] = _of_pattern(gradients["z", layer], trace.value("v", layer).detach())
    return GradientRun(trace, gradients)


def _of_pattern(
    z: Float[Tensor, "pair head query d"], value: Float[Tensor, "pair kv_head key d"]
) -> Float[Tensor, "pair head query key"]:
    shared = value.repeat_interleave(z.shape[1] // value.shape[1], dim=1)
    return z @ shared.transpose(-1, -2)
