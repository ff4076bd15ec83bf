"""What was asked of a sweep, checked before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from probe import __version__
from probe.analysis.fingerprint import weights_digest
from probe.analysis.ready import ready
from probe.analysis.resume import check_output
from probe.analysis.sweeping.asked import read_call
from probe.analysis.sweeping.cases import Case, Group, digest, grouped
from probe.analysis.sweeping.options import SweepOptions
from probe.analysis.sweeping.prefix import Feed
from probe.analysis.sweeping.tasks import Task
from probe.analysis.sweeping.units import Unit, heads_of, units_of
from probe.errors import InputError, UsageError
from probe.interventions.target import Target
from probe.models import LoadedModel, load
from probe.prompts import Prompt
from probe.report.provenance import utc_now

_COUNTED = 32  # tokens of the forward in which layers and heads are counted


@dataclass(frozen=True)
class Plan:
    """Everything that was asked, checked; `edit` is the intervention on all that is swept, ready for use."""

    loaded: LoadedModel
    asked: Any
    edit: Any
    task: Task
    cases: tuple[Case, ...]
    units: tuple[Unit, ...]
    over: str
    options: SweepOptions
    started: str = field(default_factory=utc_now)

    @property
    def groups(self) -> list[Group]:
        """The cases, those of one shape together."""
        return grouped(self.cases)

    @property
    def phase(self) -> str:
        """The phase that is edited."""
        return str(self.edit.target.phase)

    @property
    def cached(self) -> bool:
        """Whether no row before the first scored one is edited, so that it is run once for all heads."""
        target: Target = self.edit.target
        return target.phase == "decode" or (target.phase == "both" and target.queries == "last")

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the numbers, by name."""
        source = self.loaded.source
        weights = source.sha256 or weights_digest(self.loaded.model)
        return {
            "sweep": 1,
            "model": [self.loaded.name, source.revision, weights, source.dtype, self.loaded.device.type],
            "prompts": digest(self.cases),
            "how": repr(self.asked),
            "task": repr(self.task),
            "units": [unit.name for unit in self.units],
            "options": {"seed": self.options.seed, "resume": self.options.resume},
            "versions": {"probe": __version__, "torch": torch.__version__},
        }


def prepare(model: object, how: object, over: str, task: str, given: tuple[object, SweepOptions]) -> Plan:
    """Check everything that can be checked without measuring, cheapest first; `given` are prompts and options."""
    prompts, options = given
    asked = read_call(how, over, task, options)
    if options.folder is not None:
        check_output(options.folder)
    loaded = load(model, device=options.device, dtype=options.dtype)
    _require_decoder(loaded)
    target: Target = asked.edit.target
    tail = target.phase == "decode" or target.queries == "last"
    cases = tuple(asked.task.cases(loaded, _prompts(prompts, loaded, options), options.seed, tail))
    _check_lengths(cases, loaded)
    edit = ready([asked.edit], loaded, [case.prompt for case in cases])[0]
    heads = heads_of(loaded, Feed(loaded, grouped(cases)[0].head(_COUNTED), cached=False))
    units = tuple(units_of(edit, heads, over))
    return Plan(loaded, asked.edit, edit, asked.task, cases, units, over, options)


def _require_decoder(loaded: LoadedModel) -> None:
    config = getattr(loaded.model, "config", None)
    generates = getattr(loaded.model, "can_generate", lambda: False)()
    if not generates or getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"a sweep of {loaded.name} was asked; its tasks need a decoder that predicts the next token of a prompt"
        )
    if loaded.tokenizer is None:
        raise InputError(f"a sweep of {loaded.name} was asked; it has no tokenizer: give (model, tokenizer)")


def _prompts(prompts: object, loaded: LoadedModel, options: SweepOptions) -> list[Prompt] | None:
    if prompts is None:
        return None
    many: Sequence[object] = prompts if isinstance(prompts, list | tuple) else [prompts]
    found: list[Prompt] = []
    for number, one in enumerate(many):
        if not isinstance(one, str | Prompt):
            raise InputError(f"prompt {number} is a {type(one).__name__}; give text or a Prompt")
        found.append(Prompt.of(one, loaded.tokenizer, id=str(number)) if isinstance(one, str) else one)
    if not found:
        raise InputError("a sweep was asked; the list of prompts is empty: give at least one")
    if len({one.id for one in found}) < len(found):
        found = [replace(one, id=f"{number}:{one.id}") for number, one in enumerate(found)]
    return found if options.max_tokens is None else [one.truncate(options.max_tokens) for one in found]


def _check_lengths(cases: Sequence[Case], loaded: LoadedModel) -> None:
    limit = loaded.max_positions
    for case in cases:
        if limit is not None and len(case.tokens) > limit:
            raise InputError(
                f"prompt {case.id!r} has {len(case.tokens)} tokens with what follows it; {loaded.name} has positions "
                f"for {limit}: shorten it, or keep its first tokens with max_tokens"
            )
