"""Experts of a mixture switched off, or on, in their router."""

import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.module_rows import acts, token_rows
from probe.interventions.routers import (
    ExpertId,
    Router,
    counts,
    require_experts,
    routers,
)
from probe.interventions.span import SpanChoice
from probe.interventions.switching import Switch, Switching, require_switched, wrap
from probe.interventions.target import Target, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import Place
from probe.seam.hub import hub_of
from probe.seam.points import hidden_input
from probe.seam.stage import Stage


class ExpertWhere(TypedDict, total=False):
    """For which tokens experts are switched: ``queries`` and ``phase`` (see `Where`)."""

    queries: SpanChoice
    phase: str


@dataclass(frozen=True)
class Experts:
    """Experts out of their router's choice (``off``), or always in it (``on``); shares follow by the router's rule."""

    experts: tuple[ExpertId, ...]
    how: Literal["off", "on"]
    target: Target
    control_seed: int | None = None
    switches: tuple[Switch, ...] = ()  # per router, once prepared

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of(f"expert_{self.how}", self.target, experts=self.experts, control=self.control_seed)

    @property
    def settles(self) -> dict[str, str]:
        """Whether each of its experts may be chosen."""
        return {} if self.control_seed is not None else {f"choice of {one}": self.how for one in self.experts}

    def control(self, seed: int) -> "Experts":
        """The same with as many other experts of each layer, drawn with `seed`."""
        return replace(self, control_seed=seed, switches=())

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Nothing is known here: routers are no attention, so `prepare` looks at the model."""

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "Experts":
        """The same with its routers found.

        Raises:
            UnknownNameError: an expert that the model does not have.
            InterventionError: no routers, a router that cannot be edited, fewer experts left than it chooses, or more
                forced than it chooses.
        """
        found = routers(loaded.model, self.name)
        require_experts(found, self.experts)
        wanted = {(one.tower, one.layer) for one in self.experts}
        mine = [router for router in found if (router.place.tower, router.place.layer) in wanted]
        if len(mine) > len(wanted):
            raise InterventionError(
                f"{self.name} was asked; a layer has several routers ({', '.join(r.place.module for r in mine)}), so "
                "that its experts have no names: name experts of other layers"
            )
        # Inside another session the model is not run behind its observers' back: the choice is checked as it runs.
        known = {} if hub_of(loaded.model) is not None else counts(loaded.model, mine, self.name)
        made = [self._switch(replace(one, chooses=known.get(one.place.module))) for one in mine]
        return replace(self, switches=tuple(made))

    def _switch(self, router: Router) -> Switch:
        at = (router.place.tower, router.place.layer)
        named = tuple(one.expert for one in self.experts if (one.tower, one.layer) == at)
        if self.control_seed is not None:
            rest = [expert for expert in range(router.experts) if expert not in named]
            if len(rest) < len(named):
                raise UsageError(
                    f"a control of {self.name} was asked; {router.place.module} has only {len(rest)} other experts"
                )
            draw = random.Random(f"{self.control_seed}/{at[0]}/{at[1]}")  # noqa: S311 -- not a secret
            named = tuple(sorted(draw.sample(rest, len(named))))
        chooses = router.chooses if router.chooses is not None else 1
        if self.how == "off" and router.experts - len(named) < chooses:
            raise InterventionError(
                f"{self.name} was asked; {router.place.module} chooses {chooses} of {router.experts} experts, and only "
                f"{router.experts - len(named)} would be left: switch fewer of them off"
            )
        if self.how == "on" and router.chooses is not None and len(named) > chooses:
            raise InterventionError(
                f"{self.name} was asked; {router.place.module} chooses {chooses} experts per token, so {len(named)} "
                "cannot all be on: switch fewer of them on"
            )
        return Switch(router, off=named) if self.how == "off" else Switch(router, on=named)

    def attach(self, stage: Stage) -> Callable[[], None]:
        """Wrap the routers' forward; what is returned takes that away."""
        if not self.switches:
            raise UsageError(f"{self.name} was used before it was prepared; use probe.edit")
        undo = []
        shapes: dict[str, tuple[int, int]] = {}
        for switch in self.switches:
            module = switch.router.place.module
            undo.append(_watch_shape(stage, module, shapes))
            undo.append(wrap(stage.model.get_submodule(module), self._around(switch, stage, shapes)))

        def close() -> None:
            while undo:
                undo.pop()()

        return close

    def _around(
        self, switch: Switch, stage: Stage, shapes: dict[str, tuple[int, int]]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        place, checked = switch.router.place, False

        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal checked
                now = stage.now()
                if now is None or not acts(self.target, place, now[1]):
                    return original(*args, **kwargs)
                value = hidden_input(args, kwargs)
                rows = None
                if self.target.queries != "all" and value is not None:
                    rows = token_rows(self.target, place, *now, _per_token(value, shapes.get(place.module)))
                    if not bool(rows is None or rows.any()):
                        return original(*args, **kwargs)
                with Switching(switch, rows) as mode:
                    output = original(*args, **kwargs)
                if not checked:  # once per session: reading the choice waits for the device
                    require_switched(output, mode, self.name)
                    checked = True
                stage.fired(place.module)
                return output

            return forward

        return around


def expert_off(experts: Iterable[str | ExpertId], **where: Unpack[ExpertWhere]) -> Experts:
    """Exclude experts from routing: their router logits become -inf, and others take their places.

    As in the study of DeepSeek-R1's experts by fTRI. Shared experts are not routed and have no name.

    Args:
        experts: Experts such as ``["L3.E7"]``.
        **where: Query rows and phase.

    Raises:
        UsageError: no experts, or a name, span or phase that cannot be one.
    """
    return _experts(experts, "off", where)


def expert_on(experts: Iterable[str | ExpertId], **where: Unpack[ExpertWhere]) -> Experts:
    """Have experts always chosen: each logit is raised just above the token's largest other one.

    "Always selected" leaves open what a forced expert weighs; with its logit at the top, the router's own rule says it.

    Args:
        experts: Experts such as ``["L3.E7"]``, at most as many per layer as the router chooses.
        **where: Query rows and phase.

    Raises:
        UsageError: no experts, or a name, span or phase that cannot be one.
    """
    return _experts(experts, "on", where)


def _experts(
    experts: Iterable[str | ExpertId], how: Literal["off", "on"], where: Mapping[str, Any]
) -> Experts:
    if isinstance(experts, str):
        raise UsageError(f"experts={experts!r} was asked; give a list of experts, such as [{experts!r}]")
    for unused in where.keys() - {"queries", "phase"}:
        raise UnknownNameError.of(f"parameter of expert_{how}", unused, ("experts", "queries", "phase"))
    listed = list(experts) if isinstance(experts, Iterable) else []
    if not listed or not all(isinstance(one, str | ExpertId) for one in listed):
        raise UsageError(f"experts={experts!r} was asked; name at least one expert, such as L3.E7")
    named = {one if isinstance(one, ExpertId) else ExpertId.parse(one) for one in listed}
    return Experts(tuple(sorted(named)), how, Target.of(None, where))


def _watch_shape(stage: Stage, router: str, shapes: dict[str, tuple[int, int]]) -> Callable[[], None]:
    """Note ``(batch, token)`` of what the router's parents are given, which the router sees flattened."""

    def note(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = hidden_input(args, kwargs)
        if value is not None and value.ndim == 3:
            shapes[router] = (int(value.shape[0]), int(value.shape[1]))

    owner = stage.model.get_submodule(router.rpartition(".")[0])
    return owner.register_forward_pre_hook(note, with_kwargs=True).remove


def _per_token(value: Tensor, shape: tuple[int, int] | None) -> Tensor:
    """A router's input with batch and tokens on axes of their own."""
    return value.reshape(*shape, -1) if value.ndim == 2 and shape is not None else value
