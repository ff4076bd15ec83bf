"""How an ablation is run: every choice beside the model, the prompts and the interventions."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from probe.analysis.choices import Choices
from probe.analysis.continuation import Decoding
from probe.errors import UsageError


@dataclass(frozen=True)
class AblateOptions(Choices):
    """Choices of one ablation.

    Attributes:
        controls: Random controls to run, each with its own draw of heads. One says nothing about how much draws differ;
            three show it, and keep the whole within five forwards per prompt.
        seed: Seed of the first control's draw (the others take the following ones) and of the intervals.
        new_tokens: Tokens to continue each prompt by, greedily; 0 = none.
        max_tokens: Keep the first so many tokens of every prompt.
        stepwise: Score prompts token by token over the cache, so that interventions on decode steps act.
        level: Level of the intervals over prompts.
        out: Folder for ``ablation.json``.
        device: Where a model that is loaded here runs, such as ``cuda``.
        dtype: What a model that is loaded here computes in, such as ``bfloat16``.
        command: The command line, for the record.
        progress: Called with (done, total, what) after every run of a prompt.
    """

    verb: ClassVar[str] = "ablate"

    controls: int = 3
    seed: int = 0
    new_tokens: int = 20
    max_tokens: int | None = None
    stepwise: bool = False
    level: float = 0.95
    out: str | Path | None = None
    device: str | None = None
    dtype: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        for name in ("controls", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UsageError(f"{name}={value!r} was asked; it must be a whole number from 0")
        if not 0.0 < self.level < 1.0:
            raise UsageError(f"level={self.level!r} was asked; write a number between 0 and 1, such as 0.95")
        Decoding(self.new_tokens)
