"""Answer-letter heads: heads that carry the letter of the right option to the answer on multiple choice."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.circuits.letter_scores import (
    ENDING,
    RIGHT,
    Letters,
    letter_right,
    letter_scores,
    letters_of,
    margin,
)
from probe.circuits.looks import ByLayer, attention
from probe.circuits.paths import heads_of
from probe.circuits.receivers import Heads
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.role_report import require_marks
from probe.circuits.role_tables import measure_table, named_roles, role_effects, role_table
from probe.circuits.roles import direct_effects, joined
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.errors import UsageError
from probe.report import Report

BIBTEX = """@article{lieberum2023does,
  title={Does Circuit Analysis Interpretability Scale? Evidence from Multiple Choice Capabilities in {Chinchilla}},
  author={Lieberum, Tom and Rahtz, Matthew and Kram{\\'a}r, J{\\'a}nos and others},
  journal={arXiv preprint arXiv:2307.09458},
  year={2023}
}"""
DRAWS = 20
MEASURED = (
    "direct_effect",
    "letter_accuracy",
    "letter_margin",
    "to_right_letter",
    "to_other_letters",
    "to_right_option",
)


def letter_heads(
    model: object,
    pairs: Pairs = "multiple_choice",
    *,
    least_effect: float = 0.02,
    least_accuracy: float = 0.5,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Which heads say the right option's letter: by what they add to the letters' logits, and by where they look.

    A letter head has a direct effect on the logits of at least `least_effect` (as in `path_patching`, MLPs free), by
    itself gives the right letter more than every other one in at least `least_accuracy` of the prompts, and looks at
    the right option's letter or text more than at the mean other letter.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task, or pairs, with the mark ``right_letter`` and marks ``…_letter`` of the other options.
        least_effect: Share of the difference, above 0.
        least_accuracy: Share of prompts, above 0 to 1; chance is one over the number of options.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``letter_heads``; its map is the direct effect. ``extra`` holds:

        - ``measures`` (measure, layer, head): ``letter_accuracy`` (0 to 1), ``letter_margin`` (logits), attention from
          the end ``to_right_letter``, ``to_other_letters`` (mean of one), ``to_right_option`` (NaN without that mark).
        - ``roles`` (role, layer, head).
        - ``shuffled_best`` (draw): the best head's accuracy with the right letters dealt out at random.
        - ``role_effect``, ``random_effect``: what letter heads carry together, and as many random heads.

    Raises:
        UsageError: marks are missing, thresholds out of range, a model that does not solve the task.
        InputError: a letter that is several tokens.
        CaptureError: what each head adds cannot be told in this model.
    """
    asked = CircuitOptions.of(options, changes)
    if least_effect <= 0 or not 0 < least_accuracy <= 1:
        raise UsageError(
            f"least_effect={least_effect}, least_accuracy={least_accuracy} were asked; effects must be above 0, "
            "accuracy above 0 and at most 1"
        )
    with study(model, pairs, asked) as case:
        require_marks(case.pairs, (RIGHT,), "letter heads")
        heads, letters = heads_of(case), letters_of(case)
        direct = direct_effects(case, heads)
        found, shuffled = _measured(case, letters)
        found["direct_effect"] = {layer: one[:, 0] for layer, one in direct.scores.items()}
        means = {name: {layer: one.mean(-1) for layer, one in some.items()} for name, some in found.items()}
        roles = {"letter": _letter_heads(means, heads, (least_effect, least_accuracy))}
        told = Told(
            f"letter_heads:effect={least_effect:g},accuracy={least_accuracy:g}",
            f"Share of the {asked.measure} difference that goes from a head straight to the logits; 1 is all",
            "share of the difference", "Lieberum et al. 2023 (arXiv:2307.09458)", BIBTEX,
        )  # fmt: skip
        extra = {
            "measures": measure_table(means, list(MEASURED), heads),
            "roles": role_table(roles, heads),
            "shuffled_best": labelled(shuffled, draw=list(range(DRAWS))),
            **role_effects(case, heads, roles),
        }
        chance = (
            f"a head names the right letter on {letters.chance:.0%} of prompts by chance; with letters dealt out at "
            f"random the best head does on {shuffled.mean():.0%} (mean of {DRAWS} draws)"
        )
        answer = told.answer(direct.map, direct.by_prompt, extra, [*named_roles(roles), chance])
        return make_report(case, [answer], {"method": "letter_heads", "letters": len(letters.tokens[0])})


def _measured(case: Study, letters: Letters) -> tuple[dict[str, ByLayer], np.ndarray]:
    """Numbers by name, ``{layer: [head, pair]}``, and the best accuracy of any head with shuffled letters, by draw."""
    parts: dict[str, list[ByLayer]] = {}
    raw: list[dict[int, Tensor]] = []
    for batch in case.batches:
        trace = case.engine.record(batch, "clean", ["pattern"])
        looks = {mark: attention(trace, batch.at("end"), batch.at(mark)) for mark in case.pairs.marks}
        others = [looks[mark] for mark in looks if mark.endswith(ENDING) and mark != RIGHT]
        parts.setdefault("to_right_letter", []).append(looks[RIGHT])
        if others:
            parts.setdefault("to_other_letters", []).append(_mean(others))
        if "right" in looks:
            parts.setdefault("to_right_option", []).append(looks["right"])
        raw.append(letter_scores(case, batch, letters))
    found = {name: joined(case, some) for name, some in parts.items()}
    # Letters are the last axis of a batch's scores: pairs go last to be joined.
    moved = joined(case, [{layer: one.movedim(1, -1) for layer, one in some.items()} for some in raw])
    scores = {layer: one.movedim(-1, 1) for layer, one in moved.items()}
    right = torch.from_numpy(letters.right)
    found["letter_accuracy"], found["letter_margin"] = letter_right(scores, right), margin(scores, right)
    drawn = np.random.default_rng(case.options.seed)
    shuffled = [torch.from_numpy(drawn.permutation(letters.right)) for _ in range(DRAWS)]
    best = [
        max(float(one.mean(-1).max()) for one in letter_right(scores, some).values()) for some in shuffled
    ]
    return found, np.array(best)


def _mean(several: list[ByLayer]) -> ByLayer:
    return {layer: torch.stack([one[layer] for one in several]).mean(0) for layer in several[0]}


def _letter_heads(
    means: dict[str, dict[int, Tensor]], heads: Heads, least: tuple[float, float]
) -> dict[int, tuple[int, ...]]:
    effect, accuracy = least
    found = {}
    for layer, count in heads.query.items():
        nothing = torch.zeros(count)
        at_right = torch.maximum(
            means["to_right_letter"].get(layer, nothing), means.get("to_right_option", {}).get(layer, nothing)
        )
        looks = at_right > means.get("to_other_letters", {}).get(layer, nothing)
        says = means["letter_accuracy"].get(layer, nothing) >= accuracy
        chosen = looks & says & (means["direct_effect"].get(layer, nothing) >= effect)
        if bool(chosen.any()):
            found[layer] = tuple(chosen.nonzero()[:, 0].tolist())
    return found
