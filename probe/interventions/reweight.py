"""Mixture-of-heads gates: every head's z is multiplied by a gate, fixed or by the norm of its query."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Float
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_z
from probe.interventions.head_norms import largest, query_norms
from probe.interventions.target import Target, Where, name_of
from probe.interventions.top_heads import checked_keep, drawn_heads, require_fewer
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId

Form = Literal["hard", "soft"]


@dataclass(frozen=True)
class FixedGates:
    """z_h := gate_h · z_h, the same gate at every token."""

    target: Target
    gates: tuple[tuple[HeadId, float], ...]

    @property
    def name(self) -> str:
        """How reports name it."""
        text = "+".join(f"{head}={gate:g}" for head, gate in self.gates)
        return name_of("reweight", replace(self.target, heads=None), gates=text)

    def control(self, seed: int) -> "FixedGates":
        """The same gates, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with the chosen heads' z multiplied."""
        place = call.place
        here = [gate for head, gate in self.gates if (head.tower, head.layer) == (place.tower, place.layer)]
        if not here:
            return attended
        return edit_z(self.target, call, attended, lambda z: z * z.new_tensor(here)[:, None, None])


@dataclass(frozen=True)
class QueryGates:
    """z_h := gate_h · z_h, with gates from a router over the layer's chosen heads, anew at every token.

    ``router = softmax over heads of (‖q_h‖ - mean) / std``. ``hard``: gate 1 for the `keep` largest, 0 for the rest.
    ``soft``: gate = m · router_h / Σ of the router over the m heads that are kept (all of them without `keep`), so that
    the kept gates average 1, and 0 for the rest.
    """

    target: Target
    keep: int | None
    form: Form
    drawn: int | None = None

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of(
            "reweight", self.target, by="query_norm", keep=self.keep, form=self.form, control=self.drawn
        )

    def control(self, seed: int) -> "QueryGates":
        """The same gates, dealt to the layer's heads in a random order at every token, drawn with `seed`."""
        return replace(self, drawn=seed)

    def require(self, where: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `UsageError` where `keep` would silence no head of a layer."""
        self.target.require(where, heads)
        if self.keep is not None:
            for module, place in where.items():
                require_fewer(self.name, self.keep, self.target, (module, place), heads)

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with every chosen head's z multiplied by its gate."""
        heads = self.target.heads_of(call)
        if not heads or (self.form == "hard" and self.keep is not None and self.keep >= len(heads)):
            return attended
        gates = self._dealt(call, self._gates(query_norms(call, heads)))
        return edit_z(self.target, call, attended, lambda z: z * gates[..., None].to(z.dtype))

    def _gates(
        self, norms: Float[Tensor, "batch chosen query_pos"]
    ) -> Float[Tensor, "batch chosen query_pos"]:
        kept = largest(norms, self.keep or norms.shape[1])
        if self.form == "hard":
            return kept.to(norms.dtype)
        router = router_of(norms).masked_fill(~kept, 0.0)
        return router * kept.sum(1, keepdim=True) / router.sum(1, keepdim=True)

    def _dealt(
        self, call: AttentionCall, gates: Float[Tensor, "batch chosen query_pos"]
    ) -> Float[Tensor, "batch chosen query_pos"]:
        if self.drawn is None:
            return gates
        n_heads = gates.shape[1]
        first = [drawn_heads(self.drawn, call, n_heads, keep) for keep in range(1, n_heads + 1)]
        rank = n_heads - torch.stack(first).sum(0)  # 0 for the head that is drawn first
        return gates.sort(dim=1, descending=True).values.gather(1, rank)


def router_of(norms: Float[Tensor, "batch chosen query_pos"]) -> Float[Tensor, "batch chosen query_pos"]:
    """Softmax over heads of the standardised norms (mean 0, population standard deviation 1); uniform if all equal."""
    centred = norms - norms.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return (centred / spread.clamp_min(torch.finfo(norms.dtype).tiny)).softmax(dim=1)


def reweight(
    gates: str | Mapping[str, float] | None = None,
    by: Literal["query_norm"] | None = None,
    keep: int | None = None,
    form: Form = "hard",
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Where],
) -> FixedGates | QueryGates:
    """Multiply heads by gates before the output projection, as a mixture of heads does.

    Jin et al. 2024, MoH: Multi-Head Attention as Mixture-of-Head Attention, arXiv:2410.11842. Either give fixed gates,
    or ``by="query_norm"``: the parameter-free router of their LLaMA-3 form, ``softmax over heads of the standardised
    ‖q_h‖``, with a hard top-k mask (``form="hard"``, as they run LLaMA-3) or soft gates that average 1
    (``form="soft"``, as in their vision models). Theirs is trained with the gates; here they act on a model as it is.
    q is taken as scores are made from it: after RoPE and any norm of q.

    Args:
        gates: A gate per head, ``{"L1.H0": 0.5, "L1.H1": 2}``, or as text ``L1.H0=0.5+L1.H1=2``. 1 changes nothing.
        by: ``query_norm``, instead of `gates`.
        keep: Heads that stay per layer and token; needed by the hard form.
        form: ``hard`` or ``soft``; with `by` only.
        heads: Routed heads, with `by` only; heads left out are shared: they always write with gate 1.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: both or neither of `gates` and `by`; a gate, head, number, layer, span or phase that cannot be one.
    """
    if (gates is None) == (by is None):
        raise UsageError("reweight was asked with both or neither of gates and by; give one of them")
    if gates is not None:
        if heads is not None or keep is not None or form != "hard":
            raise UsageError("reweight with gates takes no heads, keep or form: the gates name the heads")
        table = _table(gates)
        return FixedGates(Target.of(list(table), where), tuple(sorted(table.items())))
    if by != "query_norm" or form not in get_args(Form):
        raise UsageError(
            f"reweight by={by!r}, form={form!r} was asked; there are query_norm, and hard or soft"
        )
    if form == "hard" and keep is None:
        raise UsageError(
            "reweight by query_norm was asked in its hard form; give keep, the heads that stay per token"
        )
    number = None if keep is None else checked_keep(keep, "keep")
    return QueryGates(Target.of(heads, where, selects=("per_step",)), number, form)


def _table(gates: str | Mapping[str, float]) -> dict[HeadId, float]:
    if not isinstance(gates, str | Mapping):
        raise UsageError(
            f"reweight with gates={gates!r} was asked; give a gate per head, such as {{'L1.H0': 0.5}}"
        )
    pairs = [_pair(part) for part in gates.split("+")] if isinstance(gates, str) else list(gates.items())
    if not pairs:
        raise UsageError("reweight with no gates was asked; give at least one, such as L1.H0=0.5")
    table: dict[HeadId, float] = {}
    for head, gate in pairs:
        named = HeadId.parse(head)
        if named in table:
            raise UsageError(f"reweight was asked with two gates for {named}; give one")
        if isinstance(gate, bool) or not isinstance(gate, int | float) or not math.isfinite(gate):
            raise UsageError(f"gate {gate!r} was asked for {named}; a gate is a finite number")
        table[named] = float(gate)
    return table


def _pair(part: str) -> tuple[str, float]:
    head, equals, gate = part.partition("=")
    try:
        return head, float(gate if equals else "")
    except ValueError as error:
        raise UsageError(
            f"gate {part!r} was asked; write HEAD=NUMBER, joined by +: L1.H0=0.5+L1.H1=2"
        ) from error
