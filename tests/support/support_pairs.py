"""Pairs of random tokens, for tests of circuits on tiny models; one position differs between clean and corrupt."""

import numpy as np

from probe.prompts import Prompt
from probe.prompts.pairs import Pair


def random_pairs(vocab: int, count: int = 3, length: int = 9, seed: int = 0) -> list[Pair]:
    """Pairs of one length; the mark ``cue`` is the position that differs. Answers are any two tokens."""
    drawn = np.random.default_rng(seed)
    made = []
    for number in range(count):
        tokens = drawn.integers(3, vocab, size=length).tolist()
        cue = int(drawn.integers(0, length - 1))
        other = list(tokens)
        other[cue] = 3 + (tokens[cue] - 3 + 1 + int(drawn.integers(0, vocab - 4))) % (vocab - 3)
        right, wrong = (int(one) for one in drawn.choice(np.arange(3, vocab), size=2, replace=False))
        clean, corrupt = (
            Prompt.of_tokens(ids, id=f"{number}:{name}")
            for ids, name in ((tokens, "clean"), (other, "corrupt"))
        )
        made.append(Pair(str(number), clean, corrupt, (right,), (wrong,), {"cue": cue}))
    return made
