"""Integrated gradients: attribution with the mean gradient on the straight line between the two prompts' embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probe.circuits.attribution import Gathered, several
from probe.circuits.gradients import gradient_run, require_gradients, require_slope
from probe.circuits.nodes import TOLD, Key, Node
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.circuits.taps import Write
from probe.circuits.trace import Trace
from probe.circuits.where import Where
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report

BIBTEX = """@inproceedings{hanna2024have,
  title={Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms},
  author={Hanna, Michael and Pezzelle, Sandro and Belinkov, Yonatan},
  booktitle={Conference on Language Modeling},
  year={2024}
}"""


def integrated_gradients(
    model: object,
    pairs: Pairs = "ioi",
    nodes: str | Sequence[str] = "z",
    *,
    at: str = "all",
    steps: int = 8,
    layers: Sequence[int] | None = None,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What each value carries of the difference, by its mean gradient on the way from the corrupt to the clean prompt.

    ``score = (a_clean - a_corrupt) · mean_α dM/da(α) / (m_clean - m_corrupt)``: run α has the stream
    ``corrupt + α (clean - corrupt)`` entering block 0, for the midpoints α of `steps` equal parts of 0 to 1. Complete:
    the scores of ``resid_pre`` in layer 0 sum to 1 over positions, up to an error that falls with ``steps²``. Either
    direction of patching has the same scores. Costs two forwards and `steps` forwards with a backward. Arguments,
    answers and errors are those of `attribution_patching`; besides:

    Args:
        model: A decoder, not quantised.
        pairs: A task, or pairs.
        nodes: One or several, such as ``z`` or ``z+mlp_out``.
        at: ``all``, a mark, ``marks`` or ``tokens``.
        steps: Runs between the two prompts, at least 1.
        layers: Only these layers.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer per node, ``integrated_gradients:nodes=…``.

    Raises:
        UsageError: fewer than one step.
    """
    asked = CircuitOptions.of(options, changes)
    kinds = several(nodes)
    require_steps(steps)
    loaded = as_loaded(model)
    require_gradients(loaded, "integrated_gradients")
    require_slope(asked, "integrated_gradients")
    with study(loaded, pairs, asked) as case:
        where = Where.of(at, case.pairs)
        effects = integrate(case, kinds, where, steps, layers)
        answers = [
            Told(
                f"integrated_gradients:nodes={kind},at={at},steps={steps}",
                f"Share of the {asked.measure} difference that {TOLD[kind]} carries by its mean gradient between the "
                "two prompts; 1 is all",
                "share of the difference", "Hanna et al. 2024 (arXiv:2403.17806)", BIBTEX,
            ).answer(found.map, found.by_prompt, found.extra)
            for kind, found in effects.items()
        ]  # fmt: skip
        settings = {"method": "integrated", "nodes": "+".join(kinds), "at": at, "steps": steps}
        return make_report(case, answers, settings)


def integrate(
    case: Study, kinds: Sequence[Node], where: Where, steps: int, layers: Sequence[int] | None = None
) -> dict[Node, Effects]:
    """The scores of every unit, layer and place of several nodes, of pairs that are studied already."""
    gathered = Gathered(case, where, layers)
    for number, batch in enumerate(case.batches):
        case.options.tell(number, len(case.batches), "integrated gradients")
        clean, corrupt = (
            case.engine.record(batch, side, {*kinds, "resid_pre"}) for side in ("clean", "corrupt")
        )
        mean: dict[Key, Tensor] = {}
        for write in between(clean, corrupt, steps):
            found = gradient_run(case, batch, "corrupt", kinds, write).gradients
            mean = {key: mean.get(key, 0) + one / steps for key, one in found.items()}
        moved = {key: clean.value(*key) - corrupt.value(*key) for key in clean.seen if key[0] in kinds}
        gathered.add(batch, {key: (moved[key] * mean[key]).double().sum(-1) for key in moved})
    case.options.tell(len(case.batches), len(case.batches), "integrated gradients")
    return gathered.effects(kinds, case.gap)


def between(clean: Trace, corrupt: Trace, steps: int) -> list[dict[Key, Write]]:
    """The streams that enter block 0 on the way from the corrupt to the clean prompt, as writes."""
    first: Key = ("resid_pre", clean.layers("resid_pre")[0])
    here, there = corrupt.value(*first), clean.value(*first)
    everywhere = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=here.device)
    shares = [(step + 0.5) / steps for step in range(steps)]
    return [{first: Write(here + share * (there - here), everywhere)} for share in shares]


def require_steps(steps: int) -> None:
    """Raise `UsageError` for fewer than one step."""
    if steps < 1:
        raise UsageError(f"{steps} steps were asked; ask for at least 1")
