"""Skipping the attention or the MLP of layers: it writes nothing into the residual stream."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.module_rows import ModuleWhere, acts, at_rows, require_text_rows, token_rows
from probe.interventions.redundancy import Ask, Blocks, check_asked, settle
from probe.interventions.reference import as_over, over_text
from probe.interventions.target import Target, name_of
from probe.interventions.writers import Writers, find_writers, module_distances, replace_hidden
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import Place
from probe.seam.places import places
from probe.seam.stage import Stage

Kind = Literal["attention", "mlp"]
Rule = Literal["similarity", "spaced"]


@dataclass(frozen=True)
class SkipModule:
    """The attention (or the MLP) of the chosen layers adds nothing at the chosen rows; it still runs.

    Its keys and values are in the cache for tokens that do not skip it: an intervention, not a speed-up.
    """

    target: Target
    kind: Kind
    n: int | None = None
    rule: Rule = "similarity"
    over: tuple[object, ...] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    modules: tuple[tuple[str, Place], ...] = ()  # what `prepare` found to write

    @property
    def name(self) -> str:
        """How reports name it."""
        rule = self.rule if self.n is not None else None
        return name_of(
            "skip_module", self.target, kind=self.kind, n=self.n, rule=rule, over=over_text(self.over)
        )

    def control(self, seed: int) -> "SkipModule":
        """The same module of as many other layers, drawn with `seed`."""
        return replace(self, target=replace(self.target, control_seed=seed), modules=())

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Nothing is known here: `prepare` looks at the model's blocks."""

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "SkipModule":
        """The same with its layers chosen and its modules found.

        Raises:
            UnknownNameError: a layer or tower that the model does not have.
            InterventionError: a layer without such a module, or where it cannot be skipped alone.
        """
        wanted = self._towers(loaded.model)
        inside = replace(self.target, tower="decoder") if self.target.tower == "cross" else self.target
        found = Blocks.of(loaded.model, inside, self.name)
        require_text_rows(self.target, found.towers, self.name, found.encoded)

        def measure(inputs: Any) -> dict[int, float]:
            able = [
                one
                for one in find_writers(loaded.model, found, self.name)
                if one.chosen(self.kind, wanted)[0]
            ]
            return module_distances(loaded.model, able, self.kind, wanted, inputs)

        target, notes = settle(Ask(self.name, inside, self.n, self.rule, self.over), loaded, found, measure)
        chosen = Blocks.of(loaded.model, target, self.name)
        writers = find_writers(loaded.model, chosen, self.name)
        ready = replace(self, target=replace(target, tower=self.target.tower), n=None, over=None, notes=notes)
        return replace(ready, modules=tuple(self._modules(loaded.model, writers, wanted)))

    def _towers(self, model: nn.Module) -> set[str]:
        found = {place.tower for place in places(model).values()}
        if self.kind == "mlp" and self.target.tower == "cross":
            raise InterventionError(
                f"{self.name} was asked; cross-attention has no MLP of its own: tower=decoder"
            )
        if self.target.tower == "cross" and "cross" not in found:
            raise UnknownNameError.of("tower", "cross", found)
        return found if self.target.tower is None else {self.target.tower}

    def _modules(
        self, model: nn.Module, writers: Sequence[Writers], towers: set[str]
    ) -> list[tuple[str, Place]]:
        names = {id(module): name for name, module in model.named_modules()}
        found = []
        for one in writers:
            mine = one.chosen(self.kind, towers)[0]
            if not mine:
                raise InterventionError(
                    f"{self.name} was asked; block {one.block.name!r} has no {self.kind}: name other layers"
                )
            found += [(names[id(module)], one.place) for module in mine]
        return found

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Hook the modules that `prepare` found; what is returned takes the hooks off."""
        if not self.modules:
            raise UsageError(f"{self.name} was used before it was prepared; use probe.edit")
        handles = [
            stage.model.get_submodule(name).register_forward_hook(self._hook(name, place, stage))
            for name, place in self.modules
        ]

        def undo() -> None:
            while handles:
                handles.pop().remove()

        return undo

    def _hook(self, name: str, place: Place, stage: Stage) -> Callable[..., Any]:
        def silence(_module: object, _args: object, output: Any) -> Any:
            now = stage.now()
            if now is None or not acts(replace(self.target, tower=None), place, now[1]):
                return None
            silent = False

            def at_chosen(value: Tensor) -> Tensor:
                nonlocal silent
                shaped = value.reshape(len(now[0].prompts), -1, value.shape[-1]) if value.ndim == 2 else value
                rows = token_rows(self.target, place, *now, shaped)
                if rows is not None and not bool(rows.any()):
                    return value
                silent = True
                return at_rows(torch.zeros_like(shaped), shaped, rows).reshape(value.shape)

            made = replace_hidden(output, None, at_chosen)
            if silent:
                stage.fired(name)
            return made

        return silence


def skip_module(
    kind: Kind = "attention",
    layers: Iterable[int] | None = None,
    n: int | None = None,
    rule: Rule = "similarity",
    over: Sequence[object] | None = None,
    **where: Unpack[ModuleWhere],
) -> SkipModule:
    """Let the attention or the MLP of layers add nothing to the residual stream, for all tokens or for chosen ones.

    LLM-Drop (He et al. 2024, arXiv:2406.15786): ``rule="similarity"`` takes the `n` layers with the smallest
    S = 1 - mean cos(x, x + f(norm x)) over calibration tokens, in float32; ``rule="spaced"`` takes n layers at even
    distances. Models where a norm or a bias stands behind the module (post-norm) are refused after a numeric check.

    Args:
        kind: ``attention`` or ``mlp``.
        layers: Layer numbers; with `n`, the layers to choose from.
        n: How many layers, chosen by `rule` before the first forward.
        rule: ``similarity`` or ``spaced``.
        over: Calibration prompts; 64 windows of 256 tokens of the shipped text if left out.
        **where: Tower, query rows and phase; without a tower, cross-attention counts as attention.

    Raises:
        UsageError: neither layers nor n, or a parameter out of range.
    """
    target = Target.of(None, {**where, "layers": layers})
    if kind not in ("attention", "mlp"):
        raise UnknownNameError.of("kind", str(kind), ("attention", "mlp"))
    if rule not in ("similarity", "spaced"):
        raise UnknownNameError.of("rule", str(rule), ("similarity", "spaced"))
    check_asked("skip_module", layers, n)
    return SkipModule(target, kind, n, rule, as_over(over, "skip_module"))
