"""``probe.generate``: what a model writes as it is, edited, and under a control, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from probe.analysis.ablation.controls import draw_controls
from probe.analysis.ablation.edits import read_edits
from probe.analysis.applied import Applied
from probe.analysis.continuation import Continuation, Decoding, continued, require_generates, room
from probe.analysis.first_use import drift_of
from probe.analysis.inputs import read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.analysis.ready import ready
from probe.analysis.records import model_record
from probe.analysis.settle import settled
from probe.errors import InputError
from probe.models import LoadedModel, load
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.report.json_form import SCHEMA, finite
from probe.report.provenance import Provenance, utc_now


@dataclass(frozen=True)
class Generations:
    """The continuations of one prompt: ``base``, ``edited`` and, if asked and possible, ``control``.

    Attributes:
        prompt: The text.
        interventions: Their names, in the order in which they applied.
        runs: By name.
        control_heads: The heads that the control edits.
        provenance: Where the texts came from, and lines that their reader must see.
    """

    prompt: str
    interventions: tuple[str, ...]
    runs: Mapping[str, Continuation]
    provenance: Provenance = field(repr=False)
    control_heads: tuple[str, ...] = ()

    def differs_at(self, run: str) -> int | None:
        """Number of the first new token, from 0, in which a run leaves the base; None where it does not."""
        return self.runs["base"].differs_at(self.runs[run])

    def to_json(self) -> dict[str, Any]:
        """One JSON object, schema 1, with the probability of every token."""
        record = self.provenance.to_dict()
        runs = {
            name: {**run.to_dict(), "differs_at": self.differs_at(name)} for name, run in self.runs.items()
        }
        found = {
            "schema": SCHEMA,
            "model": record["model"],
            "prompt": self.prompt,
            "intervention": list(self.interventions),
            "runs": {name: runs.get(name) for name in ("base", "edited", "control")},
            "control_heads": list(self.control_heads),
            "notes": list(self.provenance.notes),
            "provenance": record,
        }
        return dict(finite(found))


def generate(
    model: object,
    prompt: object,
    interventions: object,
    *,
    decoding: Decoding | None = None,
    control: bool = False,
    seed: int = 0,
    command: str | None = None,
) -> Generations:
    """Let a model continue a prompt as it is and edited.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; a Hugging Face model; or ``(model, tokenizer)``.
        prompt: Text, or a `Prompt`.
        interventions: Interventions or their specs, applied in order.
        decoding: How many tokens, and how they are chosen; default 20, greedily.
        control: Also continue under the same interventions on as many other heads of each layer.
        seed: Of the control's draw, and of sampling: every run samples from the same random numbers.
        command: The command line, for the record.

    Raises:
        UsageError: the call was wrong, or the model writes no text; nothing was run.
        InterventionError: an intervention cannot act on this model; or, at the end, it changed nothing.
    """
    how = decoding or Decoding()
    edits, started = read_edits(interventions), utc_now()
    loaded = load(model)
    require_generates(loaded)
    text = _prompt(loaded, prompt, how)
    with evaluating(loaded.model):
        ways = {"base": Applied(loaded), "edited": Applied(loaded, ready(edits, loaded, [text]))}
        drawn, notes = draw_controls(edits, loaded, int(control), seed)
        for one in drawn:
            ways["control"] = Applied(loaded, ready(one.interventions, loaded, [text]))
        runs = {}
        for name, way in ways.items():
            with settled(seed, deterministic=False, device=loaded.device):
                made = continued(way, text, how)
            if made is not None:
                runs[name] = made
    for way in ways.values():
        way.require_effect()
    provenance = Provenance(
        model=model_record(loaded),
        tokens=len(text),
        prompts=1,
        seed=seed,
        logit_drift=drift_of(loaded.model, "fused"),
        command=command,
        started=started,
        ended=utc_now(),
        settings={"new_tokens": how.new_tokens, "temperature": how.temperature},
        notes=_notes(loaded, ways, notes if control else ()),
    )
    names = tuple(one.name for one in ways["edited"].interventions)
    return Generations(text.text, names, runs, provenance, drawn[0].heads if drawn else ())


def _prompt(loaded: LoadedModel, prompt: object, how: Decoding) -> Prompt:
    """The one prompt, checked; raises `InputError` where it is none, or leaves no room for new tokens."""
    if not isinstance(prompt, str | Prompt):
        raise InputError(f"a {type(prompt).__name__} was given as the prompt; give text or a Prompt")
    found = read_inputs(prompt, loaded, AnalyzeOptions()).items[0].prompt
    if found is None or room(loaded, found, how.new_tokens) < max(1, how.new_tokens):
        raise InputError(
            f"{how.new_tokens} new tokens were asked; at least 1 can be, and {loaded.name} has positions for "
            f"{loaded.max_positions} with the prompt's: ask for fewer, or shorten the prompt"
        )
    return found


def _notes(loaded: LoadedModel, ways: Mapping[str, Applied], more: tuple[str, ...]) -> tuple[str, ...]:
    lines = [*loaded.notes, *more, *(note for way in ways.values() for note in way.notes)]
    return tuple(dict.fromkeys(lines))
