"""Gradients of chosen outputs with respect to the input embeddings of a prompt, by vector-Jacobian products."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import UsageError
from probe.experiments.forwards import spans_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.seam.call import Activation, AttentionCall, Point
from probe.seam.session import Session

Of = Literal["resid", "z"]
Norms = Float[Tensor, "probe token"]  # of one probe's gradient at every token


def gradients_allowed(loaded: LoadedModel, what: str) -> None:
    """Refuse what gradients do not pass: `UsageError` under inference mode, and for quantised models by name."""
    if torch.is_inference_mode_enabled() or any(one.is_inference() for one in loaded.model.parameters()):
        raise UsageError(
            f"{what} was asked under torch.inference_mode; it needs gradients: load and call outside of it"
        )
    model: Any = loaded.model
    method = getattr(model, "quantization_method", None) or getattr(model, "is_quantized", False)
    if method:
        name = method if isinstance(method, str) else getattr(method, "value", "a quantised model")
        raise UsageError(
            f"{what} was asked of {loaded.name}, which is quantised ({name}); gradients do not pass it: load it in "
            "float32 or bfloat16"
        )


@dataclass
class _Outputs:
    """Keeps the outputs of chosen layers with their graph: residual streams, or z."""

    of: Of
    layers: frozenset[int] | None  # None: every layer
    kept: dict[int, Float[Tensor, "head token d"]] = field(default_factory=dict)

    @property
    def points(self) -> frozenset[Point]:
        """The residual stream, where it is asked."""
        return frozenset({"resid_post"}) if self.of == "resid" else frozenset()

    def chosen(self, tower: str, layer: int) -> bool:
        """Whether a layer's output is kept."""
        return tower in ("decoder", "encoder") and (self.layers is None or layer in self.layers)

    def activation(self, seen: Activation) -> None:
        """Keep a residual stream as one head."""
        if seen.point == "resid_post" and self.chosen(seen.place.tower, seen.place.layer):
            self.kept[seen.place.layer] = seen.value

    def want(self, call: AttentionCall) -> Want:
        """z, where it is asked."""
        return Want(z=self.of == "z")

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep z of every head."""
        if self.of == "z" and attended.z is not None and self.chosen(call.place.tower, call.place.layer):
            self.kept[call.place.layer] = attended.z[0]


@dataclass(frozen=True)
class Graph:
    """One forward of a prompt whose outputs can be asked for gradients: ``outputs[layer]`` is [head, token, d]."""

    outputs: dict[int, Float[Tensor, "head token d"]]
    embeddings: Float[Tensor, "1 token d_model"]

    def norms(self, layer: int, head: int, row: int, probes: int, random: torch.Generator) -> Norms:
        """‖vᵀ ∂output[head, row] / ∂embedding_j‖ at every token j, for `probes` vectors v of random signs.

        The mean of its square over probes is an unbiased estimate of the Jacobian's squared Frobenius norm.
        """
        output = self.outputs[layer][head, row]
        found = []
        for _ in range(probes):
            signs = torch.randint(0, 2, output.shape, generator=random) * 2 - 1
            (gradient,) = torch.autograd.grad(
                output, self.embeddings, signs.to(output), retain_graph=True, allow_unused=True
            )
            gradient = torch.zeros_like(self.embeddings) if gradient is None else gradient
            found.append(torch.linalg.vector_norm(gradient[0].double(), dim=-1).cpu())
        return torch.stack(found)


@contextmanager
def graph(loaded: LoadedModel, prompt: Prompt, of: Of, layers: frozenset[int] | None) -> Iterator[Graph]:
    """One forward over a prompt with its graph kept while the block is open; edits of an outer block act in it.

    Raises `UnseenLayersError` where no attention was seen.
    """
    model = loaded.model
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    watch, leaves = _Outputs(of, layers), []  # type: tuple[_Outputs, list[Tensor]]
    hook = _embedding(model).register_forward_hook(_leaf(leaves))
    mode = "fused" if of == "z" else None  # only there z takes part in what follows
    try:
        with evaluating(model), torch.enable_grad(), Session(model, [watch], mode=mode) as session:
            session.announce([spans_of(prompt)])
            model(input_ids=ids, **frugal)
            session.require_seen()
    finally:
        hook.remove()
    with torch.enable_grad():
        yield Graph(watch.kept, leaves[0])


def _embedding(model: nn.Module) -> nn.Module:
    found: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    return found


def _leaf(leaves: list[Tensor]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_(True)
        leaves.append(leaf)
        return leaf

    return hook
