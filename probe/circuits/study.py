"""What every method starts with: a model that solves a task, on checked pairs, and what it says without a patch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch, batches
from probe.circuits.engine import Engine, engine
from probe.circuits.measures import MEASURES, Measure, measure_of
from probe.circuits.nodes import Side
from probe.errors import InputError, UnknownNameError, UsageError
from probe.models import LoadedModel, as_loaded
from probe.prompts.pairs import Pair, PairSet, make_pairs
from probe.report.provenance import utc_now


@dataclass(frozen=True)
class CircuitOptions:
    """How a circuit is looked for.

    Args:
        measure: ``logit_difference``, ``probability_difference``, ``kl`` or ``accuracy``.
        count: Pairs of a task that are made, where a task is named.
        seed: Of the pairs and of every random control.
        min_accuracy: Least share of clean prompts on which right must beat wrong (0.5 is chance); below it the model
            does not solve the task, and what its parts do for it is not interpreted.
        progress: Called with (done, total, what).
    """

    measure: str = "logit_difference"
    count: int = 16
    seed: int = 0
    min_accuracy: float = 0.7
    progress: Callable[[int, int, str], None] | None = None

    @classmethod
    def of(cls, options: "CircuitOptions | None", changes: dict[str, Any]) -> "CircuitOptions":
        """The options with single ones changed; raises `UnknownNameError` or `UsageError`."""
        known = [one.name for one in fields(cls)]
        for name in changes:
            if name not in known:
                raise UnknownNameError.of("option", name, known)
        made = replace(options or cls(), **changes)
        if made.measure not in MEASURES:
            raise UnknownNameError.of("measure", made.measure, MEASURES)
        if not 0 <= made.min_accuracy <= 1:
            raise UsageError(f"min_accuracy={made.min_accuracy} was asked; it is a share, 0 to 1")
        if made.count < 1:
            raise UsageError(f"{made.count} pairs were asked; ask for at least 1")
        return made

    def tell(self, done: int, total: int, what: str) -> None:
        """Tell whoever asked how far the work is."""
        if self.progress is not None:
            self.progress(done, total, what)


@dataclass(frozen=True, eq=False)
class Study:
    """A model on pairs, with its logits and numbers on either side; `numbers` are in the order of the pairs."""

    loaded: LoadedModel
    pairs: PairSet
    options: CircuitOptions
    measure: Measure
    engine: Engine
    batches: tuple[Batch, ...]
    logits: dict[tuple[Batch, Side], Tensor]  # of the last position, [pair of the batch, vocab]
    clean: Float[Tensor, " pair"]
    corrupt: Float[Tensor, " pair"]
    accuracy: float  # on clean prompts
    corrupt_accuracy: float  # share of corrupt prompts on which right beats wrong: low where corruption works
    started: str = field(default_factory=utc_now)

    def numbers(self, batch: Batch, logits: Float[Tensor, "*copy pair vocab"]) -> Float[Tensor, "..."]:
        """The measure's numbers of a run of a batch, as float64 on the CPU."""
        return self.measure(logits, batch, self.logits[batch, "clean"]).cpu()

    def joined(self, parts: Sequence[Float[Tensor, "*copy _"]]) -> Float[Tensor, "..."]:
        """Numbers of the batches, back in the order of the pairs."""
        return in_order(self.batches, parts)

    def base(self, side: Side) -> Float[Tensor, " pair"]:
        """The measure without a patch."""
        return self.clean if side == "clean" else self.corrupt

    @property
    def gap(self) -> float:
        """Mean of the measure on clean minus on corrupt prompts: what a full recovery is. Never 0."""
        return float((self.clean - self.corrupt).mean())

    @property
    def notes(self) -> list[str]:
        """Lines that a reader of the numbers must see."""
        said = (
            f"task {self.pairs.task}, {len(self.pairs)} pairs: {self.measure.name} {float(self.clean.mean()):.3f} "
            f"clean, {float(self.corrupt.mean()):.3f} corrupt; right beats wrong on {self.accuracy:.0%} of clean and "
            f"{self.corrupt_accuracy:.0%} of corrupt prompts"
        )
        return [said, *self.pairs.notes, *self.loaded.notes, *self.engine.notes]


def in_order(groups: Sequence[Batch], parts: Sequence[Float[Tensor, "*copy _"]]) -> Float[Tensor, "..."]:
    """Numbers of batches, in the order of the pairs they are of."""
    order = torch.tensor([number for batch in groups for number in batch.numbers])
    return torch.cat(list(parts), dim=-1)[..., torch.argsort(order)]


def finer(case: Study, most: int) -> Study:
    """The same study in batches of at most `most` tokens, or of single pairs that are longer."""
    if all(len(batch) == 1 or len(batch) * batch.length <= most for batch in case.batches):
        return case
    made: list[Batch] = []
    logits: dict[tuple[Batch, Side], Tensor] = {}
    for batch in case.batches:
        size = max(1, most // batch.length)
        for rows in (slice(start, start + size) for start in range(0, len(batch), size)):
            made.append(Batch(batch.numbers[rows], batch.pairs[rows]))
            for side in get_args(Side):
                logits[made[-1], side] = case.logits[batch, side][rows]
    return replace(case, batches=tuple(made), logits=logits)


Pairs = str | PairSet | Sequence[Pair]


@contextmanager
def study(model: object, pairs: Pairs, options: CircuitOptions) -> Iterator[Study]:
    """Load, make or check the pairs, run both sides once, and refuse what cannot be interpreted.

    Raises:
        UsageError: an unknown task, a model that is no decoder, or one that does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
    """
    loaded = as_loaded(model)
    made = pair_set(pairs, loaded, options)
    _require_room(made, loaded)
    with engine(loaded) as running:
        groups = tuple(batches(made.pairs))
        logits = {
            (batch, side): running.logits(batch, side) for batch in groups for side in ("clean", "corrupt")
        }
        yield _checked(running, made, options, groups, logits)  # type: ignore[arg-type]


def pair_set(pairs: Pairs, loaded: LoadedModel, options: CircuitOptions) -> PairSet:
    """The pairs: made for a named task, or those given; raises `InputError` where there are none."""
    if isinstance(pairs, str):
        return make_pairs(pairs, loaded.tokenizer, count=options.count, seed=options.seed)
    return pairs if isinstance(pairs, PairSet) else PairSet("given", tuple(pairs))


def _require_room(pairs: PairSet, loaded: LoadedModel) -> None:
    limit = loaded.max_positions
    for pair in pairs:
        if limit is not None and len(pair) > limit:
            raise InputError(
                f"pair {pair.id!r} has {len(pair)} tokens; {loaded.name} has positions for {limit}: shorten it"
            )


def _checked(
    running: Engine,
    pairs: PairSet,
    options: CircuitOptions,
    groups: tuple[Batch, ...],
    logits: dict[tuple[Batch, Side], Tensor],
) -> Study:
    measure = measure_of(options.measure)

    def all_of(side: Side, one: Measure) -> Tensor:
        numbers = [one(logits[batch, side], batch, logits[batch, "clean"]).cpu() for batch in groups]
        return in_order(groups, numbers)

    shares = [float(all_of(side, measure_of("accuracy")).mean()) for side in ("clean", "corrupt")]
    made = Study(
        running.loaded, pairs, options, measure, running, groups, logits, all_of("clean", measure),
        all_of("corrupt", measure), shares[0], shares[1],
    )  # fmt: skip
    if made.accuracy < options.min_accuracy:
        raise UsageError(
            f"the circuit of {pairs.task} in {running.loaded.name} was asked; the model puts right before wrong on "
            f"{made.accuracy:.0%} of {len(pairs)} clean prompts (needed {options.min_accuracy:.0%}), so it does not "
            "solve the task and its parts are not interpreted: use another task or model, or lower min_accuracy"
        )
    difference = made.clean - made.corrupt
    if float(difference.mean().abs()) <= 1e-6 * max(1.0, float(made.clean.abs().max())):
        raise InputError(
            f"{measure.name} of {pairs.task} was asked; it is {float(made.clean.mean()):.4g} on clean and on corrupt "
            "prompts alike, so nothing can be recovered: use pairs that differ in their answer, or another measure"
        )
    return made
