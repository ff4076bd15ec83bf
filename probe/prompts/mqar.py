"""Multi-query associative recall: keys and values first, then keys alone (Arora et al. 2023, arXiv:2312.04927)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.errors import UsageError
from probe.prompts.prompt import Prompt
from probe.prompts.repeated import front_tokens, ordinary_tokens
from probe.prompts.spans import SpanLike

VOCAB = 8192  # the paper's


@dataclass(frozen=True)
class Recall:
    """One sequence, and what is right in it.

    Attributes:
        prompt: the sequence, with spans ``pairs`` (all keys and values at the front) and ``queries``.
        queries: positions that ask, ascending.
        keys: (query, pass): where the asked key stands among the pairs.
        values: (query, pass): where its value stands, one behind.
        labels: the value that each query asks for.
        choices: all values of the sequence.
    """

    prompt: Prompt
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    choices: np.ndarray


@dataclass(frozen=True)
class RecallTask:
    """Sizes of the task. Raises `UsageError` where they do not fit together.

    Attributes:
        length: tokens of a sequence, BOS apart; even.
        pairs: keys, each with its value, each asked once.
        passes: how often the block of pairs is said.
        power: exponent a of the power law a·g^(a−1) by which slot g behind the pairs is drawn; small: early slots.
        vocab: how many tokens keys and values are drawn from, at most; the half with lower ids are keys.
    """

    length: int = 64
    pairs: int = 8
    passes: int = 1
    power: float = 0.01
    vocab: int = VOCAB

    def __post_init__(self) -> None:
        if min(self.pairs, self.passes) < 1 or self.length % 2 or not self.power > 0:
            raise UsageError(
                f"mqar: length={self.length}, pairs={self.pairs}, passes={self.passes}, power={self.power} were asked; "
                "length must be even, the others above 0"
            )
        need = 2 * self.pairs * (self.passes + 1)
        if self.length < need:
            raise UsageError(
                f"mqar: length was {self.length}; {self.pairs} pairs said {self.passes} times, then asked, need {need}"
            )


def mqar(task: RecallTask, tokenizer: Any, *, count: int = 8, seed: int = 0) -> list[Recall]:
    """`count` seeded sequences: ``k1 v1 k2 v2 …`` (`passes` times), then each key once, random tokens between.

    Keys and values of a sequence are drawn without replacement from two halves of a seeded draw of the tokenizer's
    ordinary tokens. Query slots are drawn without replacement, two tokens each, by the power law. The tokenizer's BOS
    stands in front where it puts one.

    Deviation: the tokens between are never a key of the sequence, so that no key is asked where no label is.

    Raises:
        UsageError: the vocabulary has too few tokens for so many pairs.
    """
    generator = np.random.default_rng(seed)
    ordinary = ordinary_tokens(tokenizer)
    known = np.sort(generator.choice(ordinary, min(task.vocab, len(ordinary)), replace=False))
    half = len(known) // 2
    if count < 1 or half < task.pairs + 1:
        raise UsageError(
            f"mqar: {count} sequences of {task.pairs} pairs were asked; give at least 1, and at most "
            f"{max(0, half - 1)} pairs for {len(known)} tokens"
        )
    front = front_tokens(tokenizer, None)
    return [
        _one(task, known[:half], known[half:], front, generator, number, tokenizer) for number in range(count)
    ]


def _one(
    task: RecallTask, keys: np.ndarray, values: np.ndarray, front: list[int], generator: np.random.Generator,
    number: int, tokenizer: Any,
) -> Recall:  # fmt: skip
    asked = generator.choice(keys, task.pairs, replace=False)
    answers = generator.choice(values, task.pairs, replace=False)
    filler = np.setdiff1d(np.concatenate([keys, values]), asked)
    ids = generator.choice(filler, task.length)
    block = 2 * task.pairs
    context = block * task.passes
    for start in range(0, context, block):
        ids[start : start + block : 2], ids[start + 1 : start + block : 2] = asked, answers
    slots = np.arange(1, (task.length - context) // 2 + 1, dtype=np.float64)
    law = task.power * slots ** (task.power - 1)
    chosen = generator.choice(len(slots), task.pairs, replace=False, p=law / law.sum())
    queries = context + 2 * chosen
    ids[queries] = asked
    order = np.argsort(queries)
    at = len(front) + 2 * order[:, None] + block * np.arange(task.passes)
    where = len(front) + queries[order]
    total = len(front) + task.length
    spans: dict[str, SpanLike] = {
        "pairs": (len(front), len(front) + context),
        "queries": np.isin(np.arange(total), where),
    }
    prompt = Prompt.of_tokens([*front, *ids.tolist()], tokenizer, spans=spans, id=f"mqar:{number}")
    return Recall(prompt, where, at, at + 1, answers[order], answers)
