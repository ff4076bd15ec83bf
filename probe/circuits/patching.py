"""Activation patching: one value of the other run at a time, and how much of the difference it carries."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.nodes import PER_HEAD, PER_KV_HEAD, TOLD, Node, Side, node
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.circuits.taps import Write
from probe.circuits.trace import Trace
from probe.circuits.where import Where
from probe.errors import UsageError
from probe.report import Report

Direction = Literal["denoise", "noise"]
MOST_TOKENS = 4096  # in one patched forward
MOST_LOGITS = 2**25  # numbers of logits in one patched forward

BIBTEX = """@inproceedings{zhang2024towards,
  title={Towards Best Practices of Activation Patching in Language Models: Metrics and Methods},
  author={Zhang, Fred and Nanda, Neel},
  booktitle={International Conference on Learning Representations},
  year={2024}
}"""


def activation_patching(
    model: object,
    pairs: Pairs = "ioi",
    nodes: str = "z",
    *,
    at: str = "all",
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """How much of the difference between two runs each value carries, by putting it into the other run.

    ``recovery = (m_patched - m_from) / (m_to - m_from)``, means over pairs above and below: 0 where the patch does
    nothing, 1 where it does all that the whole prompt would (values below 0 and above 1 occur). ``denoise``: values of
    the clean run go into the corrupt one (from = corrupt), which finds what suffices. ``noise``: values of the corrupt
    run go into the clean one (from = clean), which finds what is needed.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs.
        nodes: What is patched: ``z, q, k, v, pattern`` by head, ``resid_pre, resid_mid, resid_post, attn_out,
            mlp_out`` by layer.
        at: ``all`` positions at once, a mark such as ``end``, or ``marks`` or ``tokens`` one after another.
        direction: ``denoise`` or ``noise``.
        layers: Only these layers.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``, ``measure="kl"``).

    Returns:
        A report with one answer, ``activation_patching:nodes=…``; its map is per head, or per layer for nodes without
        heads. With places told apart, ``extra["by_position"]`` has them as its last axis, and the map sums over them.

    Raises:
        UsageError: an unknown node, place or direction; a model that does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: nodes that the model does not have.
    """
    asked = CircuitOptions.of(options, changes)
    kind = node(nodes)
    if direction not in ("denoise", "noise"):
        raise UsageError(f"direction {direction!r} was asked; it is 'denoise' or 'noise'")
    with study(model, pairs, asked) as case:
        where = Where.of(at, case.pairs)
        effects = patch_each(case, kind, where, direction, layers)
        told = Told(
            f"activation_patching:nodes={kind},at={at},direction={direction}",
            f"Share of the {asked.measure} difference that {TOLD[kind]} carries when patched ({direction}); 1 is all",
            "share of the difference", "Zhang & Nanda 2024 (arXiv:2309.16042)", BIBTEX,
        )  # fmt: skip
        answer = told.answer(effects.map, effects.by_prompt, effects.extra)
        settings = {"method": "activation", "nodes": kind, "at": at, "direction": direction}
        return make_report(case, [answer], settings)


def patch_each(
    case: Study,
    kind: Node,
    where: Where,
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
) -> Effects:
    """The recovery of every unit, layer and place, of pairs that are studied already."""
    source, into = sides(direction)
    found: dict[int, list[Tensor]] = {}
    blocks = case.engine.taps.anatomy.blocks
    chosen = [case.engine.taps.anatomy.block(n).place.layer for n in layers] if layers is not None else None
    wanted = chosen or [
        block.place.layer for block in blocks if kind not in (*PER_HEAD, *PER_KV_HEAD) or block.attention
    ]
    total, done = len(wanted) * len(case.batches), 0
    for batch in case.batches:
        trace = case.engine.record(batch, source, [kind])
        for layer in wanted:
            case.options.tell(done, total, f"patching {kind}: layer {layer}")
            found.setdefault(layer, []).append(_layer(case, batch, trace, (kind, layer, where, into)))
            done += 1
    case.options.tell(total, total, f"patching {kind}")
    scores = {layer: recovery(case, case.joined(parts), into) for layer, parts in found.items()}
    return Effects(kind, scores, where.places)


def sides(direction: Direction) -> tuple[Side, Side]:
    """Which run values are taken from, and which they are put into."""
    return ("clean", "corrupt") if direction == "denoise" else ("corrupt", "clean")


def recovery(case: Study, patched: Tensor, into: Side) -> Tensor:
    """``(m_patched - m_from) / (m_to - m_from)`` per pair, the mean over pairs in the denominator."""
    gap = case.gap if into == "corrupt" else -case.gap
    return (patched - case.base(into)) / gap


def _layer(case: Study, batch: Batch, trace: Trace, what: tuple[Node, int, Where, Side]) -> Tensor:
    """The measure with each unit of a layer patched at each place: ``[unit, place, pair]``."""
    kind, layer, where, into = what
    value = trace.value(kind, layer)
    masks = list(_variants(value.shape[1], batch, where))
    size = most_copies(case, batch)
    parts = []
    for start in range(0, len(masks), size):
        few = torch.stack(masks[start : start + size])
        logits = case.engine.patched(batch, into, {(kind, layer): Write(value, few)}, len(few))
        parts.append(case.numbers(batch, logits))
    return torch.cat(parts).reshape(value.shape[1], -1, len(batch))


def _variants(n_units: int, batch: Batch, where: Where) -> Iterator[Tensor]:
    """Flags ``[pair, unit, position]`` of every unit at every place, units outermost."""
    for unit in range(n_units):
        for place in where.masks(batch):
            alone = torch.zeros(place.shape[0], n_units, place.shape[1], dtype=torch.bool)
            alone[:, unit] = place
            yield alone


def most_copies(case: Study, batch: Batch) -> int:
    """How many copies of a batch one forward may take."""
    vocab = int(case.logits[batch, "clean"].shape[-1])
    by_tokens = MOST_TOKENS // (len(batch) * batch.length)
    return max(1, min(by_tokens, MOST_LOGITS // (len(batch) * vocab)))
