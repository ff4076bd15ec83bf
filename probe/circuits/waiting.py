"""All-for-One: does a model solve a task although tokens wait, and then only the last one looks back, in few layers?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.measures import flags
from probe.circuits.peeking import Peeking
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.taps import Write
from probe.circuits.task_means import Reference
from probe.errors import UsageError
from probe.report import Report
from probe.seam.session import Session

BIBTEX = """@inproceedings{mamidanna2025all,
  title={All for One: {LLMs} Solve Mental Math at the Last Token With Information Transferred From Other Tokens},
  author={Mamidanna, Siddarth and Rai, Daking and Yao, Ziyu and Zhou, Yilun},
  booktitle={Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
  pages={30735--30748},
  year={2025}
}"""

MEANS = ("token", "position")
_ALL = "all"  # instead of a number of transfer layers: no attention is cut


def all_for_one(
    model: object,
    pairs: Pairs = "arithmetic",
    transfer: int = 2,
    *,
    transfers: Sequence[int] = (1, 2, 4),
    layers: Sequence[int] | None = None,
    reference: int = 64,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Accuracy of a model whose tokens wait until a layer, then look back in `transfer` layers, at the last token only.

    Three stages (AF1). Up to layer L_wait a token computes nothing from its prompt: the state entering L_wait is
    ``E[h(x', t) | x'_t = x_t]``, the mean over prompts x' of the task that have the same token at position t (CAMA, the
    last token too). In the next `transfer` layers only the last token attends to earlier ones, every other token to
    itself and the first (ABP). Behind them the last token attends to itself and the first alone. Reported is the share,
    0 to 1, of the pairs that the full model solves (the likeliest token of the vocabulary is a right one) which are
    still solved. Clean prompts only.

    Deviations: where a token is at its position in no reference prompt, the mean over all tokens of that position is
    taken (a note counts these); of pairs that are given, each pair's reference is the prompts of the other pairs.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs. Their positions should correspond.
        transfer: Layers that transfer, in the head map; 0 or more.
        transfers: Numbers of such layers in the grid, besides `transfer`.
        layers: Layers to wait for; every one if left out.
        reference: Pairs of a named task that the means are taken over, none of them among those that are solved.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name.

    Returns:
        A report with one answer; its map, over layer, is the accuracy by L_wait at `transfer`. ``extra``: ``grid``
        (layer, transfer); ``wait_only`` (layer, mean): CAMA alone, attention uncut, with the conditional mean
        (``token``) and its control, the mean of the position whatever the token (``position``); ``control`` (layer,
        mean): all stages with either mean; ``measure`` (layer, transfer): the measure's mean on solved pairs, as a
        share of that without a patch.

    Raises:
        UsageError: numbers that are no counts, no solved pair, or a model that does not solve the task.
        InputError: pairs that do not fit the model, or too few to take means over.
        CaptureError: a model whose attention cannot be edited.
    """
    asked = CircuitOptions.of(options, changes)
    counts = tuple(sorted({_count("transfer", one, 0) for one in (transfer, *transfers)}))
    _count("reference", reference, 1)
    with study(model, pairs, asked) as case:
        chosen = _layers(case, layers)
        means = Reference.of(case, pairs, reference)
        solved = case.joined([_solves(batch, case.logits[batch, "clean"]) for batch in case.batches])
        if not bool(solved.any()):
            raise UsageError(
                f"all_for_one on {case.pairs.task} was asked; right is the likeliest token of {case.loaded.name} on "
                f"none of {len(case.pairs)} clean prompts, so there is no accuracy to keep: use another task or model"
            )
        found = _scan(case, means, chosen, (transfer, counts))
        told = Told(
            f"all_for_one:transfer={transfer}",
            "Share of the solved pairs that are solved when tokens wait until a layer and then only the last one looks "
            f"back, in {transfer} layers (0 to 1)", "share of solved pairs", "Mamidanna et al. 2025 (arXiv:2509.09650)",
            BIBTEX,
        )  # fmt: skip
        answer = told.answer(*found.arrays(solved > 0.5, transfer, counts))
        settings = {"method": "all_for_one", "transfer": transfer, "reference": means.prompts}
        return make_report(case, [answer], settings, [*_notes(solved), *means.notes])


def _count(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r} was asked; it is a whole number, {least} or more")
    return value


def _layers(case: Study, layers: Sequence[int] | None) -> list[int]:
    anatomy = case.engine.taps.anatomy
    if layers is None:
        return [block.place.layer for block in anatomy.blocks]
    return [anatomy.block(layer).place.layer for layer in sorted(set(layers))]


def _solves(batch: Batch, logits: Float[Tensor, "pair vocab"]) -> Float[Tensor, " pair"]:
    best = logits.argmax(-1, keepdim=True)
    return flags(batch, logits, "right").gather(1, best)[:, 0].double().cpu()


def _notes(solved: Float[Tensor, " pair"]) -> list[str]:
    return [
        f"the likeliest token is right on {int(solved.sum())} of {len(solved)} clean prompts; accuracy is the share of "
        "these"
    ]


@dataclass
class _Runs:
    """Whether each pair is solved, and its measure as a share of the clean one's mean, by (layer, mean, transfer)."""

    solved: dict[tuple[int, str, int | str], Float[Tensor, " pair"]]
    numbers: dict[tuple[int, str, int | str], Float[Tensor, " pair"]]
    layers: list[int]
    clean: Float[Tensor, " pair"]

    def arrays(self, kept: Tensor, transfer: int, counts: Sequence[int]) -> tuple[Any, Any, dict[str, Any]]:
        """The map, the values by prompt, and the further arrays."""

        def table(values: Mapping[Any, Tensor], keys: Sequence[tuple[str, int | str]]) -> Tensor:
            return torch.stack(
                [torch.stack([values[layer, *key][kept].mean() for key in keys]) for layer in self.layers]
            )

        layer = {"layer": self.layers}
        own = torch.stack([self.solved[one, "token", transfer] for one in self.layers], 1)
        own = own.masked_fill(~kept[:, None], torch.nan)
        grid = [("token", one) for one in counts]
        share = table(self.numbers, grid) / self.clean[kept].mean()
        extra = {
            "grid": labelled(table(self.solved, grid), **layer, transfer=counts),
            "wait_only": labelled(table(self.solved, [(one, _ALL) for one in MEANS]), **layer, mean=MEANS),
            "control": labelled(table(self.solved, [(one, transfer) for one in MEANS]), **layer, mean=MEANS),
            "measure": labelled(share, **layer, transfer=counts),
        }
        return (
            labelled(own[kept].mean(0), **layer),
            labelled(own, prompt=range(len(own)), **layer),
            extra,
        )


def _scan(case: Study, means: Reference, layers: list[int], asked: tuple[int, tuple[int, ...]]) -> _Runs:
    """Every layer to wait for, with every number of layers that transfer."""
    transfer, counts = asked
    wanted: list[tuple[str, int | str]] = [("token", how) for how in counts]
    wanted += [("token", _ALL), ("position", transfer), ("position", _ALL)]
    solved: dict[Any, list[Tensor]] = {}
    numbers: dict[Any, list[Tensor]] = {}
    peeking, total, done = Peeking(), len(case.batches) * len(layers), 0
    with Session(case.loaded.model, (), [peeking], mode="fused"):
        for batch in case.batches:
            # What enters the blocks is kept from the first patched run on: it must be that of uncut attention.
            case.engine.patched(batch, "clean", {})
            states = means.states(batch, layers)
            for layer in layers:
                case.options.tell(done, total, f"waiting until layer {layer}")
                for mean, how in wanted:
                    logits = _run(case, batch, (layer, states[layer, mean]), how, peeking)
                    solved.setdefault((layer, mean, how), []).append(_solves(batch, logits))
                    numbers.setdefault((layer, mean, how), []).append(case.numbers(batch, logits))
                done += 1
    case.options.tell(total, total, "waiting")
    joined = [{key: case.joined(parts) for key, parts in one.items()} for one in (solved, numbers)]
    return _Runs(joined[0], joined[1], layers, case.clean)


def _run(
    case: Study, batch: Batch, given: tuple[int, Tensor], transfer: int | str, peeking: Peeking
) -> Float[Tensor, "pair vocab"]:
    """The logits with a state put into a layer, and attention cut from there on unless all layers transfer."""
    layer, state = given
    every = [block.place.layer for block in case.engine.taps.anatomy.blocks]
    behind = every[every.index(layer) :] if isinstance(transfer, int) else []
    peek = behind[:transfer] if isinstance(transfer, int) else []
    write = Write(state, torch.ones(1, 1, 1, 1, dtype=torch.bool, device=state.device))
    with peeking.cutting(behind, peek, batch.length - 1):
        return case.engine.patched(batch, "clean", {("resid_pre", layer): write})[0]
