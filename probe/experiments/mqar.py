"""Which heads look up: multi-query associative recall, a task whose right keys are known exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from probe_kernels.types import Attended, Match, Want
from torch import Tensor

from probe.experiments.base import Ask, told
from probe.experiments.copy_tests import cannot_copy
from probe.experiments.head_grid import by_prompt, head_grid
from probe.experiments.retrieval_answer import not_applicable
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.models import LoadedModel
from probe.prompts.mqar import Recall, RecallTask, mqar
from probe.readouts.evaluating import evaluating
from probe.readouts.logits import next_token_logits, parts, precise, rows_at_once
from probe.report.answer import Answer
from probe.seam.call import AttentionCall
from probe.seam.session import Session

_MAPS = ("value_hit", "value_mass", "key_hit", "key_mass")


class Mqar:
    """Share of asked keys for which a head looks most at the very value that is asked for, 0 to 1.

    A sequence says pairs ``k1 v1 k2 v2 …`` of random tokens, then every key again, once; where a key is asked, its
    value should follow. At those rows alone: ``hit = 1`` iff argmax_j p_ij is the asked value's position (of any pass).
    In `extra`: ``value_mass``, the mean probability on it; ``key_hit`` and ``key_mass``, the same of the asked key's
    earlier place; per sequence ``accuracy`` (the value is the most probable of all tokens) and
    ``accuracy_among_values`` (of the sequence's values).

    Arora et al. 2023, Zoology: Measuring and Improving Recall in Efficient Language Models (arXiv:2312.04927), whose
    task this is; the head scores are ours. Its vocabulary of 8192 is drawn from the tokenizer's, with the seed.

    Args:
        length: tokens of a sequence; even.
        pairs: keys per sequence.
        passes: how often the pairs are said.
        examples: how many sequences.
        power: exponent of the power law of the gaps; small: keys are asked early.
        gate: count only queries whose value the model predicts (of all tokens).
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="mqar",
        summary="Share of asked keys for which a head looks most at the value that belongs to it, 0 to 1",
        unit="share of queries",
        better="high",
        paper="Arora et al. 2023",
        bibtex="""@misc{arora2023zoology,
  title={Zoology: Measuring and Improving Recall in Efficient Language Models},
  author={Arora, Simran and Eyuboglu, Sabri and Timalsina, Aman and Johnson, Isys and Poli, Michael and Zou, James
    and Rudra, Atri and R{\\'e}, Christopher},
  year={2023},
  eprint={2312.04927},
  archivePrefix={arXiv}
}""",
        causal_only=True,
        slow=True,
    )

    def __init__(
        self, length: int = 64, pairs: int = 8, passes: int = 1, examples: int = 8, power: float = 0.01,
        gate: bool = False,
    ) -> None:  # fmt: skip
        at_least("mqar", "examples", examples, 1)
        self.spec = self.info.name
        self.task = RecallTask(length, pairs, passes, power)
        self.examples, self.gate = examples, gate

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per sequence; the seed draws them. Prompts are its own.

        Raises `UsageError` where the tokenizer has too few tokens for so many pairs.
        """
        model = ask.model
        reason = _cannot(model, self.task.length)
        if reason:
            return [not_applicable(self.info, self.spec, model, reason)]
        found = []
        for number, recall in enumerate(mqar(self.task, model.tokenizer, count=self.examples, seed=ask.seed)):
            ask.tell(number, self.examples, f"{self.spec}: {recall.prompt.id}")
            found.append(_seen(model, recall))
        ask.tell(self.examples, self.examples, self.spec)
        return [self._answer(found)]

    def _answer(self, found: list["_Seen"]) -> Answer:
        names = [one.recall.prompt.id for one in found]
        counted = [one.right if self.gate else np.ones(len(one.right), dtype=bool) for one in found]
        each = {
            name: by_prompt([one.mean(name, rows) for one, rows in zip(found, counted, strict=True)], names)
            for name in _MAPS
        }
        # Pooled over queries, as every query is one trial; sequences have the same number unless gated.
        weights = xr.DataArray([float(rows.sum()) for rows in counted], dims=("prompt",))
        maps = {name: _pooled(values, weights) for name, values in each.items()}
        among = [float(one.among.mean()) for one in found]
        right = [float(one.right.mean()) for one in found]
        coords = {"prompt": names}
        return Answer(
            **told(self.spec, self.info),
            head_map=maps["value_hit"],
            by_prompt=each["value_hit"],
            extra={
                **{name: maps[name] for name in _MAPS[1:]},
                "accuracy": xr.DataArray(right, dims=("prompt",), coords=coords),
                "accuracy_among_values": xr.DataArray(among, dims=("prompt",), coords=coords),
            },
            notes=self._notes(found, right, among, int(weights.sum())),
        )

    def _notes(
        self, found: list["_Seen"], right: list[float], among: list[float], counted: int
    ) -> tuple[str, ...]:
        task, total = self.task, sum(len(one.right) for one in found)
        by_chance = np.mean([np.mean(one.recall.values.shape[1] / (one.recall.queries + 1)) for one in found])
        lines = [
            f"{task.pairs} pairs said {task.passes} times in {task.length} tokens, {len(found)} sequences, "
            f"power={task.power:g}, gate={str(self.gate).lower()}; a uniform head has value_mass {by_chance:.3g}",
            f"the model's own accuracy: {np.mean(right):.2f} of all tokens, {np.mean(among):.2f} among the "
            f"{task.pairs} values (chance {1 / task.pairs:.2f})",
        ]
        if self.gate:
            lines.append(f"{counted} of {total} queries counted, those that the model answers")
            if not counted:
                lines.append("no query was answered, so no head has a score: ask fewer pairs, or gate=false")
        return tuple(lines)


@dataclass
class _Seen:
    """What one sequence showed, per query: per layer and head, and whether the model was right."""

    recall: Recall
    maps: Mapping[str, Mapping[int, np.ndarray]]  # name -> layer -> (query, head)
    right: np.ndarray
    among: np.ndarray

    def mean(self, name: str, rows: np.ndarray) -> xr.DataArray:
        """Mean over some queries, (layer, head); NaN where there is none."""
        kept = {layer: values[rows] for layer, values in self.maps[name].items()}
        return head_grid({n: v.mean(0) if len(v) else np.full(v.shape[1], np.nan) for n, v in kept.items()})


class _Watch:
    """Observes, at the rows that ask, the most attended key and the mass on the right ones."""

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self.maps: dict[str, dict[int, np.ndarray]] = {name: {} for name in _MAPS}

    def want(self, call: AttentionCall) -> Want:
        """The top key, and mass on keys that share a query's number."""
        if call.place.tower != "decoder":
            return Want(z=False)
        return Want(
            z=False,
            top=True,
            matches={
                "mqar value": self._match(call, self._recall.values),
                "mqar key": self._match(call, self._recall.keys),
            },
        )

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep the rows that ask."""
        if call.place.tower != "decoder" or attended.top_index is None:
            return
        rows = torch.from_numpy(self._recall.queries)
        top = attended.top_index[0].cpu()[:, rows].T.numpy()
        for name, places in (("value", self._recall.values), ("key", self._recall.keys)):
            hit = (top[:, :, None] == places[:, None, :]).any(-1)
            mass = attended.matches[f"mqar {name}"][0].cpu()[:, rows].T.double().numpy()
            self.maps[f"{name}_hit"][call.place.layer] = hit.astype(np.float64)
            self.maps[f"{name}_mass"][call.place.layer] = mass

    def _match(self, call: AttentionCall, places: np.ndarray) -> Match:
        n = call.size[1]
        asked, held = torch.full((1, n), -2), torch.full((1, n), -1)
        for number, (query, right) in enumerate(zip(self._recall.queries, places, strict=True)):
            asked[0, query] = number
            held[0, torch.from_numpy(right)] = number
        device = call.layout.key_pos.device
        return Match(asked.to(device), held.to(device))


def _seen(model: LoadedModel, recall: Recall) -> _Seen:
    watch = _Watch(recall)
    ids = torch.tensor([recall.prompt.tokens], device=model.device)
    with evaluating(model.model), Session(model.model, [watch]) as session:
        logits = next_token_logits(model.model, {"input_ids": ids})
        session.require_seen()
    said: list[Tensor] = []
    with evaluating(model.model), torch.no_grad():
        for part in parts(logits.size, rows_at_once(model.model)):
            rows = recall.queries[(recall.queries >= part.start) & (recall.queries < part.stop)] - part.start
            if len(rows):
                said.append(precise(logits.columns(part))[0, torch.from_numpy(rows)].cpu())
    asked = torch.cat(said)
    choices = torch.from_numpy(recall.choices)
    right = asked.argmax(-1).numpy() == recall.labels
    among = choices[asked[:, choices].argmax(-1)].numpy() == recall.labels
    return _Seen(recall, watch.maps, right, among)


def _pooled(values: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Mean over queries from means over sequences; NaN where no query counts."""
    total = (values.fillna(0.0) * weights.values[:, None, None]).sum("prompt")
    counts = (values.notnull() * weights.values[:, None, None]).sum("prompt")
    return (total / counts.where(counts > 0)).drop_vars("prompt", errors="ignore")


def _cannot(model: LoadedModel, length: int) -> str | None:
    reason = cannot_copy(model)
    room = model.max_positions
    if reason is None and room is not None and length + 1 > room:
        return f"sequences of {length} tokens need more than its {room} positions: ask for a smaller length"
    return reason
