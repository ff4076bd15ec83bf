"""Redundancy: how far attention and MLP of every layer turn the residual stream (LLM-Drop)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr

from probe.errors import InterventionError
from probe.experiments.base import Ask, told
from probe.experiments.folding import fold
from probe.experiments.rollout import nothing
from probe.experiments.seen_rows import cannot_read
from probe.interventions.redundancy import Blocks, least
from probe.interventions.target import Target
from probe.interventions.writers import Writers, find_writers, module_distances
from probe.metrics.answering import answers
from probe.metrics.base import MetricInfo
from probe.metrics.block_change import BlockChange
from probe.metrics.making import at_least, one_of
from probe.metrics.papers import HE_2024
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.report.answer import Answer
from probe.seam.session import Session
from probe.seam.stage import Stage

KINDS = ("attention", "mlp")
_SHOWN = 8

PerLayer = dict[int, float]


class Redundancy:
    """S = 1 - mean over tokens of cos(x, x + f(x)), 0 to 2, of each layer's attention or MLP; low = redundant.

    x is the residual stream just before the module adds f(x) to it. The modules are found by silencing them, and S is
    taken from the block computed again with and without them, as `skip_module` chooses with ``rule=similarity``.
    `extra` has ``attention``, ``mlp`` and ``block`` (1 - cos of a block's input and output). A model in which a norm
    stands behind the sum (BERT) is not applicable: there neither module can be taken out alone; see `block_change`.

    He et al. 2024, What Matters in Transformers? Not All Attention is Needed (arXiv:2406.15786); there on 256 texts of
    2048 tokens.

    Args:
        of: which module the layer's number is of.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="redundancy",
        summary="1 - mean cosine of the stream before and after a layer's attention or MLP, 0 to 2; low = redundant.",
        unit="1 - cos",
        better="low",
        paper="He et al. 2024",
        bibtex=HE_2024,
        axis="layer",
        slow=True,
    )

    def __init__(self, of: Literal["attention", "mlp"] = "attention", tokens: int = 512) -> None:
        self.spec = self.info.name
        one_of(self.spec, "of", of, KINDS)
        at_least(self.spec, "tokens", tokens, 1)
        self.of, self.tokens = of, tokens

    def run(self, ask: Ask) -> list[Answer]:
        """Five forwards a prompt, in which every block runs five times."""
        reason = cannot_read(ask.model)
        if reason:
            return [nothing(self.info, self.spec, ask.model, reason)]
        prompts = ask.texts(self.tokens)
        blocks = BlockChange()
        notes = fold(ask.model, prompts, [blocks], (), lambda at: ask.tell(at, len(prompts), self.spec))
        block = answers(blocks)[0]
        try:
            found = distances(ask.model, prompts, self.spec, block.tower)
        except InterventionError as error:
            return [nothing(self.info, self.spec, ask.model, str(error))]
        ask.tell(len(prompts), len(prompts), self.spec)
        return [self._answer(prompts, found, block, notes)]

    def _answer(
        self, prompts: Sequence[Prompt], found: dict[str, list[PerLayer]], block: Answer, notes: Sequence[str]
    ) -> Answer:
        weights = np.array([float(len(one)) for one in prompts])
        maps = {}
        for kind in KINDS:
            layers = sorted(found[kind][0])
            values = np.array([[one[layer] for layer in layers] for one in found[kind]])
            coords = {
                "prompt": [one.id for one in prompts],
                "layer": np.array(layers, dtype=np.int64),
                "weight": ("prompt", weights),
            }
            maps[kind] = xr.DataArray(values, dims=("prompt", "layer"), coords=coords)
        extra = {kind: one.weighted(one["weight"]).mean("prompt").drop_vars("weight", errors="ignore")
                 for kind, one in maps.items()}  # fmt: skip
        extra["block"] = block.head_map
        return Answer(
            **told(self.spec, self.info, block.tower),
            head_map=extra[self.of],
            by_prompt=maps[self.of],
            extra=extra,
            notes=(*(_line(kind, extra[kind]) for kind in KINDS), *notes),
        )


def distances(
    loaded: LoadedModel, prompts: Sequence[Prompt], spec: str, tower: str
) -> dict[str, list[PerLayer]]:
    """S of every layer's attention and MLP, prompt by prompt; observers of outer blocks do not see these forwards.

    Raises `InterventionError` where attention and MLP of the model cannot be told apart, or not be taken out alone.
    """
    holder = _Holder()
    with Session(loaded.model, (), [holder]), holder.quiet():
        found = Blocks.of(loaded.model, Target.of(None, {"tower": tower}), spec)
        writers = find_writers(loaded.model, found, spec, alone=False)

        def measured(kind: str, prompt: Prompt) -> PerLayer:
            able: list[Writers] = [one for one in writers if one.chosen(kind, {tower})[0]]
            ids = {"input_ids": torch.tensor([prompt.tokens], device=loaded.device)}
            return module_distances(loaded.model, able, kind, {tower}, [ids], alone=False)

        return {kind: [measured(kind, prompt) for prompt in prompts] for kind in KINDS}


class _Holder:
    """Stands in a session as an intervention that edits nothing, to learn how to run unseen."""

    name = "unseen runs"
    may_rest = True

    def __init__(self) -> None:
        self.stage: Stage | None = None

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Keep the stage."""
        self.stage = stage
        return lambda: None

    def quiet(self) -> AbstractContextManager[None]:
        """Observers see nothing while this is open."""
        if self.stage is None:
            raise InterventionError("unseen runs were asked for outside a session; open it first")
        return self.stage.quiet()


def _line(kind: str, values: xr.DataArray) -> str:
    scores = {int(layer): float(value) for layer, value in zip(values["layer"], values, strict=True)}
    order = sorted(least(scores, _SHOWN), key=lambda layer: scores[layer])
    shown = ", ".join(f"{layer} ({scores[layer]:.3g})" for layer in order)
    return f"{kind}: S is smallest in layers {shown}"
