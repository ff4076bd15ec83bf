"""Which layers a model can do without: how little they turn the residual stream, or evenly spaced ones.

Similarity is LLM-Drop's (He et al. 2024, arXiv:2406.15786): S = 1 - mean over tokens of cos(before, after), in
float32; the layers with the smallest S go first.
"""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.order_free import require_unobserved
from probe.interventions.reference import reference
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.seam.call import Place
from probe.seam.places import places
from probe.seam.points import first_tensor, hidden_input
from probe.seam.recorded import Recorded, block_places, blocks

Inputs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model that an intervention may choose, in order, with their places."""

    chosen: tuple[tuple[Recorded, Place], ...]
    encoded: bool = False  # the model has an encoder beside its decoder

    @classmethod
    def of(cls, model: nn.Module, target: Target, name: str) -> "Blocks":
        """The blocks that `target` covers.

        Raises:
            UnknownNameError: a layer or tower that the model does not have.
            InterventionError: the model declares no blocks.
        """
        found = blocks(model)
        if not found:
            raise InterventionError(
                f"{name} was asked; {type(model).__name__} declares no blocks that could be skipped: "
                "edit heads instead"
            )
        where = block_places(found, places(model))
        towers = {place.tower for place in where.values()}
        if target.tower is not None and target.tower not in towers:
            raise UnknownNameError.of("tower", target.tower, towers)
        inside = [(b, where[b.name]) for b in found if target.tower in (None, where[b.name].tower)]
        known = {place.layer for _, place in inside}
        for layer in target.layers or ():
            if layer not in known:
                raise UnknownNameError.of("layer", str(layer), {str(number) for number in known})
        chosen = tuple(
            (b, place) for b, place in inside if target.layers is None or place.layer in target.layers
        )
        config = getattr(model, "config", None)
        return cls(chosen, bool(getattr(config, "is_encoder_decoder", False)))

    @property
    def towers(self) -> list[str]:
        """The towers that they are of."""
        return sorted({place.tower for _, place in self.chosen})

    def layers(self, name: str) -> tuple[int, ...]:
        """Their layer numbers; raises `InterventionError` where several towers would be mixed up."""
        if len(self.towers) > 1:
            raise InterventionError(
                f"{name} was asked; the model has the towers {', '.join(self.towers)}: name one of them"
            )
        return tuple(sorted(place.layer for _, place in self.chosen))


def spaced(layers: Sequence[int], n: int) -> tuple[int, ...]:
    """`n` of `layers` at even distances: the middle one of each of n equal stretches.

    After the unified layer skipping of Liu et al. 2024, arXiv:2404.06954.
    """
    return tuple(layers[int((i + 0.5) * len(layers) / n)] for i in range(n))


def least(scores: Mapping[int, float], n: int) -> tuple[int, ...]:
    """The `n` layers with the smallest score, ties by layer, ascending."""
    return tuple(sorted(sorted(scores, key=lambda layer: (scores[layer], layer))[:n]))


def others(layers: Sequence[int], chosen: Sequence[int], seed: int, name: str) -> tuple[int, ...]:
    """A control's layers: as many others, drawn with `seed`; raises `UsageError` where too few are left."""
    rest = [layer for layer in layers if layer not in chosen]
    if len(rest) < len(chosen):
        raise UsageError(
            f"a control of {name} was asked; only {len(rest)} other layers are left: skip at most half of them"
        )
    return tuple(sorted(random.Random(f"{seed}/layers").sample(rest, len(chosen))))  # noqa: S311 -- not a secret


def check_asked(kind: str, layers: object, n: object) -> None:
    """Raise `UsageError` where neither layers nor their number is given, or a number that cannot be one."""
    if layers is None and n is None:
        raise UsageError(f"{kind} was asked without layers; give layers=[...], or n=... to have them chosen")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise UsageError(f"{kind} was asked with n={n!r}; n is a number of layers, at least 1")


@dataclass(frozen=True)
class Ask:
    """What layers are asked for: those of the target, or `n` of them by a rule; a control has others."""

    name: str
    target: Target
    n: int | None
    rule: str
    over: tuple[object, ...] | None


def settle(
    ask: Ask, loaded: LoadedModel, found: Blocks, measure: Callable[[Inputs], Mapping[int, float]]
) -> tuple[Target, tuple[str, ...]]:
    """The target with its layers chosen, and what a reader must know of the choice.

    `measure` gives every layer's distance over calibration inputs; it is asked only for ``rule="similarity"``.
    """
    if ask.n is None and ask.target.control_seed is None:
        return ask.target, ()
    layers = found.layers(ask.name)
    notes: tuple[str, ...] = ()
    if ask.n is not None:
        if ask.n > len(layers):
            raise UsageError(f"{ask.name} was asked; there are {len(layers)} layers to choose from")
        if ask.rule == "spaced":
            layers = spaced(layers, ask.n)
            shown = "+".join(map(str, layers))
        else:
            scores = measure([feed.inputs for feed in reference(ask.over, loaded, ask.name)])
            layers = least(scores, ask.n)
            shown = ", ".join(f"{layer} (S={scores[layer]:.3g})" for layer in layers)
        notes = (f"{ask.name} chose layers {shown}",)
    if ask.target.control_seed is not None:
        everywhere = Blocks.of(loaded.model, replace(ask.target, layers=None), ask.name).layers(ask.name)
        layers = others(everywhere, layers, ask.target.control_seed, ask.name)
    return replace(ask.target, layers=layers, control_seed=None), notes


def cosine(before: Float[Tensor, "*batch d_model"], after: Float[Tensor, "*batch d_model"]) -> Tensor:
    """cos(before, after) of each token, in float32 (float64 stays)."""
    wide = torch.float64 if before.dtype == torch.float64 else torch.float32
    return torch.nn.functional.cosine_similarity(before.to(wide), after.to(wide), dim=-1)


@dataclass
class Cosines:
    """Running mean over tokens of cos(before, after), per layer, in float32 (float64 stays)."""

    total: dict[int, float] = field(default_factory=dict)
    count: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, before: Tensor, after: Tensor) -> None:
        """Take the tokens of one forward."""
        found = cosine(before, after)
        self.total[layer] = self.total.get(layer, 0.0) + float(found.sum())
        self.count[layer] = self.count.get(layer, 0) + found.numel()

    @property
    def distance(self) -> dict[int, float]:
        """S = 1 - mean cos, per layer."""
        return {layer: 1 - self.total[layer] / self.count[layer] for layer in self.total}


@contextmanager
def watched(handles: Iterable[Any]) -> Iterator[None]:
    """Hooks that come off when the block ends, whatever happens."""
    taken = list(handles)
    try:
        yield
    finally:
        for handle in taken:
            handle.remove()


def run(
    model: nn.Module, inputs: Inputs, hooks: Callable[[], Iterable[Any]], name: str, *, alone: bool = True
) -> None:
    """Run the model on every input, without gradients and caches, with hooks on for as long as it takes.

    Without `alone`, whoever calls has seen to it that no observer sees these runs.

    Raises:
        InterventionError: the model is observed or edited already, so that others would see these runs.
    """
    if alone:
        require_unobserved(model, name)
    accepts = inspect.signature(model.forward).parameters
    frugal = {"logits_to_keep": 1, "use_cache": False}
    more = {key: value for key, value in frugal.items() if key in accepts}
    with watched(hooks()), torch.no_grad():
        for keywords in inputs:
            model(**{**more, **keywords})


def block_distances(loaded: LoadedModel, found: Blocks, inputs: Inputs, name: str) -> dict[int, float]:
    """1 - mean cos(block in, block out) over the tokens of `inputs`, per layer."""
    cosines = Cosines()

    def hook(block: Recorded, layer: int) -> Callable[..., None]:
        def look(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before, after = hidden_input(args, kwargs), first_tensor(output, block.index)
            if before is not None and after is not None:
                cosines.add(layer, before, after)

        return look

    def hooks() -> list[Any]:
        return [
            block.module.register_forward_hook(hook(block, place.layer), with_kwargs=True)
            for block, place in found.chosen
        ]

    run(loaded.model, inputs, hooks, name)
    return cosines.distance
