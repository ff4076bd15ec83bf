"""Repeated random tokens: the standard input for induction heads (Olsson et al. 2022, arXiv:2209.11895)."""

from typing import Any

import numpy as np

from probe.errors import UsageError
from probe.prompts.prompt import Prompt


def repeated_tokens(
    tokenizer: Any,
    *,
    length: int = 128,
    repeats: int = 2,
    count: int = 4,
    seed: int = 0,
    bos: bool | None = None,
) -> list[Prompt]:
    """`count` prompts of `length` different random tokens said `repeats` times, with spans ``repeat:0``, ….

    Tokens are drawn uniformly, without replacement inside a prompt, from the vocabulary without its special and added
    tokens; the same seed gives the same prompts for the same tokenizer.

    Args:
        tokenizer: whose vocabulary to draw from.
        length: tokens per repetition.
        repeats: how often they are said.
        count: number of prompts.
        seed: of the draw.
        bos: put the tokenizer's BOS first; default: as the tokenizer does by itself.

    Raises:
        UsageError: a size below 1, more tokens than the vocabulary has, or a BOS that the tokenizer does not have.
    """
    allowed = ordinary_tokens(tokenizer)
    if min(length, repeats, count) < 1 or length > len(allowed):
        raise UsageError(
            f"length={length}, repeats={repeats}, count={count} were asked; each must be at least 1 and length at "
            f"most the {len(allowed)} ordinary tokens of the vocabulary"
        )
    front = front_tokens(tokenizer, bos)
    generator = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        drawn = generator.choice(allowed, size=length, replace=False).tolist()
        spans = {
            f"repeat:{turn}": (len(front) + turn * length, len(front) + (turn + 1) * length)
            for turn in range(repeats)
        }
        name = f"repeated:{number}"
        prompts.append(Prompt.of_tokens([*front, *drawn * repeats], tokenizer, spans=spans, id=name))
    return prompts


def ordinary_tokens(tokenizer: Any) -> np.ndarray:
    """Ids of a vocabulary, ascending, without its special and added tokens."""
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    return np.array(sorted(set(tokenizer.get_vocab().values()) - special))


def front_tokens(tokenizer: Any, bos: bool | None) -> list[int]:
    """What stands in front of tokens: BOS or nothing; None: as the tokenizer does by itself."""
    if bos is None:
        added = tokenizer("a", verbose=False)["input_ids"]
        bos = len(added) > 1 and added[0] == tokenizer.bos_token_id
    if not bos:
        return []
    if tokenizer.bos_token_id is None:
        raise UsageError("a BOS token was asked; this tokenizer has none: leave bos out")
    return [int(tokenizer.bos_token_id)]
