"""From the residual stream to the logits with the final norm's scale held: a linear map, so that parts can be told."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.circuits.anatomy import Anatomy
from probe.circuits.batches import Batch
from probe.circuits.norms import Norm
from probe.errors import CaptureError
from probe.seam.projection import matrix, widths

Direction = Float[Tensor, "pair width"]


@dataclass(frozen=True)
class Answering:
    """What a number of the logits asks of the stream: ``stream · direction + norm_bias + unembedding_bias``."""

    direction: Direction
    norm_bias: Float[Tensor, " pair"]
    unembedding_bias: Float[Tensor, " pair"]


@dataclass(frozen=True)
class Lens:
    """The final norm, its scale held at what it is on some states, and the output embedding; all in float64.

    Logits are those before a softcap, where the model has one (``anatomy.scale`` is None), and the model's own
    otherwise.
    """

    anatomy: Anatomy
    rate: Float[Tensor, "pair 1"] | None  # None: no final norm

    @classmethod
    @torch.no_grad()
    def of(cls, anatomy: Anatomy, stream: Float[Tensor, "pair width"]) -> "Lens":
        """The lens at the states that leave the last block; raises `CaptureError` where the norm is none."""
        final = anatomy.final
        if final is None:
            return cls(anatomy, None)
        answer = final.module.forward(stream[:, None])[:, 0]
        return cls(anatomy, final.rate(stream.double(), answer))

    @property
    def scale(self) -> float:
        """What the unembedding is multiplied by."""
        return 1.0 if self.anatomy.scale is None else self.anatomy.scale

    @torch.no_grad()
    def logits(self, parts: Float[Tensor, "pair part width"]) -> Float[Tensor, "pair part vocab"]:
        """What parts of the stream add to the logits, in the model's own precision, without biases."""
        final, unembed = self.anatomy.final, self.anatomy.unembed
        if final is not None and self.rate is not None:
            parts = final.part(parts, self.rate[:, None].to(parts.dtype))
        return self.scale * unembedded(unembed, parts)

    @torch.no_grad()
    def difference(self, batch: Batch) -> Answering:
        """The logit difference (mean of the right tokens minus mean of the wrong ones) as asked of the stream."""
        final, unembed = self.anatomy.final, self.anatomy.unembed
        columns = torch.stack(
            [_mean_column(unembed, pair.right) - _mean_column(unembed, pair.wrong) for pair in batch.pairs]
        )
        behind = self.scale * columns
        offset = unembed.forward(behind.new_zeros(1, 1, behind.shape[1]).to(_dtype(unembed)))[0, 0].double()
        biases = [offset[list(pair.right)].mean() - offset[list(pair.wrong)].mean() for pair in batch.pairs]
        unembedding_bias = self.scale * torch.stack(biases)
        if final is None or self.rate is None:
            return Answering(behind, torch.zeros_like(unembedding_bias), unembedding_bias)
        return Answering(
            pulled_norm(final, behind, self.rate), (behind * final.bias).sum(-1), unembedding_bias
        )


def vocabulary_size(anatomy: Anatomy) -> int:
    """How many tokens have logits; raises `CaptureError` where the output embedding does not say."""
    return _sizes(anatomy.unembed)[1]


def unembedded(unembed: nn.Module, parts: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocab"]:
    """The output embedding's linear part."""
    weight = matrix(unembed)
    if weight is not None:
        return parts.to(weight.dtype) @ weight
    parts = parts.to(_dtype(unembed))
    made: Tensor = unembed.forward(parts) - unembed.forward(torch.zeros_like(parts[..., :1, :]))
    return made


def pulled_norm(norm: Norm, direction: Direction, rate: Float[Tensor, "pair 1"]) -> Direction:
    """The direction before a norm that stands for one behind it, the scale held: the transpose of `Norm.part`."""
    return norm.centred(norm.gain * direction) * rate


def pulled(
    module: nn.Module, direction: Float[Tensor, "pair made"], width: int
) -> Float[Tensor, "pair given"]:
    """The direction before a linear map of `width` inputs that stands for one behind it."""
    weight = matrix(module)
    if weight is not None:
        return direction @ weight.T.double()
    # A map that holds no plain matrix (quantised, adapters) still has the transpose as its gradient.
    with torch.enable_grad():
        zero = torch.zeros(len(direction), 1, width, dtype=_dtype(module), device=direction.device)
        made = module.forward(zero.requires_grad_())[:, 0]
        return torch.autograd.grad(made, zero, direction.to(made.dtype))[0][:, 0].double()


def _mean_column(unembed: nn.Module, tokens: Sequence[int]) -> Float[Tensor, " width"]:
    weight = matrix(unembed)
    if weight is not None:
        return weight[:, list(tokens)].double().mean(-1)
    width, vocabulary = _sizes(unembed)
    asked = torch.zeros(1, vocabulary, dtype=torch.float64, device=next(unembed.parameters()).device)
    asked[0, list(tokens)] = 1 / len(tokens)
    return pulled(unembed, asked, width)[0]


def _sizes(unembed: nn.Module) -> tuple[int, int]:
    found = widths(unembed)
    if found is None:
        raise CaptureError(
            f"the output embedding was asked; {type(unembed).__name__} does not say how wide it is: use methods that "
            "patch the model"
        )
    return found


def _dtype(module: nn.Module) -> torch.dtype:
    floating = [one.dtype for one in module.parameters() if one.is_floating_point()]
    return floating[0] if floating else torch.get_default_dtype()
