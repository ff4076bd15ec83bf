"""The ways in which a model is run: one forward, from a cache, and every kind of generation; each gives numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from subjects.cached import continued_steps
from subjects.subject import Inputs, Subject
from torch import Tensor, nn

from probe.seam.session import Session

WAYS = ("forward", "cached", "greedy", "sampled", "beams")
_NEW = 3
_GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "beams": {"do_sample": False, "num_beams": 2},
}


def ways_of(subject: Subject) -> tuple[str, ...]:
    """The ways in which a subject can be run."""
    ways = ["forward"]
    if subject.cache and subject.kind in ("decoder", "seq2seq"):
        ways.append("cached")
    if subject.generate:
        ways += _GENERATION
    return tuple(ways)


def padded(subject: Subject, way: str) -> bool:
    """Whether a subject is run with left padding in this way."""
    return subject.padding and (way != "cached" or subject.cache_padding)


def outputs(
    model: nn.Module, subject: Subject, inputs: Inputs, way: str, session: Session, spans: Sequence[Any] = ()
) -> dict[str, Tensor]:
    """What a run in one way gives, by name: logits or other float outputs, and tokens where some are generated."""
    if spans:
        session.announce(spans)
    with torch.no_grad():
        if way == "forward":
            given = model(**inputs)
            return {k: v for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()}
        if way == "cached":
            return {"logits": continued_steps(model, inputs, _length(inputs) - _NEW)}
        torch.manual_seed(3)
        made = model.generate(
            **inputs,
            **_GENERATION[way],
            max_new_tokens=_NEW,
            min_new_tokens=_NEW,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return {"logits": torch.stack(made.logits), "tokens": made.sequences}


def _length(inputs: Inputs) -> int:
    return int(inputs.get("decoder_input_ids", inputs.get("input_ids")).shape[1])


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor], subject: Subject, inputs: Inputs) -> float:
    """Largest difference of any output at real positions; infinite where tokens differ."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"outputs differ in kind: {sorted(ours)} and {sorted(theirs)}")
    gap = 0.0
    for name, value in theirs.items():
        if name == "tokens":
            gap = max(gap, 0.0 if torch.equal(value, ours[name]) else float("inf"))
            continue
        difference = _real(name, (value.double() - ours[name].double()).abs(), subject, inputs)
        gap = max(gap, float("nan") if difference.isnan().any() else float(difference.max()))
    return gap


def _real(name: str, gap: Tensor, subject: Subject, inputs: Inputs) -> Tensor:
    mask = inputs.get("attention_mask")
    decoder_side = subject.kind in ("seq2seq", "audio") and not name.startswith("encoder")
    if mask is None or decoder_side or gap.ndim != 3 or gap.shape[:2] != mask.shape:
        return gap
    return gap[mask.bool()]
