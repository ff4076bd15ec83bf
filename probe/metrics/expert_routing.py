"""Expert routing: how often each expert of a mixture is chosen."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from probe_kernels.types import Attended
from torch import Tensor, nn

from probe.errors import UnknownNameError
from probe.interventions.routers import Router, chosen_of
from probe.metrics.base import Cell, CellKey, MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import DAHLKE_2025
from probe.metrics.point_metric import PointMetric, real_tokens, token_index
from probe.seam.call import Activation, AttentionCall, Place, Point
from probe.seam.places import places
from probe.seam.recorded import recorded

# What configs call the number of experts that a token is sent to.
_CHOICES = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "top_k", "moe_topk")


class ExpertRouting(PointMetric):
    """Share of tokens that route each expert, in [0, 1]; a layer's shares sum to the experts that a token is sent to.

    The choice is the router's own where it returns it; else the `k` largest router logits, which is not the same
    where a model corrects them or chooses by groups: ``own_choice`` in `extra` is 1 or 0. Shared experts and routed
    heads inside attention do not count. With `span`, only the tokens of that span of the prompts.

    Dahlke et al. 2025, Mixture of Tunable Experts (arXiv:2502.11096).

    Args:
        k: Experts per token where the router does not return its choice; 0 = what the model's config says.
        span: A named span; all tokens if left out.

    >>> ExpertRouting(span="prompt").spec
    'expert_routing:span=prompt'
    """

    info: ClassVar = MetricInfo(
        name="expert_routing",
        summary="Share of tokens that route each expert, in [0, 1].",
        unit="share of tokens",
        better="high",
        paper="Dahlke et al. 2025",
        bibtex=DAHLKE_2025,
        axis="expert",
    )
    points: ClassVar = frozenset({"router_logits"})

    def __init__(self, k: int = 0, span: str = "") -> None:
        super().__init__(k=k, span=span)
        at_least("expert_routing", "k", k, 0)
        self.k, self.span = k, span
        self._choices = k or 1  # without a model to ask, the best expert alone
        self._absent = ""
        self._known: set[str] | None = None  # the routers that count; None: no model to ask
        self._chosen: dict[str, Tensor] = {}  # by router: what it said it chose

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Find the routers, and watch what they choose; a model without them is not applicable."""
        inside = places(model)
        routers = [
            one
            for one in recorded(model, "router_logits")
            if not any(f"{one.name}.".startswith(f"{attention}.") for attention in inside)
        ]
        if not routers:
            vars(self)["points"] = frozenset[Point]()  # asked for routers, such a model would be refused
            self._absent = f"{type(model).__name__} has no routed experts (it declares no router)"
            return lambda: None
        self._known = {one.name for one in routers}
        self._choices = self.k or _of_config(model) or 1
        handles = [one.module.register_forward_hook(self._note(one.name, one.index)) for one in routers]

        def close() -> None:
            for handle in handles:
                handle.remove()

        return close

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Where the model has no router, keep that reason."""
        if not self._absent:
            return
        for prompt in call.batch.prompts:
            cell = self.cells.setdefault(CellKey(prompt, call.place.tower, call.place.layer), {})
            cell["not_applicable"] = torch.tensor(list(self._absent.encode()), dtype=torch.uint8)
            cell["n_heads"] = torch.tensor(1)

    def see(self, seen: Activation) -> None:
        """Count the experts of real tokens."""
        if self._known is not None and seen.place.module not in self._known:
            return
        rows, length, experts = seen.value.shape
        chosen = self._chosen.pop(seen.place.module, None)
        own = chosen is not None and chosen.numel() % (rows * length) == 0
        if chosen is None or not own:
            self.checked(seen.value.masked_fill(~real_tokens(seen)[..., None], 0.0), seen)
            chosen = seen.value.float().topk(min(self._choices, experts), dim=-1).indices
        chosen = chosen.reshape(rows, length, -1)
        counts = self._counts(seen)
        one_hot = torch.zeros(rows, length, experts, dtype=torch.float64, device=chosen.device)
        one_hot.scatter_(-1, chosen.long(), 1.0)
        totals = (one_hot * counts.to(chosen.device)[..., None]).sum(1).cpu()
        for row, total in enumerate(totals):
            cell = self.seen_cell(seen, row)
            number = counts[row].sum().cpu().double().expand(experts)
            cell["total"] = cell.get("total", torch.zeros(experts, dtype=torch.float64)) + total
            cell["count"] = cell.get("count", torch.zeros(experts, dtype=torch.float64)) + number
            cell["own"] = torch.tensor(own)

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Whether the choice is what the router returned."""
        return {"own_choice": (float(cell["own"]), 1.0)}

    def _counts(self, seen: Activation) -> Bool[Tensor, "batch token"]:
        """The tokens that count."""
        real = real_tokens(seen)
        if not self.span:
            return real
        index = token_index(seen).cpu()
        inside = torch.zeros_like(index, dtype=torch.bool)
        for row, spans in enumerate(seen.batch.spans):
            if self.span not in spans:
                raise UnknownNameError(
                    f"prompt {seen.batch.prompts[row]}: " + str(UnknownNameError.of("span", self.span, spans))
                )
            flags = spans[self.span].bool().cpu()
            inside[row] = (
                flags[index[row].clamp(0, len(flags) - 1)] & (index[row] >= 0) & (index[row] < len(flags))
            )
        return inside.to(real.device) & real

    def _note(self, name: str, index: int) -> Callable[..., None]:
        """Keep the numbers of the experts that a router says it chose."""

        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            logits = output[index] if isinstance(output, tuple | list) else output
            chosen = chosen_of(output, Router(Place(name, "", 0), int(logits.shape[-1])))
            if chosen is not None:
                self._chosen[name] = chosen.detach()

        return hook


def _of_config(model: nn.Module) -> int | None:
    """How many experts a token is sent to, as the model's config says."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _CHOICES:
        value = getattr(text, name, None)
        if isinstance(value, int):
            return value
    inner = getattr(text, "ffn_config", None)
    return None if inner is None else getattr(inner, "moe_top_k", None)
