"""``probe.capture``: labelled raw arrays of a forward or a generation, only what was asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from probe.analysis.captured.ask import Ask, HeadsLike, LayersLike
from probe.analysis.captured.disk import DiskStore
from probe.analysis.captured.labels import TokenAxes
from probe.analysis.captured.memory import MemoryStore
from probe.analysis.captured.numbering import Numbering
from probe.analysis.captured.observer import CaptureObserver
from probe.analysis.captured.pieces import Labels, Slot
from probe.analysis.captured.positions import PositionsLike
from probe.analysis.captured.result import Captured
from probe.analysis.captured.size import measure, refuse_above, size_of
from probe.analysis.forward import Runner, out_of_memory
from probe.analysis.inputs import Item, read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.errors import UsageError
from probe.models import LoadedModel, as_loaded
from probe.seam.session import Session


def capture(
    model: object,
    prompts: object,
    what: str | list[str] | tuple[str, ...] = ("pattern",),
    layers: LayersLike = None,
    heads: HeadsLike = None,
    queries: PositionsLike = None,
    keys: PositionsLike = None,
    *,
    mode: str = "shadow",
    max_bytes: int = 2**30,
    to: str | Path | None = None,
    generate: int | None = None,
) -> Captured:
    """Raw arrays of a model's attention, labelled, and nothing beyond what was asked.

    ``capture(model, "text", ["pattern", "z"], layers=[18], heads=[6])["pattern"]`` has axes (layer, head,
    query_pos, key_pos) and the tokens as coordinates. Rows, heads and layers that were not asked are neither
    computed nor kept.

    Args:
        model: Name, folder, hub id, `LoadedModel`, HF model, or (HF model, tokenizer).
        prompts: Text, a `Prompt`, a mapping of model inputs, or a list of these; several are kept apart.
        what: ``pattern, scores, lse, z, head_out, q, k, v, resid_pre, resid_post, mlp_out``.
        layers: Numbers (that layer of every tower) or names (``L18``, ``enc.L3``); None is all.
        heads: Numbers (in every asked layer) or names (``L18.H6``, which also choose layers); None is all. Of k and
            v, the key/value heads that the asked heads read.
        queries: Rows (and tokens of the residual stream): a slice, token indices, or span names. Indices count real
            tokens from 0, negative ones from the prompt's end; generated tokens follow the prompt.
        keys: Columns, and the keys of k and v, likewise.
        mode: ``shadow``: the model's own attention makes the output, and patterns come from its q and k.
            ``fused``: output and patterns come out of our kernel's sweep, with every edit in force.
        max_bytes: The most that may be kept in memory; the size is known before anything is captured.
        to: An empty folder to write shards to as they come, of any size; arrays are read from there when indexed.
        generate: Generate so many tokens greedily and keep every step: rows of later steps follow those of the
            prompt, at their absolute positions, over one key axis. Keys later than a row hold what hidden keys hold
            (pattern 0, scores -inf), so the result is that of one forward over the whole text.

    Returns:
        `Captured`, a mapping from name to DataArray; `CapturedOnDisk` with `to`.

    Raises:
        BudgetError: the arrays need more than `max_bytes` (or than the disk has left); the message names the size.
        UnknownNameError: an array, layer, head or span that does not exist.
        UsageError: positions that the prompt does not have, or generation where the model cannot generate.
        OutputError: `to` is not an empty, writable folder.
        CaptureError: the model does not show what was asked (it bypasses the registry; its W_O cannot be told).
    """
    ask = Ask.of(what, layers, heads, queries, keys)
    if mode not in ("shadow", "fused"):
        raise UsageError(f"mode {mode!r} was asked; there are 'shadow' and 'fused'")
    loaded = as_loaded(model)
    _check_generate(loaded, generate)
    items = read_inputs(prompts, loaded, AnalyzeOptions()).items
    runner = Runner(loaded)
    shapes = measure(loaded, runner, items[0], ask)
    axes = [_axes(runner, item, generate) for item in items]
    needed = sum(size_of(ask, shapes, one) for one in axes)
    if to is None:
        refuse_above(max_bytes, needed, ask, shapes)
    notes: list[str] = []
    numbering = Numbering()
    with MemoryStore(max_bytes) if to is None else DiskStore(to, needed) as store:
        for item, one in zip(items, axes, strict=True):
            observer = CaptureObserver(ask, one, store, numbering, fused=mode == "fused")
            notes += _run(runner, item, observer, generate)
            store.label({slot: _labels(slot, observer) for slot in store.open_slots})
            numbering.next_item()
        return store.finish(tuple(dict.fromkeys(notes)))


def _check_generate(loaded: LoadedModel, generate: int | None) -> None:
    if generate is None:
        return
    if not isinstance(generate, int) or isinstance(generate, bool) or generate < 1:
        raise UsageError(f"generate={generate!r} was asked; give a number of new tokens of at least 1")
    can = getattr(loaded.model, "can_generate", None)
    if can is None or not can():
        raise UsageError(f"generate={generate} was asked; {loaded.name} cannot generate: leave it out")


def _axes(runner: Runner, item: Item, generate: int | None) -> TokenAxes:
    axes = TokenAxes.of(item, runner.tensors([item]), runner.encoder_decoder, runner.loaded.tokenizer)
    return axes if generate is None else axes.expecting(generate)


def _run(runner: Runner, item: Item, observer: CaptureObserver, generate: int | None) -> list[str]:
    """One item through the model under a session of its own; returns the lines that a reader must see."""
    model = runner.model
    mode: Literal["shadow", "fused"] = "fused" if observer.fused else "shadow"
    with Session(model, [observer], mode=mode) as session, out_of_memory("a capture", item.n_tokens):
        # An edit that is in force makes the whole model fused, whatever was asked here.
        observer.fused = session.mode == "fused"
        undo = observer.attach(model)
        try:
            inputs = runner.tensors([item])
            if generate is None:
                runner.run(inputs)
            else:
                sequences = _generate(runner, inputs, generate)
                observer.axes = observer.axes.generated(sequences, runner.loaded.tokenizer)
        finally:
            undo()
        return [*session.notes, *observer.notes, *_edit_notes(session, observer)]


def _edit_notes(session: Session, observer: CaptureObserver) -> list[str]:
    interventions = [one for member in session.hub.members for one in member.interventions]
    edited = any(hasattr(one, "edits") for one in interventions)
    if not edited or "scores" not in observer.ask.what:
        return []
    return ["scores are those before the edits in force; pattern, lse and z are those after them"]


def _generate(runner: Runner, inputs: dict[str, Any], new_tokens: int) -> Tensor:
    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": new_tokens, "use_cache": True}
    decode: Callable[..., Tensor] = runner.model.generate  # type: ignore[assignment]
    with torch.no_grad():
        return decode(**inputs, **greedy, return_dict_in_generate=False)


def _labels(slot: Slot, observer: CaptureObserver) -> Labels:
    row = observer.numbering.row(slot.tower, slot.prompt)
    query = observer.axes.axis(slot.tower, "query", row)
    key = observer.axes.axis(slot.tower, "key", row)
    return Labels(query.tokens, key.tokens, {"mode": "fused" if observer.fused else "shadow"})
