"""Skipping layers: the residual stream leaves a block as it came in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

from torch import Tensor

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.module_rows import ModuleWhere, acts, at_rows, require_text_rows, token_rows
from probe.interventions.redundancy import Ask, Blocks, block_distances, check_asked, settle
from probe.interventions.reference import as_over, over_text
from probe.interventions.target import Target, name_of
from probe.interventions.voids import Voids
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import Batch, Phase, Place
from probe.seam.places import places
from probe.seam.points import first_tensor, hidden_input
from probe.seam.recorded import Recorded, block_places, blocks
from probe.seam.stage import Stage

Rule = Literal["similarity", "spaced", "voids"]


@dataclass(frozen=True)
class SkipLayer:
    """h := the block's input, at the chosen rows of the chosen layers.

    The block still runs on every row, so that its keys and values are in the cache for tokens that do not skip it: this
    is an intervention, not a speed-up.
    """

    target: Target
    n: int | None = None
    rule: Rule = "similarity"
    over: tuple[object, ...] | None = None
    alpha: float = 0.8
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        if self.rule == "voids":
            return name_of("skip_layer", self.target, rule=self.rule, alpha=self.alpha)
        rule = self.rule if self.n is not None else None
        return name_of("skip_layer", self.target, n=self.n, rule=rule, over=over_text(self.over))

    @property
    def may_rest(self) -> bool:
        """Whether it may find nothing to skip: voids are chosen by what runs."""
        return self.rule == "voids"

    def control(self, seed: int) -> "SkipLayer":
        """The same, with as many other layers, drawn with `seed`; raises `UsageError` for voids."""
        if self.rule == "voids":
            raise UsageError(
                f"a control of {self.name} was asked; voids are chosen token by token: name layers"
            )
        return replace(self, target=replace(self.target, control_seed=seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Nothing is known here: blocks without attention count as layers too, so `prepare` looks at the model."""

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "SkipLayer":
        """The same with its layers chosen; raises `UnknownNameError` for a layer that the model does not have."""
        found = Blocks.of(loaded.model, self.target, self.name)
        require_text_rows(self.target, found.towers, self.name, found.encoded)
        if self.rule == "voids":
            return self
        ask = Ask(self.name, self.target, self.n, self.rule, self.over)
        target, notes = settle(
            ask, loaded, found, lambda inputs: block_distances(loaded, found, inputs, self.name)
        )
        return replace(self, target=target, n=None, over=None, notes=notes)

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hook every block; what is returned takes the hooks off."""
        return _Skipping(self, stage).attach()


def skip_layer(
    layers: Iterable[int] | None = None,
    n: int | None = None,
    rule: Rule = "similarity",
    over: Sequence[object] | None = None,
    alpha: float = 0.8,
    **where: Unpack[ModuleWhere],
) -> SkipLayer:
    """Let the residual stream leave whole layers as it came in, for all tokens or for chosen ones.

    - ``rule="similarity"``: the `n` layers with the smallest 1 - mean cos(block in, block out) over calibration tokens
      (LLM-Drop, He et al. 2024, arXiv:2406.15786).
    - ``rule="spaced"``: `n` layers at even distances (unified layer skipping, Liu et al. 2024, arXiv:2404.06954).
    - ``rule="voids"``: at run time and per token, the layers whose D_l = |h_l| - |h_{l-1}| is below
      alpha · (max D - min D) over the layers before it; the first layer is compared with itself (LAC, voids).

    Args:
        layers: Layer numbers; with `n`, the layers to choose from.
        n: How many layers to skip, chosen by `rule` before the first forward.
        rule: ``similarity``, ``spaced`` or ``voids``.
        over: Calibration prompts; 64 windows of 256 tokens of the shipped text if left out.
        alpha: The threshold of ``voids``, at least 0.
        **where: Tower, query rows and phase.

    Raises:
        UsageError: neither layers nor n, or a parameter out of range.
    """
    target = Target.of(None, {**where, "layers": layers})
    if rule not in ("similarity", "spaced", "voids"):
        raise UnknownNameError.of("rule", str(rule), ("similarity", "spaced", "voids"))
    if not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise UsageError(f"skip_layer with alpha={alpha!r} was asked; alpha is a finite number, at least 0")
    if rule == "voids" and n is not None:
        raise UsageError(
            f"skip_layer was asked with rule=voids and n={n}; voids are chosen per token: leave n out"
        )
    if rule != "voids":
        check_asked("skip_layer", layers, n)
    return SkipLayer(target, n, rule, as_over(over, "skip_layer"), float(alpha))


class _Skipping:
    """One session's hooks."""

    def __init__(self, one: SkipLayer, stage: Stage) -> None:
        self.one, self.stage = one, stage
        self._handles: list[Any] = []
        self._voids = Voids(one.alpha)

    def attach(self) -> Callable[[], None]:
        """Set the hooks."""
        found = blocks(self.stage.model)
        where = block_places(found, places(self.stage.model))
        for block in found:
            if self.one.rule == "voids" or self.one.target.covers(where[block.name]):
                hook = self._hook(block, where[block.name])
                self._handles.append(block.module.register_forward_hook(hook, with_kwargs=True))
        return self.close

    def close(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, block: Recorded, place: Place) -> Callable[..., Any]:
        def skip(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            now = self.stage.now()
            if now is None:
                return None
            before, after = hidden_input(args, kwargs), first_tensor(output, block.index)
            if before is None or after is None or before.shape != after.shape:
                raise InterventionError(
                    f"{self.one.name} was asked; block {block.name!r} does not return what it was given "
                    "(its output has another shape), so it cannot be skipped: name other layers"
                )
            rows = self._rows(place, now, before, after)
            if rows is not None and not bool(rows.any()):
                return None
            if not acts(self.one.target, place, now[1]):
                return None
            self.stage.fired(block.name)
            return put(output, block.index, at_rows(before, after, rows))

        return skip

    def _rows(self, place: Place, now: tuple[Batch, Phase], before: Tensor, after: Tensor) -> Tensor | None:
        rows = None
        if acts(self.one.target, place, now[1]):
            rows = token_rows(self.one.target, place, *now, before)
        if self.one.rule != "voids":
            return rows
        void = self._voids.find(place, now[0], before, after)
        return void if rows is None else void & rows


def put(output: Any, index: int, value: Tensor) -> Any:
    """A module's output with the tensor at `index` replaced."""
    if isinstance(output, tuple | list):
        return type(output)(value if i == index else one for i, one in enumerate(output))
    return value
