"""Which heads to edit for an objective of one's own: a greedy search, round by round."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from probe.analysis.choices import Choices
from probe.analysis.edit import edit
from probe.analysis.first_use import verify_on_first_use
from probe.analysis.inputs import Item, read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.errors import MetricError, UnknownNameError, UsageError
from probe.models import LoadedModel, as_loaded
from probe.seam.places import places
from probe.terms import HeadId

if TYPE_CHECKING:
    import pandas as pd

Make = Callable[[tuple[HeadId, ...]], Any]  # heads -> an intervention, or a list of them
Objective = Callable[[Any], Any]  # the model under edit, or an output of it -> a number


@dataclass(frozen=True)
class SelectOptions(Choices):
    """Choices of one search.

    Attributes:
        candidates: Heads to choose from, such as ``["L1.H0"]``; None: every head of the decoder.
        rounds: How often the best candidates are added.
        keep: How many candidates each round adds.
        seed: Torch's random state before every evaluation, so that sampled objectives compare like with like.
        better: Whether a ``high`` or a ``low`` objective is wanted.
        progress: Called with (done, total, what) after every evaluation.
    """

    verb: ClassVar[str] = "select_heads"

    candidates: Sequence[str | HeadId] | None = None
    rounds: int = 1
    keep: int = 1
    seed: int = 0
    better: Literal["high", "low"] = "high"

    def __post_init__(self) -> None:
        for name in ("rounds", "keep"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(
                    f"select_heads with {name}={value!r} was asked; {name} is a number, at least 1"
                )
        if self.better not in ("high", "low"):
            raise UnknownNameError.of("better", str(self.better), ("high", "low"))
        if isinstance(self.candidates, str):
            raise UsageError(
                f"candidates={self.candidates!r} was asked; give a list, such as [{self.candidates!r}]"
            )


@dataclass(frozen=True)
class Round:
    """One round: the objective with each candidate added to the heads chosen before, and the heads it kept."""

    objective: Mapping[HeadId, float]
    kept: tuple[HeadId, ...]


@dataclass(frozen=True)
class Selection:
    """What a search found."""

    heads: tuple[HeadId, ...]  # in the order in which they were chosen
    base: float  # the objective of the model as it is
    rounds: tuple[Round, ...]

    def to_pandas(self) -> "pd.DataFrame":
        """One row per evaluation: round (from 1), head, tower, layer, objective, and whether the head was kept."""
        import pandas as pd

        rows = [
            (number, str(head), head.tower, head.layer, value, head in one.kept)
            for number, one in enumerate(self.rounds, 1)
            for head, value in one.objective.items()
        ]
        return pd.DataFrame(rows, columns=["round", "head", "tower", "layer", "objective", "kept"])


def select_heads(
    model: object,
    make: Make,
    objective: Objective,
    prompts: object = None,
    *,
    options: SelectOptions | None = None,
    **changes: Any,
) -> Selection:
    """Choose heads greedily: each round tries every head that is left beside those chosen, and adds the best.

    The general half of HeadHunter (Ahn et al. 2025). In round r every candidate h is judged by the objective under
    ``make(S + h)``, S being the heads chosen so far; the `keep` best join S, best first, ties by tower, layer and head.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; a Hugging Face model; or ``(model, tokenizer)``.
        make: From a tuple of heads to the interventions on them, such as ``lambda heads: [zero(heads)]`` or
            ``lambda heads: guidance([to_identity(heads, u=0.5)], w=3.0)``.
        objective: Without prompts it is given the edited model and may run it as it likes; with prompts it is given the
            model's output for each of them, and its mean is the objective.
        prompts: Text, a `Prompt`, a mapping of the model's own inputs, or a list of these.
        options: See `SelectOptions`.
        **changes: Options by name.

    Raises:
        UnknownNameError: a candidate that the model does not have, or an unknown option.
        UsageError: too few candidates for the rounds, options out of range, or an objective that is no number.
        MetricError: an objective that is NaN; the heads are named.
        InterventionError: interventions that cannot act on this model, or changed nothing.
    """
    asked = SelectOptions.of(options, changes)
    loaded = as_loaded(model)
    items = () if prompts is None else read_inputs(prompts, loaded, AnalyzeOptions()).items
    candidates = _candidates(loaded, asked.candidates)
    if len(candidates) < asked.rounds * asked.keep:
        raise UsageError(
            f"{asked.rounds} rounds of {asked.keep} heads were asked; there are {len(candidates)} candidates: "
            "ask for fewer, or give more candidates"
        )
    judge = _Judge(loaded, make, objective, items, asked)
    base = judge.value(())
    rounds = _rounds(judge, candidates)
    return Selection(tuple(head for one in rounds for head in one.kept), base, tuple(rounds))


def _rounds(judge: "_Judge", candidates: tuple[HeadId, ...]) -> list[Round]:
    asked = judge.options
    total = sum(len(candidates) - done * asked.keep for done in range(asked.rounds))
    sign = 1 if asked.better == "low" else -1
    chosen: tuple[HeadId, ...] = ()
    rounds: list[Round] = []
    done = 0
    for number in range(1, asked.rounds + 1):
        found: dict[HeadId, float] = {}
        for head in candidates:
            if head in chosen:
                continue
            found[head] = judge.value((*chosen, head))
            done += 1
            asked.report_progress(done, total, f"round {number}")
        kept = tuple(sorted(found, key=lambda head: (sign * found[head], head))[: asked.keep])
        chosen += kept
        rounds.append(Round(found, kept))
    return rounds


@dataclass(frozen=True)
class _Judge:
    """The objective under edits of given heads."""

    loaded: LoadedModel
    make: Make
    objective: Objective
    items: tuple[Item, ...]
    options: SelectOptions

    def value(self, heads: tuple[HeadId, ...]) -> float:
        """The objective with these heads edited (none: the model as it is), from the same random state every time."""
        network = self.loaded.model
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.options.seed)
            if not self.items:
                found = self._under(heads, None, lambda: self.objective(network))
                return self._checked(found, heads)
            total = 0.0
            for item in self.items:
                inputs = dict(item.inputs or {})
                if item.prompt is not None:
                    inputs = {"input_ids": torch.tensor([item.prompt.tokens], device=self.loaded.device)}
                found = self._under(heads, item, partial(self._of_output, network, inputs))
                total += self._checked(found, heads)
            return total / len(self.items)

    def _of_output(self, network: Any, inputs: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return self.objective(network(**inputs))

    def _under(self, heads: tuple[HeadId, ...], item: Item | None, run: Callable[[], Any]) -> Any:
        if not heads:
            return run()
        made = self.make(heads)
        edits = list(made) if isinstance(made, list | tuple) else [made]
        prompts = None if item is None or item.prompt is None else [item.prompt]
        with edit(self.loaded, edits, prompts=prompts):
            return run()

    def _checked(self, found: object, heads: tuple[HeadId, ...]) -> float:
        where = "the model as it is" if not heads else "heads " + ", ".join(map(str, heads))
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            found = found.item()
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise UsageError(
                f"the objective of {where} was {type(found).__name__}; it must return one number"
            )
        if math.isnan(found):
            raise MetricError(
                f"the objective of {where} was NaN, which ranks nowhere: return a number for every choice of heads"
            )
        return float(found)


def _candidates(loaded: LoadedModel, given: Iterable[str | HeadId] | None) -> tuple[HeadId, ...]:
    """The candidates in head order, checked against the model where its heads are known."""
    known = verify_on_first_use(loaded.model)
    counts = {} if known is None else known.heads
    everywhere = [
        HeadId(place.tower, place.layer, head)
        for module, place in places(loaded.model).items()
        for head in range(counts.get(module, 0))
    ]
    if given is None:
        decoder = sorted(head for head in everywhere if head.tower == "decoder") or sorted(everywhere)
        if not decoder:
            raise UsageError(
                f"heads of {loaded.name} were to be chosen; their number is not known before it runs: "
                "give candidates=[...]"
            )
        return tuple(decoder)
    chosen = sorted({head if isinstance(head, HeadId) else HeadId.parse(head) for head in given})
    for head in chosen:
        if everywhere and head not in everywhere:
            raise UnknownNameError.of("head", str(head), map(str, everywhere))
    return tuple(chosen)
