"""The Bigram-Backcopy model: a tiny transformer, trained in CPU minutes, that grows extreme tokens of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probe.errors import UsageError
from probe.experiments.folding import fold
from probe.experiments.forwards import losses
from probe.metrics.answering import answers
from probe.metrics.making import make
from probe.metrics.row_span import on_rows
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.bigram_backcopy import BOS, BigramBackcopy

ROWS = ("trigger", "other")  # rows whose token copies, and rows that the bigram chain goes on from


@dataclass(frozen=True)
class Training:
    """How the model is made. The paper's: 1 to 3 layers, width 256, 256 tokens, batch 512, 10 000 steps, rate 3e-4.

    These defaults are what a CPU does in minutes. The optimiser is the paper's but for its rate: AdamW, weight decay
    1e-4, betas 0.9 and 0.99; ``"sgd"`` is one of the mitigations that it proposes.
    """

    layers: int = 1
    width: int = 64
    length: int = 64
    batch: int = 32
    steps: int = 800
    rate: float = 3e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.layers, self.width // 2, self.length - 3, self.batch, self.steps)
        if min(whole) < 1 or self.width % 2 or self.rate <= 0 or self.optimiser not in ("adamw", "sgd"):
            raise UsageError(
                f"{self} was asked; give at least one layer, step and sequence, an even width, 4 tokens, a rate above "
                "0, and adamw or sgd"
            )


def train(
    task: BigramBackcopy, how: Training, tell: Callable[[int], None] = lambda step: None
) -> LoadedModel:
    """A Llama of one head per layer trained on the task; the same for the same seed, machine and number of threads.

    It has rotary positions, RMSNorm before each part and a gated MLP of four times the width: the paper's own small
    model differs in those. `tell` is called with each step's number.
    """
    random_state = torch.random.get_rng_state()
    torch.manual_seed(how.seed)
    config = LlamaConfig(
        vocab_size=task.n_tokens, hidden_size=how.width, intermediate_size=4 * how.width,
        num_hidden_layers=how.layers, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=False,
        max_position_embeddings=4 * how.length, bos_token_id=BOS, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(random_state)
    optimiser = _optimiser(model, how)
    generator = np.random.default_rng(how.seed)
    with torch.enable_grad():
        for step in range(how.steps):
            tell(step)
            ids = torch.from_numpy(task.sample(how.batch, how.length, generator))
            logits = model(ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return LoadedModel(model.eval(), None, f"bigram-backcopy-{how.layers}", ModelSource("given"))


def _optimiser(model: torch.nn.Module, how: Training) -> torch.optim.Optimizer:
    if how.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), lr=how.rate, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=how.rate, betas=(0.9, 0.99), weight_decay=1e-4)


@dataclass(frozen=True)
class Backcopied:
    """What a trained model does on fresh sequences, one value per sequence (and layer).

    ``sink`` and ``gap`` are mass on BOS and sink logit gap, at rows whose token is a trigger and at others;
    ``drain`` and ``peak`` are `value_drain` and `residual_peak` (at the output of each layer); ``excess`` is the loss
    above the best possible, in nats.
    """

    sink: dict[str, np.ndarray]  # [sequence, layer]
    gap: dict[str, np.ndarray]
    drain: np.ndarray
    peak: np.ndarray
    excess: dict[str, np.ndarray]  # [sequence]


def measure(loaded: LoadedModel, task: BigramBackcopy, count: int, length: int, seed: int = 1) -> Backcopied:
    """Run `count` fresh sequences through the seam, by the same metrics as any other model."""
    ids = task.sample(count, length, np.random.default_rng([seed, 1]))
    prompts = [_prompt(task, one, f"chain:{number}") for number, one in enumerate(ids)]
    by_rows = {
        (name, rows): on_rows(make(name), rows) for name in ("sink", "sink_logit_gap") for rows in ROWS
    }
    drain, peak = make("value_drain"), make("residual_peak:point=resid_post")
    fold(loaded, prompts, [*by_rows.values(), drain, peak])
    best = task.best_loss(ids)
    over = [losses(loaded, prompt).numpy()[1:] - one[:-1] for prompt, one in zip(prompts, best, strict=True)]
    flags = {rows: np.stack([one.spans[rows] for one in prompts])[:, :-1] for rows in ROWS}
    return Backcopied(
        sink={rows: _values(by_rows["sink", rows]) for rows in ROWS},
        gap={rows: _values(by_rows["sink_logit_gap", rows]) for rows in ROWS},
        drain=_values(drain),
        peak=_values(peak),
        excess={
            rows: np.array([one[own].mean() for one, own in zip(over, flags[rows], strict=True)])
            for rows in ROWS
        },
    )


def _prompt(task: BigramBackcopy, ids: np.ndarray, name: str) -> Prompt:
    """Spans: the rows that copy, and those that do not; the first two rows have nothing to choose between."""
    triggers = task.is_trigger(ids)
    later = np.arange(len(ids)) >= 2
    return Prompt.of_tokens(
        ids.tolist(), spans={"trigger": triggers & later, "other": ~triggers & later}, id=name
    )


def _values(metric: Any) -> np.ndarray:
    """One head per layer: its value in each prompt, ``[prompt, layer]``."""
    found = answers(metric, tokens=False)[0].by_prompt
    values = np.asarray(found.values if found is not None else [])
    return values[..., 0] if values.ndim == 3 else values


__all__ = ["ROWS", "Backcopied", "Training", "measure", "train"]
