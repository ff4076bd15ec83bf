"""The Bigram-Backcopy task: text of a bigram chain in which a few trigger characters copy what came before them."""

from dataclasses import dataclass

import numpy as np

from probe.errors import InputError, UsageError
from probe.prompts.corpus import train_text

BOS = 0


@dataclass(frozen=True, eq=False)
class BigramBackcopy:
    """Characters as tokens, BOS first; the chain P(next | current) and the characters that copy instead.

    x_0 is BOS and x_1 a character that is no trigger. From then on the next token is x_{i-1} where x_i is a trigger,
    and is drawn from P(· | x_i) where it is none. No two triggers ever follow one another. Guo et al. 2024
    (arXiv:2410.13835) take P from tiny Shakespeare; here it is that of the shipped haystack, in lower case.
    """

    alphabet: str  # token t + 1 is alphabet[t]
    chain: np.ndarray  # [token, token], rows sum to 1; BOS is drawn by no row
    triggers: tuple[int, ...]

    @classmethod
    def of(cls, text: str | None = None, triggers: int = 3) -> "BigramBackcopy":
        """The task of a text's bigrams, its `triggers` most frequent characters being the triggers.

        Raises:
            UsageError: fewer than one trigger.
            InputError: fewer than two characters of the text would be no triggers.
        """
        if triggers < 1:
            raise UsageError(f"{triggers} triggers were asked; give at least 1")
        text = (train_text() if text is None else text).lower()
        alphabet = "".join(sorted(set(text)))
        if len(alphabet) < triggers + 2:
            raise InputError(
                f"{triggers} triggers were asked of a text of {len(alphabet)} characters; give a text of more"
            )
        index = {character: token for token, character in enumerate(alphabet, start=1)}
        tokens = np.array([index[character] for character in text])
        counts = np.zeros((len(alphabet) + 1, len(alphabet) + 1))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1.0)
        frequency = np.bincount(tokens, minlength=len(counts)).astype(np.float64)
        # A character that only ends the text, and BOS, go on like the text as a whole.
        chain = np.where(counts.sum(1, keepdims=True) > 0, counts, frequency)
        chosen = np.argsort(-frequency, kind="stable")[:triggers]
        return cls(alphabet, chain / chain.sum(1, keepdims=True), tuple(sorted(int(one) for one in chosen)))

    @property
    def n_tokens(self) -> int:
        """Tokens, BOS included."""
        return len(self.chain)

    def sample(self, count: int, length: int, generator: np.random.Generator) -> np.ndarray:
        """`count` sequences of `length` tokens, int64 ``[count, length]``."""
        cumulative = self.chain.cumsum(1)
        ids = np.zeros((count, length), dtype=np.int64)
        copies = self.is_trigger(np.arange(self.n_tokens))
        start = np.where(copies, 0.0, self.chain[BOS])
        ids[:, 1] = generator.choice(self.n_tokens, size=count, p=start / start.sum())
        for at in range(2, length):
            now = ids[:, at - 1]
            drawn = (generator.random(count)[:, None] < cumulative[now]).argmax(1)
            ids[:, at] = np.where(copies[now], ids[:, at - 2], drawn)
        return ids

    def is_trigger(self, ids: np.ndarray) -> np.ndarray:
        """True where a token is a trigger: its row copies."""
        return np.isin(ids, self.triggers)

    def best_loss(self, ids: np.ndarray) -> np.ndarray:
        """Expected loss in nats of the best prediction of the next token, per row: 0 at triggers, else H(P(· | x))."""
        entropy = -(self.chain * np.log(np.where(self.chain > 0, self.chain, 1.0))).sum(1)
        return np.where(self.is_trigger(ids), 0.0, entropy[ids])
