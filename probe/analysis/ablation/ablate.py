"""``probe.ablate``: what interventions do to a model's predictions, beside the base and random controls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from probe.analysis.ablation.comparing import TokenScores, compare
from probe.analysis.ablation.controls import Control, draw_controls
from probe.analysis.ablation.edits import read_edits
from probe.analysis.ablation.measures import PromptScores, RunScores
from probe.analysis.ablation.options import AblateOptions
from probe.analysis.ablation.record import record
from probe.analysis.ablation.result import Ablation
from probe.analysis.ablation.scoring import logits_of, tokens_of
from probe.analysis.applied import Applied
from probe.analysis.continuation import Decoding, answer_tokens, continued, forced, room
from probe.analysis.forward import out_of_memory
from probe.analysis.inputs import Inputs, read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.analysis.ready import ready
from probe.analysis.resume import check_output
from probe.analysis.settle import settled
from probe.errors import InputError, UsageError
from probe.models import LoadedModel, load
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.readouts.logits import rows_at_once
from probe.report.provenance import utc_now


@dataclass(frozen=True)
class _Plan:
    """What is run, checked before the first forward."""

    loaded: LoadedModel
    inputs: Inputs
    prompts: tuple[Prompt, ...]
    edited: Applied
    controls: tuple[tuple[Control, Applied], ...]
    notes: tuple[str, ...]
    options: AblateOptions
    started: str = field(default_factory=utc_now)

    @property
    def ways(self) -> list[Applied]:
        """Base, edited, controls."""
        return [Applied(self.loaded), self.edited, *(applied for _, applied in self.controls)]


def ablate(
    model: object,
    prompts: object = None,
    interventions: object = (),
    *,
    options: AblateOptions | None = None,
    **changes: Any,
) -> Ablation:
    """Measure what interventions do to a model's predictions of the next token.

    Loss and perplexity of the prompts, KL(base || edited) in nats, the share of positions whose most probable token
    changes, and a greedy continuation: for the model as it is, edited, and under random controls (as many other heads
    of each layer). Where a prompt has an answer, also the loss of that answer after the prompt.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; a Hugging Face model; or ``(model, tokenizer)``.
        prompts: Text, a `Prompt`, or a list of these; None: a shipped text.
        interventions: Interventions or their specs, applied in order.
        options: How to run it.
        **changes: Single options by name (``controls=5``, ``new_tokens=0``), over those of `options`.

    Raises:
        UsageError: the call was wrong, or the model predicts no next token; nothing was run.
        InterventionError: an intervention cannot act on this model; or, at the end, it changed nothing.
        BudgetError: memory ran out, naming the size.
    """
    asked = AblateOptions.of(options, changes)
    edits = read_edits(interventions)
    if asked.out is not None:
        check_output(Path(asked.out))
    loaded = load(model, device=asked.device, dtype=asked.dtype)
    with evaluating(loaded.model), settled(asked.seed, deterministic=False, device=loaded.device):
        plan = _prepare(loaded, prompts, edits, asked)
        found = _run(plan)
    if asked.out is not None:
        found.save(asked.out)
    return found


def _prepare(loaded: LoadedModel, prompts: object, edits: tuple[Any, ...], options: AblateOptions) -> _Plan:
    require_next_token(loaded)
    inputs = read_inputs(prompts, loaded, AnalyzeOptions(max_tokens=options.max_tokens))
    texts = tuple(item.prompt for item in inputs.items if item.prompt is not None)
    if len(texts) < len(inputs.items):
        raise InputError("ready-made inputs were given; losses need text or prompts: give these")
    for prompt in texts:
        if prompt.answer is not None:
            _require_room(loaded, prompt)
    edited = Applied(loaded, ready(edits, loaded, texts), texts)
    drawn, notes = draw_controls(edits, loaded, options.controls, options.seed)
    controls = tuple((one, Applied(loaded, ready(one.interventions, loaded, texts), texts)) for one in drawn)
    return _Plan(
        loaded, inputs, texts, edited, controls, (*notes, *_warnings(edits, loaded, texts, options)), options
    )


def require_next_token(loaded: LoadedModel) -> None:
    """Raise `UsageError` unless the model predicts each token of a text from those before it."""
    paired = getattr(getattr(loaded.model, "config", None), "is_encoder_decoder", False)
    if paired or not getattr(loaded.model, "can_generate", lambda: False)():
        kind = "an encoder and a decoder" if paired else "no head that predicts the next token"
        raise UsageError(
            f"losses of {loaded.name} were asked; it has {kind}: use a decoder with a language-modelling head such as "
            "smollm2-135m, or see what its heads do with analyze and interventions="
        )


def _require_room(loaded: LoadedModel, prompt: Prompt) -> None:
    """Raise `InputError` where a prompt's answer has no tokens, or none of the model's positions are left for it."""
    if loaded.tokenizer is None:
        raise InputError(f"prompt {prompt.id} has an answer; {loaded.name} has no tokenizer to read it with")
    wanted = len(answer_tokens(prompt, loaded.tokenizer))
    if room(loaded, prompt, wanted) < wanted:
        raise InputError(
            f"prompt {prompt.id} has {len(prompt)} tokens and an answer of {wanted}; {loaded.name} has positions for "
            f"{loaded.max_positions}: shorten it"
        )


def _warnings(
    edits: Sequence[Any], loaded: LoadedModel, prompts: Sequence[Prompt], options: AblateOptions
) -> list[str]:
    """Lines about what the numbers do not show."""
    lines = []
    late = [one.name for one in edits if getattr(getattr(one, "target", None), "phase", "both") == "decode"]
    if late and not options.stepwise:
        lines.append(
            f"{', '.join(late)} acts in decode steps alone: loss, KL and top changes are of one forward over each "
            "prompt, where it rests; the continuation and answers show it, and so does stepwise (--stepwise)"
        )
    short = [prompt.id for prompt in prompts if room(loaded, prompt, options.new_tokens) < options.new_tokens]
    if short:
        lines.append(
            f"no positions are left for {options.new_tokens} new tokens after {', '.join(short[:3])}"
        )
    return lines


def _run(plan: _Plan) -> Ablation:
    ways = plan.ways
    by_prompt: list[list[PromptScores]] = []
    for number, prompt in enumerate(plan.prompts):
        with out_of_memory(f"ablation of {plan.loaded.name} on a prompt", len(prompt)):
            by_prompt.append(_one(plan, prompt, ways, number))
    for way in ways:
        way.require_effect()
    runs = [tuple(row[number] for row in by_prompt) for number in range(len(ways))]
    drawn = zip(plan.controls, runs[2:], strict=True)
    return Ablation(
        interventions=tuple(one.name for one in plan.edited.interventions),
        prompts=tuple(prompt.id for prompt in plan.prompts),
        weights=_weights(plan),
        base=RunScores(runs[0]),
        edited=RunScores(runs[1]),
        controls=tuple(RunScores(scores, one.heads, one.seed) for (one, _), scores in drawn),
        provenance=record(plan.loaded, plan.inputs, plan.options, plan.started, _told(plan, ways)),
        level=plan.options.level,
    )


def _one(plan: _Plan, prompt: Prompt, ways: Sequence[Applied], number: int) -> list[PromptScores]:
    """All runs of one prompt: their logits compared, then what each writes."""
    options, total = plan.options, len(plan.prompts) * len(ways)
    logits = []
    for step, way in enumerate(ways):
        options.report_progress(number * len(ways) + step, total, f"prompt {prompt.id}")
        logits.append(logits_of(way, prompt, stepwise=options.stepwise))
    scores: list[TokenScores] = compare(logits, tokens_of(ways[0], prompt), rows_at_once(plan.loaded.model))
    del logits
    answer = () if prompt.answer is None else answer_tokens(prompt, plan.loaded.tokenizer)
    found = []
    for place, (way, one) in enumerate(zip(ways, scores, strict=True)):
        said = forced(way, prompt, answer) if answer else None
        # Controls differ by their draw alone: the first one's text stands for them.
        text = continued(way, prompt, Decoding(options.new_tokens)) if place < 3 else None
        found.append(PromptScores.of(one, said, text))
    options.report_progress((number + 1) * len(ways), total, f"prompt {prompt.id}")
    return found


def _weights(plan: _Plan) -> dict[str, np.ndarray]:
    lengths = np.array([len(prompt) for prompt in plan.prompts], dtype=np.int64)
    tokenizer = plan.loaded.tokenizer
    answers = [0 if one.answer is None else len(answer_tokens(one, tokenizer)) for one in plan.prompts]
    return {
        "predicted": lengths - 1,
        "positions": lengths,
        "answer_tokens": np.array(answers, dtype=np.int64),
    }


def _told(plan: _Plan, ways: Sequence[Applied]) -> list[str]:
    """Every line that a reader must see, once."""
    lines = [*plan.loaded.notes, *plan.inputs.notes, *plan.notes]
    return list(dict.fromkeys(lines + [note for way in ways for note in way.notes]))
