"""Reinforcement: the heads that a span moves most are made louder, chosen at the first step."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import torch
from jaxtyping import Bool
from probe_kernels.types import Attended
from torch import Tensor

from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.interventions.divergence import divergent_heads, head_divergence
from probe.interventions.feeds import Feed, run_feeds
from probe.interventions.paired_rows import pair_of_inputs, pair_of_tokens, sequence_of, span_of_inputs
from probe.interventions.prompt_match import PromptMatch, Tokens
from probe.interventions.span import SpanChoice, as_text, checked
from probe.interventions.target import Region, Target, name_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Place
from probe.seam.session import Session
from probe.terms import HeadId

Selection = Mapping[int, tuple[int, ...]]  # decoder layer -> heads
_SHOWN = 12


@dataclass(frozen=True)
class Reinforce:
    """z_h := alpha · z_h for the selected heads, at the prompt's last row and every generated one.

    `chosen` holds the selection for each prompt, by its real tokens; `prepare` makes it.
    """

    target: Target
    span: SpanChoice
    alpha: float
    control_seed: int | None = None
    inputs: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    chosen: Mapping[Tokens, Selection] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of(
            "reinforce", self.target, span=as_text(self.span), alpha=self.alpha, control=self.control_seed
        )

    @property
    def may_rest(self) -> bool:
        """Whether no head was selected for any prompt."""
        return not any(heads for one in (self.chosen or {}).values() for heads in one.values())

    def control(self, seed: int) -> "Reinforce":
        """As many heads of each layer, drawn with `seed` among those that were not selected."""
        return replace(self, control_seed=seed)

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Refuse models without a decoder's self-attention in the chosen layers."""
        self.target.require(places, heads)
        if not any(self.covers(place) for place in places.values()) or "encoder" in {
            place.tower for place in places.values()
        }:
            raise InterventionError(
                f"{self.name} was asked; it compares heads where the next token is predicted, in a decoder that reads "
                "the prompt itself: this model, or the layers that were chosen, have none"
            )

    def covers(self, place: Place) -> bool:
        """Whether it may act in a layer."""
        return place.tower == "decoder" and self.target.covers(place)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "Reinforce":
        """Select heads for every prompt: one forward each, of the prompt and of the prompt without the span.

        Raises:
            UsageError: no prompts (and no inputs), or two with the same tokens and another selection.
            InputError: a prompt without the span, or with nothing left beside it.
        """
        if self.chosen is not None:
            return self
        chosen: dict[Tokens, Selection] = {}
        for tokens, pair in self._pairs(loaded, prompts):
            comparing = _Comparing(self)
            run_feeds(loaded, [Feed(pair, ())], Session(loaded.model, (), (comparing,)), self.name)
            if chosen.get(tokens, comparing.selected) != comparing.selected:
                raise UsageError(
                    f"{self.name} was asked for two prompts with the same tokens, and their spans select different "
                    "heads: a forward could not tell them apart; run them one after another"
                )
            chosen[tokens] = comparing.selected
        return replace(self, chosen=chosen)

    def live(self) -> "_Reinforcing":
        """A copy that follows the prompts of one session."""
        if self.chosen is None:
            raise InterventionError(
                f"{self.name} was opened before heads were selected: use probe.edit, analyze or observe, which do"
            )
        return _Reinforcing(self, self.chosen)

    def _pairs(
        self, loaded: LoadedModel, prompts: Sequence[Prompt] | None
    ) -> list[tuple[Tokens, dict[str, Any]]]:
        model = loaded.model
        if self.inputs is not None:
            given = {k: v.to(loaded.device) if isinstance(v, Tensor) else v for k, v in self.inputs.items()}
            tokens, _ = sequence_of(given, self.name)
            flags = span_of_inputs(model, given, self.span, self.name)
            return [(tuple(tokens.tolist()), pair_of_inputs(model, given, flags, self.name))]
        if not prompts:
            raise UsageError(
                f"{self.name} was asked; it selects heads for each prompt beforehand: give prompts=[...] with the span"
            )
        made = []
        for prompt in prompts:
            ids = torch.tensor(prompt.tokens, device=loaded.device)
            pair = pair_of_tokens(model, ids, self._flags(prompt).to(ids.device), self.name)
            made.append((tuple(prompt.tokens), pair))
        return made

    def _flags(self, prompt: Prompt) -> Bool[Tensor, "token"]:
        if isinstance(self.span, tuple):
            at = torch.arange(len(prompt.tokens))
            return (at >= self.span[0]) & (at < self.span[1])
        if self.span == "all":
            raise InputError(f"{self.name} was asked; without all of its tokens nothing is left of a prompt")
        if self.span not in prompt.spans:
            raise UnknownNameError.of(f"span of prompt {prompt.id!r}", self.span, prompt.spans)
        return torch.from_numpy(prompt.spans[self.span].copy())


class _Comparing:
    """The forward of two rows: selects heads layer by layer, in both rows with earlier layers already reinforced."""

    def __init__(self, said: Reinforce) -> None:
        self.said = said
        self.selected: dict[int, tuple[int, ...]] = {}

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """Compare the rows' z at the last position, and reinforce what was selected there."""
        z = attended.z
        if z is None or not self.said.covers(call.place):
            return attended
        vhd, activation = head_divergence(z[0, :, -1], z[1, :, -1])
        allowed = self.said.target.among(call.place, call.n_heads)
        heads = tuple(h for h in divergent_heads(vhd, activation).nonzero()[:, 0].tolist() if h in allowed)
        self.selected[call.place.layer] = heads
        if not heads:
            return attended
        louder = z.clone()
        louder[:, list(heads), -1] *= self.said.alpha
        return replace(attended, z=louder)


class _Reinforcing:
    """One session of a reinforcement."""

    def __init__(self, said: Reinforce, chosen: Mapping[Tokens, Selection]) -> None:
        self.said, self._chosen = said, chosen
        self._match = PromptMatch(tuple(chosen), said.name)

    @property
    def notes(self) -> list[str]:
        """Which heads were selected, prompt by prompt."""
        lines = []
        for number, one in enumerate(self._chosen.values()):
            heads = [str(HeadId("decoder", layer, head)) for layer in sorted(one) for head in one[layer]]
            shown = ", ".join(heads[:_SHOWN]) + (", …" if len(heads) > _SHOWN else "")
            lines.append(
                f"{self.said.name}: prompt {number}: {len(heads)} heads were selected ({shown or 'none'})"
            )
        return lines

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with the selected heads louder at the rows that predict the next token."""
        z = attended.z
        if z is None or not self.said.covers(call.place) or not self.said.target.applies(call):
            return attended
        louder = torch.zeros(z.shape[:3], dtype=torch.bool)
        index = call.query_index.cpu()
        for row, tokens in enumerate(self._match.of(call.batch)):
            if tokens is not None:
                heads = self._heads(tokens, call)
                louder[row, list(heads)] = index[row] >= len(tokens) - 1
        if not bool(louder.any()):
            return attended
        return replace(attended, z=torch.where(louder.to(z.device)[..., None], z * self.said.alpha, z))

    def _heads(self, tokens: Tokens, call: AttentionCall) -> tuple[int, ...]:
        heads = self._chosen[tokens].get(call.place.layer, ())
        if self.said.control_seed is None:
            return heads
        others = [head for head in range(call.n_heads) if head not in heads]
        draw = random.Random(f"{self.said.control_seed}/{call.place.layer}")  # noqa: S311 -- not a secret
        return tuple(sorted(draw.sample(others, len(heads))))


def reinforce(
    span: SpanChoice,
    alpha: float = 2.0,
    heads: Iterable[str | HeadId] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **where: Unpack[Region],
) -> Reinforce:
    """Make the heads louder that diverge most when a span is taken out of the prompt.

    Vision-aware Head Reinforcement (VHR) of He et al. 2025, arXiv:2412.13949, for any span: in each layer the heads
    above the median of ``VHD = ‖z(with span) - z(without)‖`` at the prompt's last position, outliers left out (see
    `divergence`), layer by layer with earlier layers already reinforced. The selection is made once, before the first
    forward, and kept for the generation. Both rows of the comparison are reinforced; the row without the span has its
    tokens taken out and positions closed up, as no code of the paper says otherwise. z of the prompt's earlier rows
    stays as it is. Other interventions of the list do not act while heads are selected. The paper edits layer 1 and the
    last 14 (LLaVA-1.5) or 18 (InstructBLIP): give `layers`.

    Args:
        span: A span's name, or ``(start, stop)`` in real tokens; with `inputs` also ``"image"``.
        alpha: The factor, any finite number.
        heads: Only these may be selected, such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        inputs: The model's own inputs of one sequence, pixels included; needed where the prompt has an image, as a
            `Prompt` has no pixels. Later forwards are known by their tokens.
        **where: Layers, tower and phase: see `probe.interventions.target.Region`.

    Raises:
        UsageError: a span, factor, head, layer or phase that cannot be one; when opened: no prompts were given.
        InputError: when opened: a prompt without the span, or with nothing beside it.
        InterventionError: a model without a decoder that reads the prompt, or that takes no padding.
    """
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UsageError(f"reinforce with alpha={alpha!r} was asked; alpha must be a finite number")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise UsageError(
            f"reinforce with inputs={inputs!r} was asked; give a mapping of the model's own inputs"
        )
    if "queries" in where:
        raise UsageError(
            "reinforce with queries was asked; it acts at the rows that predict the next token, and no other"
        )
    target = Target.of(heads, where, selects=("first_step",))
    return Reinforce(target, checked(span, "span"), float(alpha), inputs=inputs)
