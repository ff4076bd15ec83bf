"""Direct logit attribution: what the embedding, every head and every MLP add to the logit difference themselves."""

from collections.abc import Sequence
from typing import Any

import torch

from probe.circuits.direct_tables import extra_of, joined, sources_of
from probe.circuits.logit_sources import require_elementwise
from probe.circuits.logit_split import READS, READS_OF_SOURCES, Split, split_difference
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.errors import CaptureError, UsageError
from probe.report import Report

BIBTEX = """@article{elhage2021mathematical,
  title={A Mathematical Framework for Transformer Circuits},
  author={Elhage, Nelson and Nanda, Neel and Olsson, Catherine and others},
  journal={Transformer Circuits Thread},
  year={2021}
}"""
TOLERANCE = 1e-4  # logits by which the parts may miss their sum
_ROUNDINGS = 16  # of the largest logit, in a precision in which that is more than the tolerance


def logit_attribution(
    model: object,
    pairs: Pairs = "ioi",
    *,
    sources: bool = False,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What each head adds to the logit difference directly, in logits (any sign); all parts sum to the difference.

    ``(mean of right - mean of wrong) = Σ_c d · w_c + biases``: w_c is what a component writes to the last position's
    residual stream, and d the difference of the output embedding's rows, taken back through the final norm with its
    scale held at its value. Where a model caps its logits, those before the cap are split.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs; the clean prompts are looked at.
        sources: Split every head's part by the token that it is read from.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``logit_attribution``; its map is per head. ``extra`` has, all in logits,
        ``component`` (embedding, heads, attention biases, MLPs, the final norm's and the unembedding's bias),
        ``attention``, ``attention_bias``, ``mlp`` and ``layer`` (attention and MLP) by layer, ``accumulated`` (the
        difference read off the stream that enters each layer, and off the last one, with the same scale) and, with
        `sources`, ``by_source`` per head and token: its sum over tokens is the head's own part.

    Raises:
        UsageError: another measure than the logit difference, or a model that does not solve the task.
        InputError: pairs that do not fit the model.
        CaptureError: a model whose parts cannot be told, or do not sum to the difference.
    """
    asked = CircuitOptions.of(options, changes)
    if asked.measure != "logit_difference":
        raise UsageError(
            f"direct attribution of {asked.measure} was asked; it splits what is linear in the logits: use "
            "logit_difference, or attribution_patching for other measures"
        )
    with study(model, pairs, asked) as case:
        splits, gated = _splits(case, sources)
        error = _checked(case, splits)
        heads = joined(case, [one.heads for one in splits])
        if not heads:
            raise CaptureError(
                f"heads of {case.loaded.name} were asked; no layer of it has attention of the seam"
            )
        effects = Effects("z", {layer: one[:, None] for layer, one in heads.items()})
        extra = extra_of(case, splits)
        notes = [f"the parts sum to the logit difference to {error:.1e}", *_notes(case, gated)]
        if sources:
            extra["by_source"], more = sources_of(case, splits)
            notes += more
        told = Told(
            f"logit_attribution:sources={str(sources).lower()}" if sources else "logit_attribution",
            "Logits that each head adds by itself to the difference of right and wrong at the last position, any sign",
            "logits", "Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)", BIBTEX,
        )  # fmt: skip
        answer = told.answer(effects.map, effects.by_prompt, extra, notes)
        return make_report(case, [answer], {"method": "logit_attribution", "sources": sources})


def _splits(case: Study, sources: bool) -> tuple[list[Split], list[int]]:
    """Every batch's split, and the layers whose z is gated or normalised before W_O where that matters."""
    found, gated = [], []
    for number, batch in enumerate(case.batches):
        case.options.tell(number, len(case.batches), "direct logit attribution")
        trace = case.engine.record(batch, "clean", READS_OF_SOURCES if sources else READS)
        found.append(split_difference(trace, batch, sources))
        if sources and number == 0:
            gated = require_elementwise(case.engine, batch, trace)
    case.options.tell(len(case.batches), len(case.batches), "direct logit attribution")
    return found, gated


def _checked(case: Study, splits: Sequence[Split]) -> float:
    """The largest error of the sums; raises `CaptureError` where it is more than rounding."""
    error = max(float((one.total - one.whole).abs().max()) for one in splits)
    logits = [case.logits[batch, "clean"] for batch in case.batches]
    rounding = max(float(one.abs().max()) * torch.finfo(one.dtype).eps for one in logits)
    allowed = max(TOLERANCE, _ROUNDINGS * rounding)
    if error > allowed:
        raise CaptureError(
            f"direct attribution of {case.loaded.name} was asked; its parts miss the logit difference by {error:.1e} "
            f"(allowed {allowed:.1e}), so something else writes to the stream, or the precision is too low: load it "
            "in float32, or use activation_patching"
        )
    return error


def _notes(case: Study, gated: Sequence[int]) -> list[str]:
    anatomy = case.engine.taps.anatomy
    said = []
    if anatomy.scale is None:
        said.append("the model caps its logits; those before the cap were split")
    bare = [block.place.layer for block in anatomy.blocks if block.attention is None]
    if bare:
        said.append(
            f"layers {', '.join(map(str, bare))} mix tokens without attention of the seam: what that adds counts as "
            "attention_bias"
        )
    if gated:
        said.append(
            f"in layers {', '.join(map(str, gated))} z is gated or normalised before W_O; that ratio was held for "
            "every source token"
        )
    return said
