"""What was asked of a measurement of patterns, checked before the first forward."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from probe_kernels.mask import Mask, causal
from probe_kernels.select import Pattern, Site
from probe_kernels.types import Layout, Scores

from probe.analysis.ablation.ablate import require_next_token
from probe.analysis.choice import check_backend
from probe.analysis.first_use import verify_on_first_use
from probe.analysis.inputs import Inputs, read_inputs
from probe.analysis.patterning.options import PatternOptions
from probe.analysis.resume import check_output
from probe.errors import InputError, UsageError
from probe.interventions.pattern_specs import is_pattern, read_pattern
from probe.models import LoadedModel, load
from probe.report.provenance import utc_now
from probe.seam.places import places


class Asked(NamedTuple):
    """A pattern, and the spec as typed (its name where it was given ready-made), which is the key of its answers."""

    spec: str
    pattern: Pattern


@dataclass(frozen=True)
class Plan:
    """Everything that was asked, checked."""

    loaded: LoadedModel
    inputs: Inputs
    patterns: tuple[Asked, ...]
    options: PatternOptions
    started: str = field(default_factory=utc_now)

    @property
    def specs(self) -> list[str]:
        """The patterns as typed, in order."""
        return [one.spec for one in self.patterns]


def read_patterns(asked: object) -> tuple[Asked, ...]:
    """Patterns, or specs made into them, in order.

    Raises:
        UnknownNameError: no such pattern.
        UsageError: none, one twice, something that is no pattern, a parameter out of range.
    """
    given = [asked] if isinstance(asked, str) or is_pattern(asked) else asked
    if not isinstance(given, Sequence) or not given:
        from probe_kernels.select import PATTERNS

        raise UsageError(
            f"patterns={asked!r} was asked; give at least one of {', '.join(sorted(PATTERNS))}, "
            "such as sink_recent:sinks=4,recent=256"
        )
    made: list[Asked] = []
    for one in given:
        if not isinstance(one, str) and not is_pattern(one):
            raise UsageError(
                f"{one!r} was asked as a pattern; give a spec such as sliding:window=256, or a pattern"
            )
        made.append(Asked(one.strip(), read_pattern(one)) if isinstance(one, str) else Asked(one.name, one))
    names = [one.pattern.name for one in made]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"the pattern {twice[0]!r} was asked twice; name each pattern once")
    return tuple(made)


def prepare(model: object, prompts: object, asked: object, options: PatternOptions) -> Plan:
    """Check everything that can be checked without running the prompts, cheapest first."""
    patterns = read_patterns(asked)
    check_backend(options.kernels)
    folder = options.running.folder
    if folder is not None:
        check_output(folder)
    loaded = load(model, device=options.device, dtype=options.dtype)
    _require_causal(loaded)
    inputs = read_inputs(prompts, loaded, options.running)
    if options.apply:
        require_next_token(loaded)
        if any(item.prompt is None for item in inputs.items):
            raise InputError("apply was asked for ready-made inputs; losses need text or prompts: give these")
    known = verify_on_first_use(loaded.model)
    heads = set() if known is None else set(known.heads.values())
    lengths = {item.n_tokens for item in inputs.items if item.prompt is not None}
    for _, pattern in patterns:
        for n_tokens in sorted(lengths):
            for n_heads in sorted(heads):
                _rehearse(pattern, n_tokens, n_heads)
    return Plan(loaded, inputs, patterns, options)


def _require_causal(loaded: LoadedModel) -> None:
    """Raise `UsageError` unless the model attends backwards over its own tokens: patterns are measured there."""
    towers = {place.tower for place in places(loaded.model).values()}
    paired = getattr(getattr(loaded.model, "config", None), "is_encoder_decoder", False)
    if "decoder" in towers and not paired:
        return
    kind = (
        "an encoder and a decoder" if paired else "only " + (", ".join(sorted(towers)) or "no") + " attention"
    )
    raise UsageError(
        f"patterns were asked of {loaded.name}; it has {kind}, and patterns keep earlier tokens of one text: "
        "use a decoder such as smollm2-135m"
    )


def _rehearse(pattern: Pattern, n_tokens: int, n_heads: int) -> None:
    """Apply a pattern that does not look at scores to a text of this length; raises `UsageError` where that fails."""
    if pattern.learned:
        return
    nothing = torch.zeros(1, n_heads, n_tokens, 1)
    at = torch.arange(n_tokens)[None]
    try:
        pattern.select(Scores(nothing, nothing, nothing, 1.0), Layout(Mask((causal(),)), at, at), Site())
    except ValueError as error:
        raise UsageError(
            f"{pattern.name} was asked for {n_tokens} tokens and {n_heads} heads; it cannot be applied: {error}"
        ) from error
