"""What the conformance test asserts and docs/architectures.py tabulates: one forward compared with another."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from probe_kernels.types import Attended, Want
from subjects.oracle import Weights
from subjects.subject import Inputs, Subject
from torch import Tensor, nn

from probe.seam.call import AttentionCall
from probe.seam.session import Session

STATISTICS = ("entropy", "square", "top_p", "mass", "column")


@dataclass
class Row:
    """One call's statistics in float64: per row ``[batch, head, query]``, `column` ``[batch, head, key]``."""

    module: str
    tower: str
    layer: int
    phase: str
    values: dict[str, Tensor]
    query_real: Tensor
    query_pos: Tensor
    key_pos: Tensor


@dataclass
class Tally:
    """An observer that keeps the statistics of every call."""

    rows: list[Row] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def want(self, call: AttentionCall) -> Want:
        everything = torch.zeros(1, call.size[2], dtype=torch.int16)
        return Want(
            z=False, entropy=True, square=True, top=True, column=True, key_groups={"tally": everything}
        )

    def update(self, call: AttentionCall, attended: Attended) -> None:
        values = {
            "entropy": attended.entropy,
            "square": attended.square,
            "top_p": attended.top_p,
            "mass": attended.key_groups["tally"][..., 0],
            "column": attended.column,
            "sink": attended.sink_mass
            if attended.sink_mass is not None
            else torch.zeros_like(attended.entropy),
        }
        kept = {name: value.detach().double() for name, value in values.items() if value is not None}
        place, layout = call.place, call.layout
        self.rows.append(
            Row(
                place.module,
                place.tower,
                place.layer,
                call.phase,
                kept,
                call.query_real,
                layout.query_pos,
                layout.key_pos,
            )
        )


def run(
    model: nn.Module, inputs: Inputs, mode: str | None = None, tally: Tally | None = None
) -> dict[str, Tensor]:
    """One forward, observed where a mode is given; its float outputs by name."""
    if mode is None:
        with torch.no_grad():
            return outputs(model(**inputs))
    tally = tally or Tally()
    with torch.no_grad(), Session(model, [tally], mode=mode) as session:  # type: ignore[arg-type]
        output = model(**inputs)
        tally.unseen = session.unseen_layers
    return outputs(output)


def outputs(output: object) -> dict[str, Tensor]:
    """The float tensors of a model's output by name, caches and weights left out."""
    named = dict(output.items()) if hasattr(output, "items") else {"output": output}
    return {k: v for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point()}


def drift(native: dict[str, Tensor], other: dict[str, Tensor], subject: Subject, inputs: Inputs) -> float:
    """Largest absolute difference over all outputs, at real positions only."""
    if native.keys() != other.keys():
        raise ValueError(f"outputs differ in kind: {sorted(native)} and {sorted(other)}")
    worst = 0.0
    for name, value in native.items():
        gap = (value.double() - other[name].double()).abs()
        real = _real(name, gap, subject, inputs)
        gap = gap if real is None else gap[real]
        worst = max(worst, float("nan") if gap.isnan().any() else float(gap.max()))
    return worst


def _real(name: str, gap: Tensor, subject: Subject, inputs: Inputs) -> Tensor | None:
    mask = inputs.get("attention_mask")
    decoder_side = subject.kind in ("seq2seq", "audio") and not name.startswith("encoder")
    if (
        mask is None
        or decoder_side
        or gap.ndim < 2
        or gap.shape[1] > mask.shape[1]
        or gap.shape[0] != len(mask)
    ):
        return None
    return mask[:, -gap.shape[1] :].bool() if gap.ndim == 3 else None


def expected(weights: Weights, row: Row) -> dict[str, Tensor]:
    """The statistics of `row` from the model's own weights, in float64.

    Rows of a model with learned sinks sum to 1 - sink mass. Where the model's eager weights sum to one although the
    output is scaled down by a sink, they are scaled down here as well.
    """
    p, sink = weights.pattern, row.values["sink"]
    total = p.sum(-1)
    if float(sink.max()) > 0 and float((total - 1).abs().max()) < 1e-5:
        p = p * (1 - sink)[..., None]
    rest = (1 - p.sum(-1)).clamp_min(0) if float(sink.max()) > 0 else torch.zeros_like(total)
    seen = row.query_real[:, None, :, None]
    return {
        "entropy": torch.special.entr(p).sum(-1) + torch.special.entr(rest),
        "square": p.square().sum(-1),
        "top_p": p.amax(-1),
        "mass": p.sum(-1),
        "column": (p * seen).sum(-2),
    }


def statistics_error(rows: Sequence[Row], weights: Sequence[Weights]) -> float:
    """Largest |ours - theirs| / (1 + |theirs|) over calls, statistics and real rows; calls must agree in order."""
    if [row.module for row in rows] != [one.module for one in weights]:
        raise ValueError(f"calls differ: {[r.module for r in rows]} seen, {[w.module for w in weights]} made")
    worst = 0.0
    for row, one in zip(rows, weights, strict=True):
        truth = expected(one, row)
        for name in STATISTICS:
            ours = row.values[name]
            if ours.shape != truth[name].shape:
                raise ValueError(
                    f"{row.module}: {name} is {tuple(ours.shape)}, not {tuple(truth[name].shape)}"
                )
            error = (ours - truth[name]).abs() / (1 + truth[name].abs())
            if name != "column":
                error = error.masked_fill(~row.query_real[:, None], 0.0)
            worst = max(worst, float("nan") if error.isnan().any() else float(error.max()))
    return worst
